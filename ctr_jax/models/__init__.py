"""Nets: pure functions from vectors [batch, fields, width] to a logit [batch].

They know nothing of tables. `net.width(dim)` is the width that a table's rows must have; running
statistics live in the collection 'batch_stats' and dropout draws from the stream 'dropout'.
"""

from ctr_jax.models import autoint, dcn, dcnv2, deepfm, dnn, final_mlp, fm, lr

NETS = {
  'lr': lr.LR,
  'fm': fm.FM,
  'dnn': dnn.DNN,
  'deepfm': deepfm.DeepFM,
  'dcn': dcn.DCN,
  'dcnv2': dcnv2.DCNv2,
  'autoint': autoint.AutoInt,
  'autoint_plus': autoint.AutoIntPlus,
  'final_mlp': final_mlp.FinalMLP,
}

"""Nets: pure functions from vectors [batch, fields, width] to a logit [batch].

They know nothing of tables. `net.width(dim)` is the width that a table's rows must have; running
statistics live in the collection 'batch_stats' and dropout draws from the stream 'dropout'.
`net.labels(fields, width)` says which of its parameters are of which fields: see `labels`, `part`;
`net.weighs_all` is true of nets that read vectors by such parameters alone: zeros silence a field.
"""

from functools import partial

from ctr_jax.models import (
  autoint,
  dcn,
  dcnv2,
  deepfm,
  dnn,
  fibinet,
  final_mlp,
  fm,
  fwfm,
  inner_product,
  lr,
  relation,
)

NETS = {
  'lr': lr.LR,
  'fm': fm.FM,
  'fwfm': fwfm.FwFM,
  'dnn': dnn.DNN,
  'deepfm': deepfm.DeepFM,
  'dcn': dcn.DCN,
  'dcnv2': dcnv2.DCNv2,
  'autoint': autoint.AutoInt,
  'autoint_plus': autoint.AutoIntPlus,
  'final_mlp': final_mlp.FinalMLP,
  'fibinet': fibinet.FiBiNET,
  'inner_product': inner_product.ipnn,
  'relation': partial(relation.related, dnn.DNN),
  'relation_deepfm': partial(relation.related, deepfm.DeepFM),
  'relation_dcn': partial(relation.related, dcn.DCN),
  'relation_dcnv2': partial(relation.related, dcnv2.DCNv2),
}

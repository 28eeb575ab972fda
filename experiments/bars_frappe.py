r"""The published recipes of BARS on Frappe_x1: does this codebase reach the leaderboard's numbers?

  python -m experiments.bars_frappe --net=dcn --seeds=5
  python -m experiments.bars_frappe --net=dcn --seeds=5 --mode=rows

Recipe (openbenchmark's BARS, Frappe_x1): embedding dimension 10, batch 4096, Adam 1e-3 over net and
whole tables, loss + (λ/2)‖E‖², gradients clipped at norm 10, [400]*3 with batch norm and dropout,
learning rate × 0.1 after each epoch without a better validation AUC, stop after two such epochs.
`--mode=rows` trains the tables by row-wise Adagrad instead, L2 on the touched rows.

The logs of FinalMLP (misses in epochs 15, 23, 31 and 32) show that its two epochs are two in a row;
here they are two in all, so a run may end earlier. Options are those of the logs: IPNN without
batch norm, FwFM with a linear vector for each id, FiBiNET with one matrix, FinalMLP's gates with
vectors of their own.

The train file of the data read here may be "Frappe_x1, rebuilt train" (see ctr_jax/data/datasets):
then numbers stand beside the leaderboard's, not on it.
"""

from absl import flags

from experiments import common, merging, optimizers, report, trials

# net: (λ in dense mode, options of the net, published test AUC: five-seed mean where there is one)
_RECIPES = {
  'dcn': (0.05, {'dropout': 0.2}, 0.983418),
  'dnn': (0.05, {'dropout': 0.2}, 0.984045),
  'deepfm': (0.05, {'dropout': 0.2}, 0.983947),
  'dcnv2': (0.05, {'dropout': 0.4}, 0.983824),
  'autoint': (0.05, {}, 0.983085),
  'autoint_plus': (0.1, {'dropout': 0.1}, 0.984812),
  'final_mlp': (0.05, {'dropout': 0.4, 'shared': False}, 0.986072),
  'fibinet': (0.05, {'dropout': 0.3, 'bilinear': 'all', 'reduction': 2}, 0.983182),
  'inner_product': (0.05, {'dropout': 0.3, 'batch_norm': False}, 0.984122),
  'fwfm': (5e-6, {'linear': 'feature'}, 0.977585),
  'fm': (5e-6, {}, 0.9671),
  'lr': (1e-5, {}, 0.9356),
}

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.set_default(common.DATA, 'frappe_x1')
_NET = flags.DEFINE_enum('net', 'dcn', list(_RECIPES), 'The net.')
_MODE = flags.DEFINE_enum(
  'mode', 'dense', ['dense', 'rows'], 'dense: the published recipe; rows: row-wise Adagrad.'
)
_ROWS_LR = flags.DEFINE_float('rows_learning_rate', 0.003, 'Of row-wise Adagrad.')
_ROWS_L2 = flags.DEFINE_float('rows_l2', 1.0, 'On the touched rows.')


def trial() -> trials.Trial:
  l2, options, _ = _RECIPES[_NET.value]
  if _MODE.value == 'dense':
    optimizer = optimizers.Optimizer(mode='dense', l2=l2)
  else:
    optimizer = optimizers.Optimizer(rows_learning_rate=_ROWS_LR.value, l2=_ROWS_L2.value)
  return trials.Trial(
    f'{_NET.value}_{_MODE.value}',
    net=_NET.value,
    net_options=options,
    dim=10,
    optimizer=optimizer,
    schedule=common.schedule(epochs=100, batch_size=4096),
  )


def main() -> None:
  source, published = common.source(), _RECIPES[_NET.value][2]

  def result(rows):
    found = common.result('bars_frappe', source, rows, published_auc=published)
    return merging.merged(found, name, ('epochs', 'batch_size'))

  name = f'bars_frappe_{_NET.value}_{_MODE.value}'
  if common.SAVE.value:
    result([])  # Refused before hours of work.
  with common.workdir('bars_frappe') as folder:
    found = result(trials.run(trial(), source, folder, common.seeds()))
    common.save(folder, found, name)
    print(f'\n{report.ladder(found)}\n\npublished test AUC: {published}\n{report.caption(found)}')


if __name__ == '__main__':
  common.run(main)

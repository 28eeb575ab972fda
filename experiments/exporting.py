"""--export: what an experiment has trained, as a folder that is scored without training code."""

from __future__ import annotations

import pathlib

from absl import flags

from ctr_jax.data import columns
from ctr_jax.serve import export, pairs_export
from experiments import common, trials

EXPORT = flags.DEFINE_string(
  'export', None, 'Folder to export the trained model of the first seed to; see `ctr_jax.serve`.'
)


def check(flag: flags.FlagHolder = EXPORT) -> None:
  """Before anything is trained: the folder must not be there.

  Raises:
    FileExistsError: it is.
  """
  if flag.value and pathlib.Path(flag.value).exists():
    raise FileExistsError(
      f'--{flag.name}={flag.value} is there already: remove it, or name another folder.'
    )


def run(
  trial: trials.Trial,
  source: columns.Source,
  workdir: pathlib.Path,
  links=(),
  vectors: pairs_export.Vectors | None = None,
  flag: flags.FlagHolder = EXPORT,
) -> None:
  """Exports what was trained (or its last link), if a flag asks for it.

  Args:
    trial: that was trained in `workdir`.
    source: its data.
    workdir: the folder of all trials.
    links: see `trials.run`; the last one is exported.
    vectors: see `export.write`.
    flag: names the folder.
  """
  if not flag.value:
    return
  link = links[-1][1] if links else None
  found = trials.outcome(trial, source, workdir, common.seeds()[0], link)
  folder = export.write(
    flag.value, found.model, found.rules, found.stored, found.net, source, vectors
  )
  name = links[-1][0] if links else trial.name
  nbytes = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
  print(f'{name} (seed {common.seeds()[0]}) is exported to {folder}: {nbytes:,} bytes of files.')

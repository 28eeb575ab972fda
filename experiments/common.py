"""What every experiment shares: flags, data by name, a locked working folder, result files."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax
from absl import app, flags, logging

from ctr_jax.data import columns, drift, noise, synthetic
from ctr_jax.train import journal, loop, processes
from ctr_jax.train import seeds as seeds_lib
from experiments import cluster

PROJECT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = PROJECT / 'experiments' / 'results'

DATA = flags.DEFINE_string(
  'data',
  'synthetic',
  'synthetic, synthetic_small, synthetic_selection, synthetic_large_ids, synthetic_drift or '
  'synthetic_drift_small (these need nothing), a known set (frappe_x1, ml1m_partial, '
  'yelp_implicit, criteo, avazu), or the path of a schema .toml for your own logs. NAME_wide, such '
  'as frappe_x1_wide, is NAME with 5 noise copies of every feature.',
)
DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  'Folder that holds the raw files of known sets, each in a folder of its name. Default: the '
  'environment variable CTR_JAX_DATA, then ../shared/data if it is there.',
)
ENGINE = flags.DEFINE_enum(
  'engine',
  'duckdb',
  ['duckdb', 'spark'],
  'What encodes data and counts its pairs, where that was not done yet. Both make the same.',
)
WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder for checkpoints, metrics and results; a run that was interrupted goes on from it. '
  'Default: workdir/EXPERIMENT-DATA-FLAGS.',
)
SEEDS = flags.DEFINE_integer(
  'seeds', 1, 'How many seeds to train; means and spreads are over them.'
)
FIRST_SEED = flags.DEFINE_integer(
  'first_seed',
  0,
  'The first seed. Others join those that experiments/results has of a row already.',
)
SEEDS_AT_ONCE = flags.DEFINE_integer(
  'seeds_at_once',
  1,
  'How many seeds of a trial to train at the same time on one device, with the same results.',
  lower_bound=1,
)
SEEDS_FORM = flags.DEFINE_enum(
  'seeds_form',
  'side_by_side',
  sorted(seeds_lib.FORMS),
  'With --seeds_at_once: side_by_side, copies of the step in one program, has the bits of seeds '
  'trained one by one; stacked, one step mapped over all seeds, rounds otherwise.',
)
EPOCHS = flags.DEFINE_integer('epochs', None, 'At most so many epochs. Default: by data set.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Samples per step. Default: by data set.')
CHECKPOINT_STEPS = flags.DEFINE_integer(
  'checkpoint_steps',
  0,
  'A checkpoint every so many steps, beside the one after each epoch.',
  lower_bound=0,
)
DELTAS = flags.DEFINE_integer(
  'deltas',
  0,
  'So many checkpoints after each full one save the rows that have changed since the one before, '
  'and the net; one process only. 0: all are full.',
  lower_bound=0,
)
HIDDEN = flags.DEFINE_list(
  'hidden', None, 'Units of the deep part, as 400,400,400. Default: by data set.'
)
DIM = flags.DEFINE_integer('embedding_dim', None, 'Embedding dimension. Default: by data set.', 1)
SAVE = flags.DEFINE_bool(
  'save_result', False, 'Also write the result to experiments/results, for experiments.tables.'
)
_RESULT = flags.DEFINE_string('result', None, 'Of a bench: also write its result to this file.')
SHARED = flags.DEFINE_bool(
  'shared_workdir',
  False,
  'Other rows of the sweep are trained in --workdir too (launch/sweep.py): result.json is left to '
  'a run without this flag, which finds all rows done.',
)
DEBUG = flags.DEFINE_bool('debug', False, 'Show the whole traceback of an error.')

_SYNTHETIC = {
  'synthetic': synthetic.Synthetic,
  'synthetic_small': lambda: synthetic.Synthetic(synthetic.small()),
  'synthetic_selection': lambda: synthetic.Synthetic(synthetic.selection()),
  'synthetic_large_ids': lambda: synthetic.Synthetic(synthetic.large_ids()),
  'synthetic_drift': drift.Drift,
  'synthetic_drift_small': lambda: drift.Drift(drift.small()),
}
flags.adopt_module_key_flags(cluster)  # So that --help shows them.
# Names of sets that end so are widened, by so many noise copies of every feature.
WIDE, _COPIES = '_wide', 5
# Some choose rows and change none (`only`): what is trained for one choice serves the next.
_NOT_PART_OF_A_RUN = {
  'workdir', 'data_dir', 'engine', 'save_result', 'result', 'shared_workdir', 'debug', 'seeds',
  'first_seed', 'only', 'seeds_at_once', 'seeds_form', 'export', 'export_massive',
  'checkpoint_steps', 'deltas', 'ablation', 'try', 'allowed', 'gain', 'saved', 'write',
}  # fmt: skip


def seeds() -> range:
  """The seeds that the flags ask for."""
  if SEEDS.value < 1:
    raise ValueError(f'--seeds={SEEDS.value}: at least one seed is needed.')
  return range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value)


def groups(seeds: Iterable[int]) -> list[list[int]]:
  """Seeds by those that are trained at once; none, if they are trained one by one.

  Raises:
    ValueError: seeds at once on a mesh, or by several processes.
  """
  size = SEEDS_AT_ONCE.value if flags.FLAGS.is_parsed() else 1
  if size == 1:
    return []
  if cluster.MESH.value or processes.joined():
    raise ValueError(
      f'--seeds_at_once={size}: several seeds are trained at once by one process on one device. '
      'Leave out --mesh, --placement and --processes, or train seeds one by one.'
    )
  seeds = list(seeds)
  found = [seeds[i : i + size] for i in range(0, len(seeds), size)]
  return [group for group in found if len(group) > 1]


def schedule(epochs: int, batch_size: int) -> loop.Schedule:
  """The schedule that the flags ask for, with these defaults where they do not say."""
  return loop.Schedule(
    epochs=epochs if EPOCHS.value is None else EPOCHS.value,
    batch_size=batch_size if BATCH_SIZE.value is None else BATCH_SIZE.value,
    checkpoint_steps=CHECKPOINT_STEPS.value,
    deltas=DELTAS.value,
  )


def source() -> columns.Source:
  """The data that `--data` names; known sets and logs of one's own are encoded on first use.

  Of several processes the first does what is done once; the others wait for it.
  """
  found = _source() if processes.is_first() else None
  processes.together('data')
  return found or _source()


def _source():
  name = DATA.value.removesuffix(WIDE)
  found = _named(name)
  if name == DATA.value:
    return found
  folder = PROJECT / 'workdir' / 'made' / f'noise-{data_name()}-{found.checksum[:16]}'
  return noise.widened(found, folder, _COPIES)


def _named(name):
  if name in _SYNTHETIC:
    return _SYNTHETIC[name]()
  from ctr_jax.data import (
    datasets,  # The ETL engine is loaded only when there is something to read.
  )

  cache = PROJECT / 'workdir' / 'encoded'
  return datasets.open_or_encode(name, DATA_DIR.value, cache, engine_name=ENGINE.value)


def best_possible(data: columns.Source) -> dict[str, Any]:
  """{'best': AUC and log loss of the true probability on test} where it is known, else nothing."""
  if not isinstance(data, synthetic.Synthetic):
    return {}
  return {'best': synthetic.best(data, 'test')}


def data_name() -> str:
  """`--data` as a word for file names."""
  name = DATA.value.removesuffix(WIDE)
  return pathlib.Path(name).stem + WIDE * (name != DATA.value)


def _default_workdir(experiment: str) -> pathlib.Path:
  own = {}
  for module in (f'experiments.{experiment}', 'experiments.common', '__main__'):
    found = flags.FLAGS.get_key_flags_for_module(module)  # With those it adopts from others.
    own |= {f.name: f.value for f in found if f.name not in _NOT_PART_OF_A_RUN}
  digest = hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:8]
  return PROJECT / 'workdir' / f'{experiment}-{data_name()}-{digest}'


def folder(experiment: str) -> pathlib.Path:
  """The working folder that the flags name."""
  return pathlib.Path(WORKDIR.value) if WORKDIR.value else _default_workdir(experiment)


@contextlib.contextmanager
def workdir(experiment: str):
  """The working folder, locked: two runs never write into one, unless both say that they share it.

  Trials are locked one by one, in either case (`trials.train`).
  """
  with locked(folder(experiment), shared=SHARED.value) as found:
    yield found


@contextlib.contextmanager
def locked(folder: pathlib.Path, *, shared: bool = False, wait: bool = False):
  """Holds `folder` for this process; the lock goes with the process, however it ends.

  Args:
    folder: made if it is not there.
    shared: beside others who hold it so.
    wait: for whoever holds it.

  Raises:
    ValueError: another process holds it, and this one does not wait.
  """
  folder.mkdir(parents=True, exist_ok=True)
  if not processes.is_first():  # The first of several holds it for all.
    yield folder
    return
  kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
  with (folder / '.lock').open('a+') as file:
    try:
      fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read().strip() or 'unknown'
      if not wait:
        raise ValueError(
          f'{folder} is in use by another run (process {holder}). Wait for it, or use another '
          '--workdir.'
        ) from None
      journal.say(f'{folder} is in use by another run (process {holder}): waiting for it.')
      fcntl.flock(file, kind)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    yield folder


def environment() -> dict[str, Any]:
  """Where and with what a result was measured."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
  return {
    'date': datetime.date.today().isoformat(),
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'cpu_cores': len(os.sched_getaffinity(0)),
    'load_average': round(os.getloadavg()[2], 1),
    'machine': platform.machine(),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
  }


def command(experiment: str) -> str:
  """The command that made a result, folders of one machine left out, flag files spelt out."""
  hidden = ('workdir', 'data_dir', 'save_result', 'result', 'shared', 'debug', 'export', 'write')
  hidden = (*hidden, 'nosave', 'nodebug')
  given = iter(flags.FLAGS.read_flags_from_files(sys.argv[1:]))
  arguments = []
  for argument in given:
    name, equals, _ = argument.lstrip('-').partition('=')
    if not argument.startswith('-') or not name.startswith(hidden):
      arguments.append(argument)
    elif not equals and name in flags.FLAGS and not flags.FLAGS[name].boolean:
      next(given, None)  # Its value.
  return ' '.join(['python -m', f'experiments.{experiment}', *map(shlex.quote, arguments)])


def result(experiment: str, data: columns.Source, rows: list[dict], **more: Any) -> dict[str, Any]:
  """A result file's content."""
  return {
    'experiment': experiment,
    'command': command(experiment),
    'data': data_name(),
    'title': getattr(data, 'title', data_name()),
    'data_checksum': data.checksum,
    'samples': {s: data.num_samples(s) for s in ('train', 'valid', 'test')},
    'environment': environment(),
    'rows': rows,
    **more,
  }


def save(folder: pathlib.Path, found: dict[str, Any], name: str) -> None:
  """Writes result.json into `folder` and, with --save_result, experiments/results/NAME.json."""
  if SHARED.value:  # The trials have theirs; the result is that of all rows.
    return
  loop.write_json(folder / 'result.json', found)
  if SAVE.value:
    loop.write_json(RESULTS / f'{name}.json', found)


def save_bench(name: str, found: dict[str, Any]) -> None:
  """Writes what --save_result and --result ask for; a quick look replaces no measured result."""
  paths = [RESULTS / f'bench_{name}.json'] if SAVE.value else []
  for path in [*paths, *([pathlib.Path(_RESULT.value)] if _RESULT.value else [])]:
    path.parent.mkdir(parents=True, exist_ok=True)
    loop.write_json(path, found)


def run(main: Callable[[], None]) -> None:
  """Runs an experiment; an error that a user can act on is one sentence, not a traceback."""

  def guarded(argv):
    if len(argv) > 1:
      raise app.UsageError(f'Unknown arguments: {" ".join(argv[1:])}. Flags begin with --.')
    logging.set_verbosity(logging.WARNING)
    try:
      cluster.join()
      with processes.one_for_all():
        main()
    except loop.Interrupted as stop:
      print(stop, file=sys.stderr)
      sys.exit(143)
    except (ValueError, OSError, loop.Diverged) as error:
      if DEBUG.value:
        raise
      print(f'error: {error}', file=sys.stderr)
      sys.exit(1)

  app.run(guarded)

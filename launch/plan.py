"""Where every table goes, how full every device gets and how long a step takes, before any machine.

  python -m launch.plan --schema=clicks.toml --rows=user:1e9,item:1e8,tags:1e4 \\
    --mesh=16x16 --device=v5e
  python -m launch.plan --encoded=workdir/encoded/clicks --mesh=1x8 --device=h200 --dim=64
  python -m launch.plan --schema=launch/trillion.toml --dim=128 --batch_size=65536 --mesh=16x16 \\
    --device=v5e --rules='.*=cast(bfloat16, stochastic)' --compile

A placement is chosen for every table under the memory limit of a device, and explained; bytes of
tables and of optimizer state are exact. Nothing is allocated, so a trillion parameters take as long
as a thousand. The step time is what the stated terms come to (launch/costs.py), not a measurement.
--compile holds the estimate to TPU's own compiler (launch/ahead.py): of a chip's memory it was
0.998 for 16 × v5e (31e9 parameters of DeepFM in float32, 11.3 GB a chip), 0.998 and 0.999 for 256
(384e9 and 77e9 of DCN in bfloat16, rows split over both axes, 3.0 GB, and over one, 9.8 GB), with
as many all-to-alls of as many bytes. Tables whose rows are split over all 256 take it minutes each.

What is printed last is what an experiment is started with.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys

import jax

from ctr_jax import compress, models
from ctr_jax.data import columns, schema
from experiments import budgets, cluster, optimizers, settings
from launch import ahead, choosing, devices, plan_report, planning, techniques

_MOST_ROWS = 1e15


def rows_of(described: schema.Schema, given: dict[str, int]) -> dict[str, int]:
  """Table → rows: given, or as the schema says; row 0, of missing values, is added to neither.

  Raises:
    ValueError: a table's rows are not known, or there is no such table.
  """
  found, unknown = {}, []
  for table, features in described.tables.items():
    rows = given.get(table) or _known(features[0])
    if rows is None:
      unknown.append(table)
    else:
      found[table] = rows
  if unknown:
    example = ','.join(f'{table}:1e6' for table in unknown)
    raise ValueError(f'How many rows have {", ".join(unknown)}? Say so with --rows={example}.')
  strange = sorted(given.keys() - described.tables.keys())
  if strange:
    raise ValueError(
      f'--rows: there is no table {", ".join(strange)}; there are {", ".join(described.tables)}.'
    )
  return found


def _known(feature: schema.Feature) -> int | None:
  """Rows that follow from the schema alone, at most; None for vocabularies of unknown size."""
  if feature.kind == 'numeric':
    return 2
  if feature.kind == 'hash':
    return feature.buckets + 1
  if feature.kind == 'bucket':
    values = {'hour': 24, 'weekday': 7, 'weekend': 2, 'boundaries': len(feature.boundaries) + 1}
    return values[feature.transform] + 1 if feature.transform in values else None
  return None


def _data(options):
  if bool(options.schema) == bool(options.encoded):
    raise ValueError('Give --schema=FILE.toml (with --rows) or --encoded=FOLDER, one of the two.')
  given = dict(map(_size, filter(None, options.rows.split(','))))
  if options.schema:
    described = schema.Schema.from_toml(options.schema)
    return described, rows_of(described, given)
  source = columns.open_columns(options.encoded)
  widths = {f.name: source.width(f.name) for f in source.schema.features if f.kind == 'ids'}
  features = [dataclasses.replace(f, width=widths.get(f.name, 0)) for f in source.schema.features]
  described = dataclasses.replace(source.schema, features=features)
  return described, rows_of(described, dict(source.rows) | given)


def _size(text):
  table, _, number = text.rpartition(':')
  try:
    rows = float(number)
  except ValueError:
    rows = math.nan
  if not table or not 1 <= rows <= _MOST_ROWS:
    raise ValueError(f'--rows={text}: it is TABLE:ROWS, as user:1e9, of 1 to {_MOST_ROWS:g} rows.')
  return table, int(rows)


def _check_numbers(options):
  """Raises a ValueError for numbers that plan nothing."""
  if not re.fullmatch('[1-9][0-9]*x[1-9][0-9]*', options.mesh):
    raise ValueError(f'--mesh={options.mesh}: it is DATAxMODEL, two numbers, as 16x16.')
  if options.hidden and not re.fullmatch('[1-9][0-9]*(,[1-9][0-9]*)*', options.hidden):
    raise ValueError(f'--hidden={options.hidden}: it is the units of each layer, as 1024,512,256.')
  if options.dim < 1:
    raise ValueError(f'--dim={options.dim}: a vector has at least one column.')
  if not 0 <= options.headroom < 1:
    raise ValueError(f'--headroom={options.headroom}: it is a part of the memory, as 0.1, below 1.')
  if not 0 < options.bucket_slack < math.inf:
    raise ValueError(f'--bucket_slack={options.bucket_slack}: it is a multiple, as 1.25.')


def task(options: argparse.Namespace) -> planning.Task:
  """What the flags ask to plan."""
  described, rows = _data(options)
  _check_numbers(options)
  data, model = map(int, options.mesh.split('x'))
  device, chosen = devices.DEVICES[options.device], settings.Settings()
  if options.hidden:
    chosen = settings.Settings(hidden=tuple(map(int, options.hidden.split(','))))
  memory = budgets.parse(options.memory, device.memory) if options.memory else device.memory
  if int(memory * (1 - options.headroom)) < 1:
    raise ValueError(f'--memory={options.memory}: of a device nothing is left for a table.')
  host = device.host_memory * min(data * model, device.hosted)
  host = budgets.parse(options.host_memory, host) if options.host_memory else host
  return planning.Task(
    schema=described,
    rows=rows,
    net=models.NETS[options.net](**chosen.net_options(options.net)),
    dim=options.dim,
    recipe=optimizers.Optimizer(rows=options.optimizer).recipe(),
    batch=options.batch_size,
    mesh={'data': data, 'model': model},
    device=device,
    limit=int(memory * (1 - options.headroom)),
    host_limit=int(host * (1 - options.headroom)),
    rules=(*map(techniques.rule, options.rules), ('.*', compress.identity())),
    placements=tuple(map(cluster.rule, options.placement)),
    slack=options.bucket_slack,
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m launch.plan',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  flag = parser.add_argument
  flag('--schema', help='TOML of a sample (README.md, "Your own logs"); files need not be there')
  flag('--rows', default='', help='TABLE:ROWS,...; hashed, numeric and most bucket tables know it')
  flag('--encoded', help='in place of a schema: a folder of encoded data, which knows its rows')
  flag('--mesh', required=True, help='DATAxMODEL, as 16x16: devices that train together')
  flag('--device', required=True, choices=devices.DEVICES, help='what they are')
  flag('--memory', help='of a device that may be used, as 12GB or 50%%; default: all that can be')
  flag('--host_memory', help='for tables; default: of a usual host with so many devices')
  flag('--headroom', type=float, default=0.1, help='part of either to leave free; default: 0.1')
  flag('--net', default='dcn', choices=sorted(models.NETS), help='default: dcn')
  flag('--hidden', help='units of its deep part, as 1024,512,256')
  flag('--dim', type=int, default=16, help='embedding dimension; default: 16')
  flag('--batch_size', type=int, default=4096, help='samples of a step, of all; default: 4096')
  flag('--optimizer', default='adagrad', choices=optimizers.ROW_OPTIMIZERS, help='default: adagrad')
  flag(
    '--rules', action='append', default=[], metavar='PATTERN=TECHNIQUE',
    help='how tables are stored, as ".*=cast(bfloat16, stochastic)"; may be given several times, '
    'the first that matches wins; default: float32 in full',
  )  # fmt: skip
  flag(
    '--placement', action='append', default=[], metavar='PATTERN=WHERE',
    help='not chosen but so: replicated, rows, columns, host or rows:data+model, for arrays whose '
    'name matches; may be given several times',
  )  # fmt: skip
  flag('--bucket_slack', type=float, default=1.25, help='room in buckets, as for an experiment')
  flag('--compile', action='store_true', help="also ask TPU's compiler; takes minutes")
  flag('--topology', help='for --compile: default DEVICE:DATAxMODEL; for v4 and v5p as v5p:4x4x4')
  return parser


def main(arguments: list[str]) -> int:
  """Runs the command line; its exit status."""
  options = _parser().parse_args(arguments)
  # A plan holds no accelerator, whatever this machine has.
  jax.config.update('jax_platforms', 'cpu')
  found = choosing.plan(task(options))
  print(plan_report.text(found), flush=True)
  if options.compile:
    name = options.topology or f'{options.device}:{options.mesh}'
    print(f"\nCompiling for {name} with TPU's compiler ...", file=sys.stderr, flush=True)
    print(f'\n{plan_report.beside(found, ahead.compiled(found, name), name)}')
  return 0


if __name__ == '__main__':
  try:
    sys.exit(main(sys.argv[1:]))
  except KeyboardInterrupt:
    sys.exit(130)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)

"""What experiments.bench.train_step measured, as Markdown."""

from typing import Any

from experiments import report

NOT_MEASURED = 'not measured'
OURS = 'ctr_jax, row-wise Adagrad'


def count(rows: int) -> str:
  """10000 → 10k."""
  for unit, name in ((10**6, 'M'), (10**3, 'k')):
    if rows >= unit and rows % unit == 0:
      return f'{rows // unit}{name}'
  return str(rows)


def _cell(found, reference) -> str:
  if found is None:
    return '–'
  if found['ms'] is None:
    return NOT_MEASURED
  return f'{found["ms"]:.2f} ms ({found["ms"] / reference:.2f}×)'


def step_table(lines: list[dict[str, Any]]) -> str:
  """Methods down, rows across; ratios to the first method, ours."""
  sizes, names = list(dict.fromkeys(x['rows'] for x in lines)), []
  for line in lines:
    if line['method'] not in names:
      names.append(line['method'])
  at = {(x['method'], x['rows']): x for x in lines}

  def reference(rows):
    return next(x['ms'] for x in lines if x['rows'] == rows and x['method'].startswith(OURS))

  cells = [[n, *(_cell(at.get((n, r)), reference(r)) for r in sizes)] for n in names]
  if 'distinct_rows' in lines[0]:
    touched = {x['rows']: x['distinct_rows'] for x in lines}
    cells.append(['distinct rows in a batch', *(f'{touched[r]:,.0f}' for r in sizes)])
  return report.table(['method', *(f'{count(r)} rows' for r in sizes)], cells)


def memory_table(lines: list[dict[str, Any]]) -> str:
  """Peak memory against what the arrays take."""
  cells = []
  for x in lines:
    start = (str(x['tables']), x['layout'], count(x['rows']))
    if 'error' in x:
      cells.append((*start, '–', '–', '–', x['error']))
    else:
      sizes = (report.size(x[key]) for key in ('bytes', 'peak', 'limit'))
      cells.append((*start, *sizes, 'yes' if x['within'] else 'no'))
  limit = '1.25 × them + 600 MB'
  header = ('tables', 'layout', 'rows', 'tables + optimizer state', 'peak memory', limit, 'within')
  return report.table(header, cells)


def render(found: dict[str, Any]) -> str:
  """All sections as Markdown."""
  parts = []
  for tables in dict.fromkeys(x['tables'] for x in found['steps'] if x['section'] == 'tables'):
    lines = [x for x in found['steps'] if x['section'] == 'tables' and x['tables'] == tables]
    where = 'one table that all features read' if tables == 1 else f'{tables} tables'
    parts += [f'Step time, {where} (rows are the sum over tables):', step_table(lines)]
  lines = [x for x in found['steps'] if x['section'] == 'model']
  if lines:
    title = f'Whole model, DCN with 2 cross layers and 128-128, {count(lines[0]["rows"])} rows:'
    parts += [title, step_table(lines)]
  if found['memory']:
    parts += [
      'Peak memory of a training process (row-wise Adagrad):',
      memory_table(found['memory']),
    ]
  return '\n\n'.join(parts)

r"""A ladder's report as one page of HTML: no script, nothing from elsewhere, readable on a phone.

  python -m experiments.page --ladder=experiments/results/massive_to_compact_frappe_x1.json
  python -m experiments.page --ladder=RESULT.json --page=report.html

The experiment writes it as `report.html` in its working folder; this is for results that are there
already. Without --out it is written beside the result. Dark where the reader's screen is.
"""

from __future__ import annotations

import json
import pathlib
import statistics
from typing import Any
from xml.etree import ElementTree

from absl import app, flags

from experiments import figures, ladder_report, report
from experiments.figures import element

_RESULT = flags.DEFINE_string('ladder', None, 'A result.json of experiments.massive_to_compact.')
_OUT = flags.DEFINE_string('page', None, 'The page. Default: beside the result, as .html.')

_FIELDS = 12  # Bars of more tables than these are one together.
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1a1c20; --dim: #5c626c; --rule: #dfe2e7;
  --one: #9aa3b0; --two: #1668c7; --aside: #b4620f; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --back: #14161a; --ink: #e7e9ec; --dim: #a0a7b2;
  --rule: #333842; --one: #6d7683; --two: #6cb0ff; --aside: #f0a259; --card: #1c1f25; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
p { margin: .5rem 0; }
.note, footer { color: var(--dim); font-size: .875rem; }
.verdict { background: var(--card); border-left: 4px solid var(--two); padding: .75rem 1rem; }
section { margin: 1.5rem 0; min-width: 0; }
.figures { display: grid; gap: 0 2.5rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 52rem) { .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: collapse; font-size: .875rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--dim); font-weight: 600; }
th:first-child { position: sticky; left: 0; background: var(--back); text-align: left;
  font-weight: 600; border-right: 1px solid var(--rule); }
@media (max-width: 40rem) { th:first-child { white-space: normal; min-width: 7.5rem; } }
ol, ul { margin: .5rem 0; padding-left: 1.6rem; font-size: .875rem; }
.key { padding: 0; list-style: none; display: flex; gap: 1.2rem; }
.key li::before { content: ""; display: inline-block; width: .8rem; height: .8rem;
  border-radius: 2px; margin-right: .4rem; background: var(--one); }
.key li.after::before { background: var(--two); }
code { overflow-wrap: anywhere; }
svg { display: block; height: auto; max-width: 36rem; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; }
svg .axis { fill: var(--dim); font-size: 10px; }
svg .number { font-weight: 700; }
svg .value { fill: var(--dim); }
.grid { stroke: var(--rule); }
.leader { stroke: var(--dim); stroke-width: .5; }
.stairs { fill: none; stroke: var(--two); stroke-width: 1.5; }
.best { stroke: var(--dim); stroke-dasharray: 2 3; }
circle.rung { fill: var(--two); }
circle.aside { fill: var(--back); stroke: var(--aside); stroke-width: 2; }
.error.rung { stroke: var(--two); }
.error.aside { stroke: var(--aside); }
.before { fill: var(--one); }
.after { fill: var(--two); }
"""


def ladder(found: dict[str, Any]) -> str:
  """The page of a result of experiments.massive_to_compact."""
  title = f'Massive to compact on {found.get("title", found["data"])}'
  body = [
    element('h1', title),
    element('p', _sentence(ladder_report.verdict(found)), class_='verdict'),
    element('div', _stairs(found), _fields(found), *_speeds(found), class_='figures'),
    *[_table(table) for table in ladder_report.tables(found)],
    element('footer', _code(report.caption(found))),
  ]
  return document(title, body)


def document(title: str, body: list[ElementTree.Element]) -> str:
  """A whole document around a body; names in it are text, whatever they hold."""
  page = element(
    'html',
    element(
      'head',
      element('meta', charset='utf-8'),
      element('meta', name='viewport', content='width=device-width, initial-scale=1'),
      element('title', title),
      element('style', _STYLE),
    ),
    element('body', element('main', body)),
    lang='en',
  )
  return f'<!doctype html>\n{ElementTree.tostring(page, encoding="unicode", method="html")}\n'


def _sentence(text):
  return text[0].upper() + text[1:]


def _code(text):
  """Text with `code` in it."""
  return [element('code', x) if i % 2 else x for i, x in enumerate(text.split('`'))]


def _section(title, *inside, note=''):
  return element('section', element('h2', title), *inside, element('p', note, class_='note'))


def _table(table: ladder_report.Table) -> ElementTree.Element:
  head = element('tr', [element('th', x, scope='col') for x in table.header])
  rows = [
    element('tr', element('th', row[0], scope='row'), [element('td', x) for x in row[1:]])
    for row in table.rows
  ]
  made = element('table', element('thead', head), element('tbody', rows))
  told = {'role': 'region', 'aria_label': table.title}
  scroll = element('div', made, class_='scroll', tabindex='0', **told)
  return _section(table.title, scroll, note=table.note)


def _stairs(found):
  points = []
  for row in found['rows']:
    auc, rung = row['test']['auc'], row['name'] not in report.beside(found)
    spread = statistics.stdev(auc) if len(auc) > 1 else 0.0
    nbytes = ladder_report.serving(row)
    points.append(figures.Point(row['name'], nbytes, statistics.fmean(auc), spread, rung))
  best = (found.get('best') or {}).get('auc')
  names = [
    element('li', f'{p.name}: {p.auc:.5f}, {report.size(p.nbytes)}{"" if p.rung else " (beside)"}')
    for p in points
  ]
  return _section(
    'Down the stairs', figures.staircase(points, best), element('ol', names),
    note='Test AUC of each rung, with its spread over seeds. Rings are beside the ladder.',
  )  # fmt: skip


def _fields(found):
  first, last = found['rows'][0], ladder_report.compact(found)
  one, other = (_parts(row) for row in (first, last))
  names = sorted(one | other, key=lambda n: -max(one.get(n, 0), other.get(n, 0)))
  shown, rest = names[:_FIELDS], names[_FIELDS:]
  bars = [_bar(name, one.get(name), other.get(name)) for name in shown]
  if rest:
    sums = (sum(part.get(name, 0) for name in rest) or None for part in (one, other))
    bars.append(_bar(f'{len(rest)} others', *sums))
  key = _key(first['name'], last['name'])
  return _section(
    'Where the bytes are', key, figures.bars(bars, 'Bytes by table', log=True),
    note='Bytes of each table and of lookups, before and after. Bars are logarithms, from 1 byte.',
  )  # fmt: skip


def _parts(row):
  parts = {name: nbytes for name, nbytes in row['bytes_by_table'].items() if nbytes}
  parts['net (weights)'] = ladder_report.serving(row) - report.total(row)
  lookups = row.get('bytes_lookup')
  return parts | ({'lookups (statistics, node vectors)': lookups} if lookups else {})


def _bar(name, before, after):
  text = ' → '.join(report.size(x) if x else 'none' for x in (before, after))
  return figures.Bar(name, (before, after), text)


def _speeds(found):
  rates = [
    figures.Bar(row['name'], (statistics.median(rate),), f'{report.rate(rate)}/s')
    for row in found['rows']
    if (rate := row.get('score_samples_per_second'))
  ]
  title, note = 'Samples scored a second', 'In batches of a whole split, the median over seeds.'
  made = [_section(title, figures.bars(rates, title, kinds=('after',)), note=note)]
  waits = [_wait(row) for row in found['rows'] if 'latency_p99_ms' in row]
  if waits:
    title, note = 'How long a request waits', 'Of 256 samples, from their columns to their logits.'
    bars = figures.bars(waits, title)
    made.append(_section(title, _key('median', '99th percentile'), bars, note=note))
  return made


def _key(before, after):
  items = [element('li', before, class_='before'), element('li', after, class_='after')]
  return element('ul', items, class_='key')


def _wait(row):
  times = [statistics.fmean(row[f'latency_{p}_ms']) for p in ('p50', 'p99')]
  return figures.Bar(row['name'], tuple(times), '{:.2f}, {:.2f} ms'.format(*times))


def main(argv) -> None:
  if len(argv) > 1 or not _RESULT.value:
    raise app.UsageError('Give --ladder=RESULT.json, and nothing without a flag.')
  source = pathlib.Path(_RESULT.value)
  found = json.loads(source.read_text())
  out = pathlib.Path(_OUT.value) if _OUT.value else source.with_suffix('.html')
  out.write_text(ladder(found))
  print(f'{out}: {out.stat().st_size:,} bytes')


if __name__ == '__main__':
  app.run(main)

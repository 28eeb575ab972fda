"""Rows read in Python are those that DuckDB reads."""

import csv

import pytest

from ctr_jax.data import engine, readers
from ctr_jax.data.schema import Feature, Schema


def both(folder, text, **options):
  """A file's rows, and the malformed ones, by the slow reader; its rows by the fast one."""
  path, bad = folder / 'a.csv', []
  path.write_text(text, newline='')
  layout = readers.layout(Schema('s', (Feature('a'), Feature('b')), label='', **options), path)
  slow = [fields for _, fields in readers.records(layout, lambda *what: bad.append(what))]
  con = engine.connect(folder, '1GB')
  with engine.quiet():
    fast = [[x or '' for x in r.values()] for r in engine.rows(con, readers.scan(con, layout, 'x'))]
  con.con.close()
  return slow, bad, fast


BESIDE_QUOTES = {
  ' "x"': 'x',
  '"x" ': 'x',
  ' "x"   ': 'x',
  '  "x"': '  "x"',
  ' " x "': ' x ',
  ' "x,y" ': 'x,y',
  ' "x""y" ': 'x"y',
  ' "x\ny"  ': 'x\ny',
  ' "x""\n "" , ""\n" ': 'x"\n " , "\n',
  ' ""': '',
  '\t"x"': '\t"x"',
  'x "y"': 'x "y"',
  ' x ': ' x ',
}


@pytest.mark.parametrize('delimiter', [',', '\t', '|', '^'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_spaces_beside_quotes(tmp_path, delimiter, end):
  text, expected = f'a{delimiter}b\n', []
  for cell, value in BESIDE_QUOTES.items():
    if '\t' in (delimiter, cell[0]):
      continue
    for row in ((cell, cell), ('z', cell), (cell, 'z'), ('', cell)):
      text += delimiter.join(row) + '\n'
      expected.append([value if x is cell else x for x in row])
  text = text.replace('\n', end)
  expected = [[x.replace('\n', end) for x in row] for row in expected]
  assert both(tmp_path, text, delimiter=delimiter) == (expected, [], expected)


def test_a_broken_row_leaves_the_next_alone(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('a,b\n1, "x"y\n2, "x" \n "3"z, "\n4, "y"\n')
  layout = readers.layout(Schema('s', (Feature('a'), Feature('b')), label=''), path)
  bad = []
  found = list(readers.records(layout, lambda line, *_: bad.append(line)))
  assert (found, bad) == ([(3, ['2', 'x']), (5, ['4', 'y'])], [2, 4])


def test_empty_fields_at_the_end(tmp_path):
  rows = [['1', 'x'], ['', '']]
  assert both(tmp_path, 'a,b\n1,x,,,\n,,,""\n') == (rows, [], rows)


def test_blank_lines(tmp_path):
  rows = [['1', 'x'], ['2', 'y']]
  assert both(tmp_path, 'a,b\n\n1,x\n\n2,y\n\n') == (rows, [], rows)
  # Where there is one column, a missing value is written so.
  (tmp_path / 'a.csv').write_text('a\n\n1\n""\n\n2\n\n')
  layout = readers.layout(Schema('s', (Feature('a'),), label=''), tmp_path / 'a.csv')
  slow = list(readers.records(layout, lambda *_: None))
  con = engine.connect(tmp_path, '1GB')
  with engine.quiet():
    fast = [x['c0'] or '' for x in engine.rows(con, readers.scan(con, layout, 'x'))]
  con.con.close()
  assert slow == [(line, [x]) for line, x in enumerate(fast, 2)]
  assert fast == ['', '1', '', '', '2', '']


def test_long_fields(tmp_path):
  limit, text = csv.field_size_limit(), 'x' * 200_000
  rows = [['1', text], [text, '2']]
  assert both(tmp_path, f'a,b\n1,{text}\n"{text}",2\n') == (rows, [], rows)
  assert csv.field_size_limit() == limit

"""Requests that no client should send: (name, body, headers), each to be answered with a 4xx."""

import json

import pyarrow as pa

from ctr_jax.serve import bodies

GOOD = {'user': ['u1', 'u2'], 'tags': [['a'], None], 'price': [1.5, 2]}
ROW = {'user': 'u1', 'tags': ['a'], 'price': 1.5}


def stream(table, **options):
  """An Arrow IPC stream."""
  sink = pa.BufferOutputStream()
  written = pa.ipc.IpcWriteOptions(**options)
  with pa.ipc.new_stream(sink, table.schema, options=written) as writer:
    writer.write(table)
  return sink.getvalue().to_pybytes()


def repeated(rows, length):
  """A dictionary's one long text, named by every row: a small body, and a large table."""
  words = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(['x' * length]))
  return pa.table({'user': words, 'tags': pa.nulls(rows), 'price': pa.nulls(rows)})


def growing():
  """Two batches, the second of which adds to the dictionary of the first."""
  tables = []
  for words in (['a'], ['a', 'b']):
    user = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(words))
    tables.append(pa.table({'user': user, 'tags': pa.nulls(1), 'price': pa.nulls(1)}))
  return stream(pa.concat_tables(tables), emit_dictionary_deltas=True)


def hollow(batches):
  """So many batches without rows, and one with two."""
  table = pa.table(GOOD)
  none = pa.RecordBatch.from_arrays([x.slice(0, 0).combine_chunks() for x in table], [*GOOD])
  return stream(pa.Table.from_batches([none] * batches + table.to_batches()))


def overlapping(length):
  """Three columns of texts whose buffers are those of the first."""
  body = bytearray(stream(pa.table({'user': ['x' * length], 'tags': ['y'], 'price': ['z']})))
  # Of each column the metadata has validity, offsets and data, as (offset, length).
  data = body.find(length.to_bytes(8, 'little')) - 8
  for column in (1, 2):
    at = data + 48 * column
    body[at - 16 : at + 16] = body[data - 16 : data + 16]
  return bytes(body)


def _texts():
  """Bodies that are no JSON, or more than JSON."""
  good = json.dumps({'columns': GOOD})
  yield from ('', ' ', '\n', '{', '}', '[', ']', '"', 'nul', 'None', "{'columns': {}}", '\x00', '-')
  yield from ('{"columns"}', '{"columns":}', '{columns: {}}', '{"columns": {},}', '01', '1.', '+1')
  yield from (f'{good}{good}', f'{good},', f'{good[:-1]}', f'{good}\x00', f'// x\n{good}')
  yield from (good[:cut] for cut in range(1, len(good) - 1, 4))
  yield from (f'\ufeff{good}', good.replace('1.5', '1.5.5'), good.replace('"u1"', '"u\n1"'))
  yield from (good.replace('1.5', number) for number in ('.5', '0x10', '1e', '1_0', '--1', '٣'))
  yield from (good.replace('1.5', x) for x in ('NaN', 'Infinity', '-Infinity', 'nan', 'inf'))
  yield from (good.replace('1.5', x) for x in ('1e999', '-1e999', '9' * 30, '9' * 5000, str(2**63)))
  yield from (good.replace('1.5', x) for x in ('true', 'false', '{}', '[]', '["x"]', '"x"', '[[]]'))
  yield from (
    good.replace('"u1"', x) for x in ('"\\ud800"', '"\\udfff\\ud800"', 'false', '{"a":1}')
  )
  yield from (
    good.replace('["a"]', x) for x in ('[null]', '[1.5]', '[["a"]]', '[{}]', '["\\ud83d"]')
  )
  yield from (good.replace('"u1"', x) for x in ('"\\x41"', '"\\u12"', "'u1'", 'u1', '"u1'))
  for depth in (1000, 100_000, 1_000_000):
    yield '[' * depth
    yield '{"a":' * depth
    yield '{"columns": ' + '[' * depth + ']' * depth + '}'
  yield '{"columns": {"user": [1], "user": [2], "tags": [1], "price": [1]}}'
  yield '{"columns": {}, "columns": ' + json.dumps(GOOD) + '}'
  yield '{"rows": [{"user": 1, "tags": null, "price": 1, "price": 2}]}'


def _values():
  """JSON of the wrong shape."""
  yield from (None, True, 0, 1.5, 'columns', [], {}, [GOOD], {'columns': None}, {'columns': []})
  yield from ({'columns': 'user'}, {'columns': 1}, {'columns': {}}, {'Columns': GOOD}, GOOD)
  yield from (
    {'rows': None},
    {'rows': {}},
    {'rows': []},
    {'rows': [[]]},
    {'rows': [1]},
    {'rows': 1},
  )
  yield from ({'rows': [None]}, {'rows': [{}]}, {'rows': [ROW, {}]}, {'rows': [ROW, None]})
  yield from ({'columns': GOOD, 'rows': [ROW]}, {'columns': GOOD, 'x': 1}, {'rows': [ROW], '': 0})
  for name in GOOD:
    yield {'columns': {k: v for k, v in GOOD.items() if k != name}}
    yield {'rows': [{k: v for k, v in ROW.items() if k != name}]}
    for values in (None, 1, 'ab', {}, [], [1], [1, 2, 3], [{}, {}], [True, False], [[[1]], None]):
      yield {'columns': GOOD | {name: values}}
    for value in ({}, True, [[1]], [None], 1e400, 2**64):
      yield {'rows': [ROW, ROW | {name: value}]}
  for name in ('', 'User', 'user ', 'x' * 10_000, '\ud800', '\x00', 'ü', '__class__', 'columns'):
    yield {'columns': GOOD | {name: [1, 2]}}
    yield {'rows': [ROW | {name: 1}]}
  yield {'columns': {name: [] for name in GOOD}}
  yield {'columns': {name: [None] * 101 for name in GOOD}}
  yield {'rows': [ROW] * 101}
  yield {'columns': GOOD | {'price': ['cheap', None]}}


def _streams():
  """Arrow that is broken, or of the wrong shape."""
  good = pa.table(GOOD)
  body = stream(good)
  yield from (body[:cut] for cut in range(1, len(body) - 16, 97))
  yield from (b'ARROW1\x00\x00' + body, body[8:], b'\xff' * 100, b'\x00' * 100, b'[1]', body[::-1])
  yield from (stream(good, compression=kind) for kind in ('lz4', 'zstd'))
  yield stream(good.schema.empty_table())
  yield from (stream(good.drop_columns([name])) for name in GOOD)
  yield stream(good.append_column('more', [[1, 2]]))
  yield stream(pa.Table.from_arrays([*good.columns, good['price']], [*GOOD, 'price']))
  yield stream(pa.table({name: pa.nulls(101) for name in GOOD}))
  yield from (body + b'more', body + body, stream(repeated(100, 200_000)), growing(), hollow(101))
  # A row count that nothing stands behind, and that would be terabytes of Python objects.
  count = (54321).to_bytes(8, 'little')
  counted = stream(pa.table({name: pa.nulls(54321) for name in GOOD}))
  yield counted.replace(count, (1 << 40).to_bytes(8, 'little'))
  for values in (
    pa.array([True, False]),
    pa.array([b'x', b'y']),
    pa.array([1, 2], pa.timestamp('s')),
    pa.array([1, 2], pa.date32()),
    pa.array(['x', 'y'], pa.string_view()),
    pa.array([{'a': 1}, None]),
    pa.array([{f'field_{i}': 1 for i in range(1000)}, None]),
    pa.array([[1.5], [2.5]]),
    pa.array([[2**63], [2]], pa.list_(pa.uint64())),
    pa.array([[['x']], None]),
    pa.array([float('nan'), 1.0]),
    pa.array([float('inf'), 1.0]),
    pa.array([2**63, 1], pa.uint64()),
    pa.array([1, 2]).dictionary_encode(),
    pa.array([1, 1]).cast(pa.decimal128(20)),
    pa.array([b'xx', b'yy'], pa.binary(2)),
    pa.RunEndEncodedArray.from_arrays([2], ['x']),
  ):
    yield stream(good.set_column(0, 'user', values))
  yield stream(pa.table(GOOD | {'price': ['cheap', None]}))
  # A text that is not UTF-8.
  yield body.replace(b'u1u2', b'\xff\xfeu2')


def _headers():
  """Types and encodings that are not understood."""
  good = json.dumps({'columns': GOOD}).encode()
  for kind in (
    None,
    '',
    ';',
    'json',
    'text/json',
    'text/plain',
    'application/xml',
    'application/jsonl',
    'application/json5',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/vnd.apache.arrow.file',
    'application/octet-stream',
    'application/json; charset=latin-1',
    'application/json; charset="utf-16"',
    '*/*',
    'é',
  ):
    yield good, {} if kind is None else {'content-type': kind.encode('latin-1')}
  for encoding in ('gzip', 'br', 'deflate', 'zstd', 'x'):
    yield good, {'content-type': bodies.JSON, 'content-encoding': encoding}
  yield good, {'content-type': bodies.ARROW}
  yield stream(pa.table(GOOD)), {'content-type': bodies.JSON}
  for deadline in ('', '0', '-5', '1e3', 'x', '٣', '9' * 100):
    yield good, {'content-type': bodies.JSON, 'x-deadline-ms': deadline.encode()}


def requests():
  """All of them."""
  json_type, arrow_type = {'content-type': bodies.JSON}, {'content-type': bodies.ARROW}
  for number, text in enumerate(_texts()):
    yield f'text_{number}', text.encode(), json_type
  for number, value in enumerate(_values()):
    yield f'value_{number}', json.dumps(value).encode(), json_type
  for number, body in enumerate(_streams()):
    yield f'stream_{number}', body, arrow_type
  for number, (body, headers) in enumerate(_headers()):
    yield f'header_{number}', body, headers
  good = json.dumps({'columns': GOOD})
  for encoding in ('utf-16', 'utf-32', 'utf-16-le', 'utf-16-be'):
    yield encoding, good.encode(encoding), json_type
  for number, odd in enumerate(
    (b'\xff', b'\xc0\x80', b'\xed\xa0\x80', b'\xf5\x80\x80\x80', b'\x80')
  ):
    yield f'bytes_{number}', good.encode().replace(b'u1', odd), json_type

"""Arrow IPC streams → columns of raw values, and probabilities → a stream.

A stream is a stranger's bytes. Arrow checks that they are well formed; what it would do in good
faith is refused here: to make gigabytes of a few bytes (compressed buffers, a count of rows without
data, buffers that overlap, dictionaries that grow, long texts of one that many rows name), or to
read types that are no raw values.
"""

import collections
import struct
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from ctr_jax.serve import arrow_values, checks
from ctr_jax.serve.limits import Limits, Refused

_TAKEN = 'strings, integers, lists of these, dictionaries of strings, floats and null'


_EMPTY_BATCHES = 100
"""So many batches without rows are taken: each costs time, and nothing bounds them but the body."""

_REPEATED = 2
"""So many times the bytes of a body may its values have, written out row by row."""


def parse(body: bytes, names: Collection[str], limits: Limits) -> tuple[dict[str, list], int]:
  """Columns of a stream, and how many rows they have. Refuses what cannot be read."""
  try:
    _check_messages(body)
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
      _check_schema(reader.schema, names)
      rows, empty, batches = 0, 0, []
      for batch in reader:
        rows += batch.num_rows
        checks.check_rows(max(rows, 1), limits.max_request_rows)
        batch.validate(full=True)
        if batch.num_rows:
          batches.append(batch)
        elif (empty := empty + 1) > _EMPTY_BATCHES:
          raise Refused(422, f'The stream has more than {_EMPTY_BATCHES} batches without rows.')
  except (pa.ArrowException, OSError, EOFError, struct.error, IndexError, UnicodeDecodeError) as e:
    raise Refused(400, f'The body is not an Arrow IPC stream: {_first_line(e)}') from e
  checks.check_rows(rows, limits.max_request_rows)
  return _columns(reader.schema, batches, _REPEATED * limits.max_body_bytes), rows


def _columns(schema, batches, left):
  """The values of all batches; refuses more than `left` bytes of them."""
  columns, texts = {}, {}
  for number, field in enumerate(schema):
    columns[field.name] = found = []
    for batch in batches:
      array = batch.column(number)
      if not pa.types.is_dictionary(field.type):
        left = _less(left, array.nbytes)  # Buffers that overlap are counted each time.
        found += arrow_values.python(array)
        continue
      words = _words(array.dictionary, texts)
      values = [None if i is None else words[i] for i in array.indices.to_pylist()]
      left = _less(left, sum(map(len, filter(None, values))))
      found += values
  return columns


def _words(dictionary, made):
  """A dictionary's texts, made once: `to_pylist` copies them for each batch that names them."""
  where = (len(dictionary), *(b.address if b else 0 for b in dictionary.buffers()))
  if where not in made:
    made[where] = dictionary.to_pylist()
  return made[where]


def _less(left, nbytes):
  """What is left of the bytes that a request's values may have."""
  if nbytes > left:
    raise Refused(
      413,
      'The values of the stream, written out row by row, are much larger than a body may be; send '
      'fewer rows at once.',
    )
  return left - nbytes


def answer(probabilities: np.ndarray, version: str) -> bytes:
  """A stream of one float32 column, `probability`; the schema's metadata names the version."""
  schema = pa.schema([('probability', pa.float32())], metadata={'version': version})
  sink = pa.BufferOutputStream()
  with pa.ipc.new_stream(sink, schema) as writer:
    writer.write_batch(pa.record_batch([pa.array(probabilities, pa.float32())], schema=schema))
  return sink.getvalue().to_pybytes()


def _check_schema(schema, names):
  """Refuses other columns than the model's, and types that are not taken."""
  checks.check_names(schema.names, names)
  for name, times in collections.Counter(schema.names).items():
    if times > 1:
      raise Refused(422, f'The column {checks.shown(name)} stands twice in the stream.')
  for field in schema:
    if not _taken(field.type):
      kind = str(field.type)
      kind = kind if len(kind) <= 60 else f'{kind[:60]}...'
      raise Refused(422, f'Column {field.name!r} is of the Arrow type {kind}; {_TAKEN} are taken.')


def _taken(kind):
  types = pa.types
  if types.is_dictionary(kind):
    return _is_text(kind.value_type)
  if types.is_list(kind) or types.is_large_list(kind):
    return _is_text(kind.value_type) or types.is_integer(kind.value_type)
  number = types.is_integer(kind) or types.is_floating(kind)
  return number or types.is_null(kind) or _is_text(kind)


def _is_text(kind):
  return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _first_line(error):
  line = str(error).splitlines()[0] if str(error) else type(error).__name__
  return line[:200].encode('ascii', 'replace').decode().rstrip('.') + '.'


def _check_messages(body):
  """Refuses compressed buffers and dictionaries that grow, before anything is decoded.

  Arrow's reader tells nobody whether it decompresses, so the few fields that say so are read here,
  from messages whose structure `read_message` has verified.
  """
  source = pa.BufferReader(body)
  reader = pa.ipc.MessageReader.open_stream(source)
  while True:
    try:
      message = reader.read_next_message()
    except StopIteration:
      break
    if message.type in ('record batch', 'dictionary'):
      _check_header(message.metadata.to_pybytes())
  if source.tell() < len(body):
    raise Refused(400, 'The body goes on after the end of its Arrow IPC stream.')


def _check_header(metadata):
  """Refuses a message by what its metadata says.

  In Arrow's Message.fbs: `Message.header` is field 2; a DictionaryBatch holds its RecordBatch as
  field 1, and as field 2 whether it adds to a dictionary: each such message makes all of it anew;
  `RecordBatch.compression` is field 3.
  """
  message = struct.unpack_from('<I', metadata, 0)[0]
  header = _field(metadata, message, 2)
  header_type = metadata[_slot(metadata, message, 1)]
  if header_type == 2:  # DictionaryBatch
    delta = _slot(metadata, header, 2)
    if delta and metadata[delta]:
      raise Refused(422, 'The stream adds to a dictionary; send each dictionary whole.')
    header = _field(metadata, header, 1)
  if _slot(metadata, header, 3):
    raise Refused(422, "The stream's buffers are compressed; send them plain.")


def _slot(buffer, table, field):
  """Where a flatbuffer table holds a field; 0 if it is left out."""
  vtable = table - struct.unpack_from('<i', buffer, table)[0]
  size = struct.unpack_from('<H', buffer, vtable)[0]
  if 4 + 2 * field >= size:
    return 0
  offset = struct.unpack_from('<H', buffer, vtable + 4 + 2 * field)[0]
  return table + offset if offset else 0


def _field(buffer, table, field):
  """Where the table begins that a field refers to."""
  slot = _slot(buffer, table, field)
  if not slot:
    raise struct.error('a message lacks its header')
  return slot + struct.unpack_from('<I', buffer, slot)[0]

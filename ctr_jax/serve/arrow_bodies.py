"""Arrow IPC streams → columns of raw values, and probabilities → a stream.

A stream is a stranger's bytes. Arrow checks that they are well formed; what it would do in good
faith is refused here: to make gigabytes of a few bytes (compressed buffers, a count of rows without
data, views that overlap), or to read types that are no raw values.
"""

import struct
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from ctr_jax.serve import arrow_values, checks
from ctr_jax.serve.limits import Refused

_TAKEN = 'strings, integers, lists of these, dictionaries of strings, floats and null'


def parse(body: bytes, names: Collection[str], max_rows: int) -> tuple[dict[str, list], int]:
  """Columns of a stream, and how many rows they have. Refuses what cannot be read."""
  try:
    _refuse_compressed(body)
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
      _check_schema(reader.schema, names)
      rows, batches = 0, []
      for batch in reader:
        rows += batch.num_rows
        checks.check_rows(max(rows, 1), max_rows)
        batch.validate(full=True)
        batches.append(batch)
  except (pa.ArrowException, OSError, EOFError, struct.error, IndexError, UnicodeDecodeError) as e:
    raise Refused(400, f'The body is not an Arrow IPC stream: {_first_line(e)}') from e
  checks.check_rows(rows, max_rows)
  columns = {}
  for number, field in enumerate(reader.schema):
    texts = {}
    columns[field.name] = [v for b in batches for v in _values(field, b.column(number), texts)]
  return columns, rows


def answer(probabilities: np.ndarray, version: str) -> bytes:
  """A stream of one float32 column, `probability`; the schema's metadata names the version."""
  schema = pa.schema([('probability', pa.float32())], metadata={'version': version})
  sink = pa.BufferOutputStream()
  with pa.ipc.new_stream(sink, schema) as writer:
    writer.write_batch(pa.record_batch([pa.array(probabilities, pa.float32())], schema=schema))
  return sink.getvalue().to_pybytes()


def _check_schema(schema, names):
  """Refuses other columns than the model's, and types that are not taken."""
  if len(set(schema.names)) < len(schema.names):
    twice = next(name for name in schema.names if schema.names.count(name) > 1)
    raise Refused(422, f'The column {checks.shown(twice)} stands twice in the stream.')
  checks.check_names(schema.names, names)
  for field in schema:
    if not _taken(field.type):
      raise Refused(
        422, f'Column {field.name!r} is of the Arrow type {field.type}; {_TAKEN} are taken.'
      )


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


def _values(field, array, texts):
  """Python values of a column of one batch.

  A dictionary's texts are made once, and kept in `texts`: by `to_pylist` a long one would be copied
  for every row, and every batch, that names it.
  """
  if pa.types.is_dictionary(field.type):
    where = tuple(b.address if b else 0 for b in array.dictionary.buffers())
    if where not in texts:
      texts[where] = array.dictionary.to_pylist()
    return [None if i is None else texts[where][i] for i in array.indices.to_pylist()]
  return arrow_values.python(array)


def _first_line(error):
  line = str(error).splitlines()[0] if str(error) else type(error).__name__
  return line[:200].encode('ascii', 'replace').decode().rstrip('.') + '.'


def _refuse_compressed(body):
  """Refuses compressed buffers, before anything is decompressed.

  Arrow's reader tells nobody whether it decompresses, so the few fields that say so are read here,
  from messages whose structure `read_message` has verified.
  """
  reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
  while True:
    try:
      message = reader.read_next_message()
    except StopIteration:
      return
    if message.type in ('record batch', 'dictionary') and _compressed(
      message.metadata.to_pybytes()
    ):
      raise Refused(422, "The stream's buffers are compressed; send them plain.")


def _compressed(metadata):
  """Whether a message's metadata names a compression.

  In Arrow's Message.fbs: `Message.header` is field 2; a DictionaryBatch holds its RecordBatch as
  field 1; `RecordBatch.compression` is field 3.
  """
  message = struct.unpack_from('<I', metadata, 0)[0]
  header = _field(metadata, message, 2)
  header_type = metadata[_slot(metadata, message, 1)]
  if header_type == 2:  # DictionaryBatch
    header = _field(metadata, header, 1)
  return _slot(metadata, header, 3) != 0


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

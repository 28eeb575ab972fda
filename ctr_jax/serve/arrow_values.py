"""Arrow columns → Python values that say what the ETL engine reads in such a column.

Texts, integers and doubles are what they are. A float32 is the double of its own text (`float32`);
decimals, days and times without a zone are texts as DuckDB writes them, bytes are UTF-8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ctr_jax.serve import float32

TAKEN = 'texts, numbers, booleans, decimals, days, times without a zone, bytes and lists of these'


def python(array: pa.Array) -> list[Any]:
  """The values of an array, None where there is none.

  Raises:
    TypeError: the array is of a type that is not `TAKEN`; the message is the type.
  """
  kind, is_ = array.type, pa.types
  if is_.is_float16(kind) or is_.is_float32(kind):
    values = float32.doubles(array.cast(pa.float32()).to_numpy(zero_copy_only=False)).tolist()
    for i in np.flatnonzero(array.is_null()).tolist() if array.null_count else ():
      values[i] = None
    return values
  if is_.is_list(kind) or is_.is_large_list(kind):
    return _lists(array)
  if is_.is_dictionary(kind):
    return python(array.dictionary_decode())
  if is_.is_decimal(kind) and not is_.is_decimal256(kind):
    return _each(lambda x: f'{x:f}', array)
  if is_.is_date(kind):
    return array.cast(pa.date32()).cast(pa.string()).to_pylist()
  if is_.is_time(kind) or (is_.is_timestamp(kind) and kind.tz is None):
    return _each(_short, array.cast(pa.string()))
  if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind):
    return _each(_decoded, array)
  number = is_.is_integer(kind) or is_.is_float64(kind) or is_.is_boolean(kind)
  text = is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind)
  if not (number or text or is_.is_null(kind)):
    raise TypeError(str(kind))
  return array.to_pylist()


def _each(say, array):
  return [None if x is None else say(x) for x in array.to_pylist()]


def _lists(array):
  parts, found, end = python(array.flatten()), [], 0
  for length in array.value_lengths().to_pylist():
    begin, end = end, end + (length or 0)
    found.append(None if length is None else parts[begin:end])
  return found


def _short(time):
  """A time without the zeros at the end of its fraction."""
  return time.rstrip('0').rstrip('.') if '.' in time else time


def _decoded(data):
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    raise TypeError('binary with bytes that are not UTF-8') from error

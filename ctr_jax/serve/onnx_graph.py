"""NumPy's functions, as far as decodes and nets use them, written into an ONNX graph.

A `Graph` takes the place of `np` (`xp` in `techniques` and `nets`), a `Tensor` that of an array:
what is computed with them is written down. Shapes are known but for the batch, which is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
TYPES = {
  'float32': onnx.TensorProto.FLOAT,
  'float16': onnx.TensorProto.FLOAT16,
  'bfloat16': onnx.TensorProto.BFLOAT16,
  'uint8': onnx.TensorProto.UINT8,
  'int32': onnx.TensorProto.INT32,
  'int64': onnx.TensorProto.INT64,
  'bool': onnx.TensorProto.BOOL,
}

Shape = tuple[int | None, ...]


class Tensor:
  """A value of the graph; operators write nodes. The batch is a first axis of None."""

  __array_ufunc__ = None  # So that NumPy leaves `number * tensor` to the tensor.

  def __init__(self, graph: Graph, name: str, shape: Shape, dtype: str):
    self.graph, self.name, self.shape, self.dtype = graph, name, shape, dtype

  def astype(self, dtype) -> Tensor:
    dtype = np.dtype(dtype).name
    if dtype == self.dtype:
      return self
    return self.graph.node('Cast', [self], self.shape, dtype, to=TYPES[dtype])

  def __add__(self, other):
    return self.graph.binary('Add', self, other)

  def __sub__(self, other):
    return self.graph.binary('Sub', self, other)

  def __mul__(self, other):
    return self.graph.binary('Mul', self, other)

  def __truediv__(self, other):
    return self.graph.binary('Div', self, other)

  def __radd__(self, other):
    return self.graph.binary('Add', other, self)

  def __rsub__(self, other):
    return self.graph.binary('Sub', other, self)

  def __rmul__(self, other):
    return self.graph.binary('Mul', other, self)

  def __rtruediv__(self, other):
    return self.graph.binary('Div', other, self)

  def __and__(self, other):
    return self.graph.binary('BitwiseAnd', self, other)

  def __rshift__(self, other):
    return self.graph.binary('BitShift', self, other, direction='RIGHT')

  def __neg__(self):
    return self.graph.node('Neg', [self], self.shape, self.dtype)

  def __matmul__(self, other):
    other = self.graph.constant(other, self.dtype)
    shape = (*_broadcast(self.shape[:-2], other.shape[:-2]), self.shape[-2], other.shape[-1])
    return self.graph.node('MatMul', [self, other], shape, self.dtype)

  def __ne__(self, other):
    if other != 0:
      raise NotImplementedError('Only `!= 0` is written into ONNX graphs.')
    return self.graph.node('Cast', [self], self.shape, 'bool', to=TYPES['bool'])

  __hash__ = None


class Graph:
  """What is written down so far, and NumPy's functions that write more."""

  def __init__(self):
    self.nodes, self.inputs, self.stored = [], [], []
    self._constants: dict[Any, tuple[str, onnx.TensorProto]] = {}

  def input(self, name: str, shape: Shape, dtype: str) -> Tensor:
    """What is fed: its first axis is the batch."""
    named = ['batch' if n is None else n for n in shape]
    self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], named))
    return Tensor(self, name, shape, dtype)

  def array(self, name: str, file: str, shape: Sequence[int], dtype: str) -> Tensor:
    """A stored array: external data, the artifact's own file."""
    tensor = onnx.TensorProto(
      name=name, data_type=TYPES[dtype], dims=shape, data_location=onnx.TensorProto.EXTERNAL
    )
    length = math.prod(shape) * (2 if dtype == 'bfloat16' else np.dtype(dtype).itemsize)
    for key, value in (('location', file), ('offset', 0), ('length', length)):
      tensor.external_data.add(key=key, value=str(value))
    self.stored.append(tensor)
    return Tensor(self, name, tuple(shape), dtype)

  def model(self, output: Tensor, name: str) -> onnx.ModelProto:
    """The model with one output, which is called 'logit'."""
    self.nodes.append(helper.make_node('Identity', [output.name], ['logit']))
    made = helper.make_tensor_value_info('logit', TYPES['float32'], ['batch'])
    constants = [proto for _, proto in self._constants.values()]
    read = {name for node in self.nodes for name in node.input}  # Not so a gate that is one.
    initial = [x for x in (*self.stored, *constants) if x.name in read]
    graph = helper.make_graph(self.nodes, name, self.inputs, [made], initial)
    opset = [helper.make_opsetid('', OPSET)]
    return helper.make_model(graph, opset_imports=opset, producer_name='ctr_jax', ir_version=10)

  def node(self, operation: str, operands, shape: Shape, dtype: str, **attributes) -> Tensor:
    """Writes an operation."""
    name = f'v{len(self.nodes)}'
    names = [x.name for x in operands]
    self.nodes.append(helper.make_node(operation, names, [name], **attributes))
    return Tensor(self, name, shape, dtype)

  def binary(self, operation: str, one, other, **attributes) -> Tensor:
    dtype = one.dtype if isinstance(one, Tensor) else other.dtype
    one, other = (self.constant(x, dtype) for x in (one, other))
    shape = _broadcast(one.shape, other.shape)
    return self.node(operation, [one, other], shape, dtype, **attributes)

  def constant(self, value, dtype: str) -> Tensor:
    """A tensor as it is; a number or an array as a constant."""
    if isinstance(value, Tensor):
      return value
    value = np.asarray(value, dtype)
    key = (value.dtype.name, value.shape, value.tobytes())
    if key not in self._constants:
      name = f'c{len(self._constants)}'
      self._constants[key] = (name, numpy_helper.from_array(value, name))
    return Tensor(self, self._constants[key][0], value.shape, dtype)

  def take(self, x: Tensor, indices, axis: int) -> Tensor:
    axis, at = axis % len(x.shape), self.constant(indices, 'int64')
    shape = (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])
    return self.node('Gather', [x, at], shape, x.dtype, axis=axis)

  def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
    axis %= len(parts[0].shape)
    shape = list(parts[0].shape)
    shape[axis] = sum(x.shape[axis] for x in parts)
    return self.node('Concat', parts, tuple(shape), parts[0].dtype, axis=axis)

  def stack(self, parts: Sequence[Tensor], axis: int) -> Tensor:
    return self.concatenate([self.expand_dims(x, axis) for x in parts], axis)

  def expand_dims(self, x: Tensor, axis: int) -> Tensor:
    axis %= len(x.shape) + 1
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return self.node('Unsqueeze', [x, self.constant([axis], 'int64')], shape, x.dtype)

  def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
    made = self.constant(shape, 'int64')
    # Without -1 there is nothing to find out, and a shape may hold nothing: no pair of one field.
    known = None not in x.shape and -1 in shape
    rest = math.prod(x.shape) // -math.prod(shape) if known else None
    return self.node('Reshape', [x, made], tuple(rest if n == -1 else n for n in shape), x.dtype)

  def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
    return self.node('Transpose', [x], tuple(x.shape[i] for i in axes), x.dtype, perm=axes)

  def pad(self, x: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
    shape = tuple(n if n is None else n + sum(w) for n, w in zip(x.shape, widths, strict=True))
    pads = [before for before, _ in widths] + [after for _, after in widths]
    return self.node('Pad', [x, self.constant(pads, 'int64')], shape, x.dtype)

  def where(self, condition: Tensor, one, other) -> Tensor:
    one, other = (self.constant(x, 'float32') for x in (one, other))
    shape = _broadcast(condition.shape, _broadcast(one.shape, other.shape))
    return self.node('Where', [condition, one, other], shape, one.dtype)

  def maximum(self, one, other) -> Tensor:
    return self.binary('Max', one, other)

  def minimum(self, one, other) -> Tensor:
    return self.binary('Min', one, other)

  def sqrt(self, x: Tensor) -> Tensor:
    return self.node('Sqrt', [x], x.shape, x.dtype)

  def exp(self, x: Tensor) -> Tensor:
    return self.node('Exp', [x], x.shape, x.dtype)

  def sign(self, x: Tensor) -> Tensor:
    return self.node('Sign', [x], x.shape, x.dtype)

  def arctan(self, x: Tensor) -> Tensor:
    return self.node('Atan', [x], x.shape, x.dtype)

  def tanh(self, x: Tensor) -> Tensor:
    return self.node('Tanh', [x], x.shape, x.dtype)

  def sum(self, x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
    return self._reduced('ReduceSum', x, axis, keepdims)

  def max(self, x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
    return self._reduced('ReduceMax', x, axis, keepdims)

  def _reduced(self, operation, x, axis, keepdims):
    axis %= len(x.shape)
    kept = (1,) if keepdims else ()
    shape = (*x.shape[:axis], *kept, *x.shape[axis + 1 :])
    axes = self.constant([axis], 'int64')
    return self.node(operation, [x, axes], shape, x.dtype, keepdims=int(keepdims))


def _broadcast(one: Shape, other: Shape) -> Shape:
  length = max(len(one), len(other))
  one, other = ((1,) * (length - len(x)) + tuple(x) for x in (one, other))
  return tuple(b if a == 1 else a for a, b in zip(one, other, strict=True))

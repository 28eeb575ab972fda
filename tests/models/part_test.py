"""The part of a net: the logits of the whole with zeros for what is left out, and the way back."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ctr_jax import models
from ctr_jax.models import dcn, dnn, part
from tests.models.part_cases import (
  CASES,
  CROSSED,
  DEEP,
  DIM,
  FIELDS,
  FINAL,
  KEPT,
  NETS,
  REFUSED,
  WEIGHED,
  both,
  chosen,
  described,
  evaluate,
  masked,
  shapes,
  trained,
  vectors_for,
)


def test_every_net_is_tested():
  assert models.NETS.keys() == NETS.keys() | REFUSED.keys()


@pytest.mark.parametrize(('name', 'options'), CASES)
def test_the_part_gives_the_logits_of_the_whole_with_zeros(name, options):
  with jax.enable_x64(True):
    net = models.NETS[name](**options)
    variables, vectors = trained(net), vectors_for(net)
    for kept in KEPT:
      found, wanted, small = both(net, variables, kept, vectors)
      np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
      assert described(small) == described(shapes(net, kept))


@pytest.mark.parametrize('name', NETS)
def test_in_float32_it_does_so_to_a_millionth(name):
  net = models.NETS[name](**NETS[name])
  variables = trained(net, dtype=np.float32, scale=0.3)
  vectors = vectors_for(net, dtype=np.float32)
  found, wanted, small = both(net, variables, FIELDS[:3], vectors)
  assert {x.dtype for x in jax.tree.leaves(small)} == {np.dtype(np.float32)}
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(('name', 'options'), CASES)
def test_labels_are_of_the_shapes_of_the_parameters_and_name_all_that_change(name, options):
  net = models.NETS[name](**options)
  for fields in (FIELDS, FIELDS[:1], FIELDS[:3]):
    params = traverse_util.flatten_dict(shapes(net, fields)['params'], sep='/')
    for path, axes in net.labels(fields, net.width(DIM)).items():
      assert len(axes) == len(params[path].shape)
      for size, labels in zip(params[path].shape, axes, strict=True):
        assert labels is None or len(labels) == size
        assert labels is None or max(Counter(labels).values(), default=1) == 1
  whole, small = (
    traverse_util.flatten_dict(shapes(net, fields)['params'], sep='/')
    for fields in (FIELDS, FIELDS[:3])
  )
  changed = {path for path in whole if whole[path].shape != small[path].shape}
  assert changed <= net.labels(FIELDS, net.width(DIM)).keys()


def test_running_statistics_and_layers_behind_the_first_are_taken_as_they_are():
  net = dnn.DNN(**DEEP)
  variables = trained(net, dtype=np.float32)
  small = part.part(net, variables, FIELDS, ('hour', 'user'), DIM)
  assert small['batch_stats'] is variables['batch_stats']
  assert (
    small['params']['mlp']['layer_1']['kernel'] is variables['params']['mlp']['layer_1']['kernel']
  )
  rows = [6, 7, 8, 0, 1, 2]
  np.testing.assert_array_equal(
    small['params']['mlp']['layer_0']['kernel'],
    variables['params']['mlp']['layer_0']['kernel'][np.array(rows)],
  )


@pytest.mark.parametrize(('name', 'options'), CASES)
def test_growing_gives_the_same_logits_and_its_part_is_what_has_grown(name, options):
  few = ('item', 'tags', 'user')
  with jax.enable_x64(True):
    net = models.NETS[name](**options)
    variables, vectors = trained(net, few), vectors_for(net)
    large = part.grown(net, variables, few, FIELDS, net.width(DIM))
    wanted = evaluate(net, variables, chosen(vectors, few))
    seen = vectors if name in WEIGHED else masked(vectors, few)
    found = evaluate(net, large, seen)
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
    again = part.part(net, large, FIELDS, few, net.width(DIM))
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_the_part_of_a_part_is_the_part():
  net = dcn.DCN(**CROSSED)
  with jax.enable_x64(True):
    variables, vectors = trained(net), vectors_for(net)
    some = part.part(net, variables, FIELDS, FIELDS[:3], DIM)
    fewer = part.part(net, some, FIELDS[:3], FIELDS[1:2], DIM)
    found = evaluate(net, fewer, chosen(vectors, FIELDS[1:2]))
    _, wanted, _ = both(net, variables, FIELDS[1:2], vectors)
    np.testing.assert_allclose(found, wanted, rtol=1e-11)


def dcn_params(variables, **changes):
  flat = traverse_util.flatten_dict(variables['params'], sep='/')
  assert changes.keys() <= flat.keys()
  return {**variables, 'params': traverse_util.unflatten_dict(flat | changes, sep='/')}


def test_biases_of_fields_that_leave_a_dcn_stay_as_constants():
  """They matter, and nothing but biases has to change for them."""
  net = dcn.DCN(**CROSSED)
  with jax.enable_x64(True):
    variables, vectors, kept = trained(net), vectors_for(net), FIELDS[:3]
    found, wanted, small = both(net, variables, kept, vectors)
    np.testing.assert_allclose(found, wanted, rtol=1e-11)
    zero = jnp.zeros(DIM)
    biases = {f'cross/bias_{i}': variables['params']['cross'][f'bias_{i}'] for i in range(3)}
    without = {path: jnp.concatenate([x[: 3 * DIM], zero, zero]) for path, x in biases.items()}
    changed = evaluate(net, dcn_params(variables, **without), masked(vectors, kept))
    assert not np.allclose(changed, wanted)
    for i in range(3):
      kernel = variables['params']['cross'][f'kernel_{i}'][: 3 * DIM]
      np.testing.assert_array_equal(small['params']['cross'][f'kernel_{i}'], kernel)
    # What the biases gain in all is nothing: the output does not see it.
    gained = sum(small['params']['cross'][f'bias_{i}'] for i in range(3))
    np.testing.assert_allclose(gained, sum(x[: 3 * DIM] for x in biases.values()), atol=1e-12)


def test_a_dcn_without_weights_for_a_constant_is_refused_unless_there_is_none():
  net = dcn.DCN(**CROSSED)
  variables, kept = trained(net, dtype=np.float32), FIELDS[:2]
  kernel = variables['params']['cross']['kernel_2']
  dead = {'cross/kernel_2': kernel.at[: 2 * DIM].set(0.0)}
  with pytest.raises(ValueError, match='DCN cannot take this part: biases of the fields that go'):
    part.part(net, dcn_params(variables, **dead), FIELDS, kept, DIM)
  none = dead | {f'cross/bias_{i}': jnp.zeros(5 * DIM) for i in range(2)}
  found, wanted, _ = both(
    net, dcn_params(variables, **none), kept, vectors_for(net, dtype=np.float32)
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', REFUSED)
def test_where_zeros_have_a_say_it_is_refused(name):
  options, words = REFUSED[name]
  net = models.NETS[name](**options)
  variables = trained(net, dtype=np.float32)
  with pytest.raises(ValueError, match=words):
    part.part(net, variables, FIELDS, FIELDS[:3], net.width(DIM))


@pytest.mark.parametrize('bilinear', ['all', 'each', 'interaction'])
def test_fibinet_has_parts_that_keep_its_bottleneck_and_its_order(bilinear):
  net = models.NETS['fibinet'](hidden=(5,), reduction=2, bilinear=bilinear)
  with jax.enable_x64(True):
    variables, vectors = trained(net), vectors_for(net)
    for gone in ('user', 'hour'):
      kept = tuple(field for field in FIELDS if field != gone)
      found, wanted, small = both(net, variables, kept, vectors)
      np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
      assert described(small) == described(shapes(net, kept))
  with pytest.raises(ValueError, match='or on their order'):
    part.part(net, variables, FIELDS, FIELDS[::-1], net.width(DIM))
  with pytest.raises(ValueError, match='two fields or more'):
    part.part(net, variables, FIELDS, FIELDS[:1], net.width(DIM))


@pytest.mark.parametrize('bilinear', ['all', 'each', 'interaction'])
def test_fibinet_grows_with_its_bottleneck_where_new_vectors_are_zero(bilinear):
  few, options = FIELDS[:3], {'hidden': (5,), 'reduction': 2, 'bilinear': bilinear}
  with jax.enable_x64(True):
    net = models.NETS['fibinet'](**options)
    variables, vectors = trained(net, few), vectors_for(net)
    for more in (FIELDS, ('noise', *few, 'tags'), FIELDS[:4]):
      order = [FIELDS.index(field) for field in more]
      found = part.grown(net, variables, few, more, net.width(DIM), trained(net, more, scale=0.7))
      assert described(found) == described(shapes(net, more))
      wanted = evaluate(net, variables, chosen(vectors, few))
      seen = masked(vectors, few)[:, order]
      np.testing.assert_allclose(evaluate(net, found, seen), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize('options', [{}, {'gate': ()}, {'gate': None}, {'context2': ()}])
@pytest.mark.parametrize('shared', [True, False])
def test_final_mlp_has_parts_that_keep_what_its_gates_read(shared, options):
  with jax.enable_x64(True):
    net = models.NETS['final_mlp'](**FINAL | {'shared': shared} | options)
    variables, vectors = trained(net), vectors_for(net)
    kept = ('user', 'item', 'tags')
    found, wanted, small = both(net, variables, kept, vectors)
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
    assert described(small) == described(shapes(net, kept))
    large = part.grown(net, small, kept, FIELDS, net.width(DIM))
    assert described(large) == described(variables)
    np.testing.assert_allclose(evaluate(net, large, vectors), found, rtol=1e-11, atol=1e-12)
    if net.gate is not None:
      with pytest.raises(ValueError, match='or on their order'):
        part.part(net, variables, FIELDS, FIELDS[1:], net.width(DIM))
  with pytest.raises(ValueError, match='a stream without layers'):
    part.part(models.NETS['final_mlp'](hidden1=()), variables, FIELDS, kept, DIM)


@pytest.mark.parametrize('name', ['relation', 'relation_deepfm', 'relation_dcn', 'relation_dcnv2'])
def test_an_attentive_relation_is_refused(name):
  net = models.NETS[name](mode='attentive', heads=1, **DEEP)
  with pytest.raises(ValueError, match="in mode 'attentive': its softmax"):
    part.part(net, trained(net, dtype=np.float32), FIELDS, FIELDS[:3], net.width(DIM))


@pytest.mark.parametrize(
  ('fields', 'kept', 'width', 'words'),
  [
    (FIELDS, ('user', 'shop'), DIM, "trained without 'shop'"),
    (FIELDS, ('user', 'user'), DIM, "'user' is named twice"),
    (('user',) * 5, ('user',), DIM, "'user' is named twice"),
    (FIELDS, (), DIM, 'No field of DNN is kept'),
    (FIELDS[:4], ('user',), DIM, r'has the shape \(15, 7\), but for 4 fields of 3 columns'),
    (FIELDS, ('user',), DIM + 1, r'it would be \(20, 7\)'),
  ],
)
def test_what_cannot_be_meant_is_refused(fields, kept, width, words):
  net = dnn.DNN(**DEEP)
  with pytest.raises(ValueError, match=words):
    part.part(net, trained(net, dtype=np.float32), fields, kept, width)


def test_another_net_or_one_without_labels_is_refused():
  net = dnn.DNN(**DEEP)
  variables = trained(net, dtype=np.float32)
  with pytest.raises(ValueError, match="have no 'cross/kernel_0'"):
    part.part(dcn.DCN(**CROSSED), variables, FIELDS, FIELDS[:2], DIM)
  with pytest.raises(ValueError, match='Dense does not say which fields its parameters are of'):
    part.part(models.dnn.nn.Dense(1), variables, FIELDS, FIELDS[:2], DIM)
  with pytest.raises(ValueError, match='Dense does not say which fields its columns are of'):
    part.part(dnn.DNN(interaction=models.dnn.nn.Dense(1)), variables, FIELDS, FIELDS[:2], DIM)
  with pytest.raises(ValueError, match="cannot grow by leaving out 'user'"):
    part.grown(net, variables, FIELDS, (*FIELDS[1:], 'shop'), DIM)

"""An artifact and its delta are the newer one, to the bit; anything else is refused in words."""

import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from ctr_jax import compress, predict, serve
from ctr_jax.serve import artifact, delta, delta_export, export
from ctr_jax.tables import leaf
from tests.serve import cases
from tests.train import snapshots

Q = compress.int_quantize
HALVES = compress.chain(cases.HASH, compress.cast('bfloat16'))
# Trained as it is, or stored by one more link when it is exported: what the ladder does.
TRAINED = {
  'full': ((compress.identity(),), None, 'dcn'),
  'multi_hash': ((compress.multi_hash(11, 2, 'weights'), HALVES), None, 'dnn'),
  'multi_hash_int8': ((cases.HASH, compress.hot_cold(6, cases.HASH)), Q(8), 'fm'),
  'full_int4': ((compress.identity(), compress.low_rank(3)), Q(4, offset=False), 'fm'),
}

DEFAULT = 'multi_hash_int8'


def moved(model, stored, seed):
  """(stored with some rows of each leaf changed, path → those rows)."""
  draw, flat, touched = np.random.default_rng(seed), {}, {}
  for path, x in leaf.flatten(model.codec.plan).items():
    array = np.array(leaf.flatten(stored)[path])
    if x.frozen or path.startswith('agent'):  # Not all tables are touched.
      flat[path] = array
    elif x.by_row:
      touched[path] = np.sort(draw.choice(x.rows, x.rows // 3, replace=False)).astype(np.int32)
      new = array[touched[path]]
      array[touched[path]] = (new.astype(np.float32) * 1.7 + 0.1).astype(array.dtype)
      flat[path] = array
    else:
      flat[path] = array + np.float32(0.25)
  return leaf.unflatten(model.codec.plan, flat), touched


def exported(folder, source, model, rules, stored, net, link):
  if link is not None:
    stored = compress.extend(model.codec.plan, stored, link)
    rules = compress.appended(rules, link)
    model = predict.build(source.schema, source.rows, rules, model.net, cases.DIM)
  return export.write(folder, model, rules, stored, net, source)


def bits(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def small(data, tmp_path_factory):
  """(older artifact, newer one, the delta between them)."""
  root = tmp_path_factory.mktemp('delta')
  model, rules, stored, net = cases.model(data[0], net='lr')
  later, _ = moved(model, stored, 1)
  old = export.write(root / 'old', model, rules, stored, net, data[0])
  new = export.write(root / 'new', model, rules, later, net, data[0])
  return old, new, delta.between(old, new, root / 'delta')


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n == DEFAULT else pytest.mark.long) for n in TRAINED]
)
def test_touched_rows_make_the_artifact_of_a_fresh_export(name, data, tmp_path):
  chains, link, net = TRAINED[name]
  model, rules, stored, net = cases.model(data[0], *chains, net=net)
  later, touched = moved(model, stored, 1)
  other = jax.tree.map(lambda x: x + np.float32(0.01), net)
  old = exported(tmp_path / 'old', data[0], model, rules, stored, net, link)
  fresh = exported(tmp_path / 'fresh', data[0], model, rules, later, other, link)
  made = delta_export.write(tmp_path / 'delta', old, model, later, other, touched, link)
  updated = delta.apply(old, made, tmp_path / 'updated')
  assert bits(updated) == bits(fresh)
  columns = cases.by_column(data[1])
  found, want = serve.open(updated), serve.open(fresh)
  assert found.version == want.version != serve.open(old).version
  np.testing.assert_array_equal(found.predict(columns), want.predict(columns))
  assert (found.predict(columns) != serve.open(old).predict(columns)).any()
  assert bits(delta.between(old, fresh, tmp_path / 'compared')) == bits(made)
  # Nothing of what did not change was written.
  same = [p for p in bits(old) if os.path.samefile(old / p, updated / p)]
  assert {p.parts[0] for p in same} >= {'vocabulary', 'forward.bin'}


def test_a_second_delta_follows_the_first(small, tmp_path):
  old, new, first = small
  back = delta.between(new, old, tmp_path / 'back')
  one = delta.apply(old, first, tmp_path / 'one')
  assert bits(one) == bits(new)
  two = delta.apply(one, back, tmp_path / 'two')
  assert bits(two) == bits(old)
  for base, change in ((old, back), (one, first)):
    with pytest.raises(ValueError, match='in the order in which they were made'):
      delta.apply(base, change, tmp_path / 'never')
  with pytest.raises(FileExistsError, match='is there already'):
    delta.apply(old, first, tmp_path / 'two')
  assert not (tmp_path / 'never').exists()


def test_damage_of_a_delta_is_named(small, tmp_path):
  old, _, made = small
  folder = shutil.copytree(made, tmp_path / 'delta')
  for name in bits(made):
    data = (folder / name).read_bytes()
    for changed in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), None):
      (folder / name).write_bytes(changed) if changed is not None else (folder / name).unlink()
      with pytest.raises((ValueError, FileNotFoundError), match=str(folder / name)):
        delta.apply(old, folder, tmp_path / 'never')
    (folder / name).write_bytes(data)
  assert not (tmp_path / 'never').exists()
  with pytest.raises(ValueError, match='is an artifact and no delta'):
    delta.apply(old, old, tmp_path / 'never')
  with pytest.raises(ValueError, match='does not describe a model'):
    serve.open(made)


def test_interrupted_at_every_write_the_new_artifact_is_whole_or_not_there(
  small, tmp_path, monkeypatch
):
  old, new, made = small
  (tmp_path / 'at').mkdir()
  with snapshots.taken(tmp_path / 'at', tmp_path / 'copies', monkeypatch) as copies:
    delta.apply(old, made, tmp_path / 'at' / 'new')
  whole = [(copy / 'new').exists() for copy in copies]
  assert whole == sorted(whole)
  assert whole.count(False) > 20
  for copy, there in zip(copies, whole, strict=True):
    if there:
      assert bits(copy / 'new') == bits(new)


def test_what_is_no_change_of_the_model_is_refused(small, data, tmp_path):
  old, _, _ = small
  opened = artifact.open_artifact(old)
  name = 'tables/user/way_0'
  rows, values = np.int32([1, 2]), opened.arrays[name][:2]
  for words, path, change in (
    ('has no array', 'tables/none', delta.Change(rows, values)),
    ('ascending', name, delta.Change(rows[::-1], values)),
    ('within', name, delta.Change(np.int32([1, 99]), values)),
    ('it is another model', name, delta.Change(rows, values[:, :0])),
    ('it is another model', name, delta.Change(rows, values.astype(np.float64))),
  ):
    with pytest.raises(ValueError, match=words):
      delta.write(tmp_path / 'never', opened, {path: change})
  another = shutil.copytree(old, tmp_path / 'another')
  text = artifact.text_of(opened.manifest | {'model': opened.manifest['model'] | {'width': 9}})
  (another / 'manifest.json').write_bytes(text)
  with pytest.raises(ValueError, match=r"another differs from .* in 'model'"):
    delta.between(old, another, tmp_path / 'never')
  model, _, stored, net = cases.model(data[0], net='lr')
  with pytest.raises(ValueError, match=r'product_quantize.* stores a row by what is in others too'):
    link = compress.product_quantize(centroids=16, parts=2)
    delta_export.write(tmp_path / 'never', old, model, stored, net, {}, link)
  bad = jax.tree.map(lambda x: x * np.float32(np.nan), stored)
  with pytest.raises(ValueError, match="'user/way_0' are not finite"):
    touched = {'user/way_0': rows}
    delta_export.write(tmp_path / 'never', old, model, bad, net, touched, Q(8))
  assert not (tmp_path / 'never').exists()


@pytest.mark.long
def test_command_line(small, tmp_path):
  old, new, _ = small

  def run(*arguments):
    command = [sys.executable, '-m', 'ctr_jax.serve.delta', f'--artifact={old}', *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)

  made, updated = tmp_path / 'delta', tmp_path / 'updated'
  done = run(f'--new={new}', f'--output={made}')
  assert done.returncode == 0, done.stderr
  assert f'{made}: ' in done.stdout
  assert run(f'--delta={made}', f'--output={updated}').returncode == 0
  assert bits(updated) == bits(new)
  again = run(f'--delta={made}', f'--output={updated}')
  assert again.returncode == 1
  assert again.stderr.startswith('delta: ')
  assert 'is there already' in again.stderr
  assert run(f'--output={updated}').returncode != 0

"""An artifact is whole or refused, by the name of the file; its bytes are those of the plan."""

import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import serve
from ctr_jax.serve import artifact, export
from ctr_jax.tables import leaf
from tests.serve import cases


@pytest.fixture(scope='module')
def made(data):
  return cases.model(data[0], cases.CHAINS['hot_cold_int8'])


@pytest.fixture(scope='module')
def whole(data, made, tmp_path_factory):
  return export.write(tmp_path_factory.mktemp('exported') / 'model', *made, data[0])


@pytest.fixture
def folder(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / 'model')


def files(folder):
  return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def refused(folder, name):
  """Opening it fails with a sentence that names the file."""
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    artifact.open_artifact(folder)
  assert str(folder / name) in str(error.value), error.value
  assert 'again' in str(error.value)


def restored(folder, whole, name):
  shutil.copyfile(whole / name, folder / name)
  artifact.open_artifact(folder)


def test_every_file_truncated_flipped_or_removed(folder):
  for number, name in enumerate(files(folder)):
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    refused(folder, name)
    place = number * 7919 % len(data)
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    refused(folder, name)
    path.unlink()
    refused(folder, name)
    path.write_bytes(data)
  artifact.open_artifact(folder)


def test_files_exchanged(folder, whole):
  arrays = [name for name in files(folder) if name.endswith('.bin')]
  by_size = {}
  for name in arrays:
    data = (folder / name).read_bytes()
    for other in by_size.get(len(data), []):
      if (folder / other).read_bytes() != data:
        os.rename(folder / name, folder / 'kept')
        os.rename(folder / other, folder / name)
        os.rename(folder / 'kept', folder / other)
        with pytest.raises(ValueError, match='is not what was exported'):
          artifact.open_artifact(folder)
        restored_one, restored_two = folder / name, folder / other
        shutil.copyfile(whole / name, restored_one)
        shutil.copyfile(whole / other, restored_two)
        break
    by_size.setdefault(len(data), []).append(name)
  assert any(len(names) > 1 for names in by_size.values())
  artifact.open_artifact(folder)


def test_a_manifest_of_another_artifact(folder, data, tmp_path):
  other = export.write(tmp_path / 'other', *cases.model(data[0]), data[0])
  shutil.copyfile(other / 'manifest.json', folder / 'manifest.json')
  with pytest.raises((ValueError, FileNotFoundError), match=str(folder)):
    artifact.open_artifact(folder)


def test_files_that_do_not_belong(folder):
  (folder / 'net' / 'extra.bin').write_bytes(b'')
  refused(folder, 'net/extra.bin')
  (folder / 'net' / 'extra.bin').unlink()
  (folder / 'net' / 'more').mkdir()
  refused(folder, 'net/more')


def test_links_and_pipes_are_refused(folder, whole):
  name = next(n for n in files(folder) if n.startswith('tables/'))
  (folder / name).unlink()
  (folder / name).symlink_to(whole / name)
  refused(folder, name)
  (folder / name).unlink()
  os.mkfifo(folder / name)
  refused(folder, name)
  (folder / name).unlink()
  restored(folder, whole, name)
  shutil.rmtree(folder / 'net')
  (folder / 'net').symlink_to(whole / 'net')
  refused(folder, 'net')


def forged(folder, change):
  """A manifest that was changed by somebody who knows how checksums are made."""
  manifest = json.loads((folder / 'manifest.json').read_bytes())
  change(manifest)
  (folder / 'manifest.json').write_bytes(artifact.text_of(manifest))


@pytest.mark.parametrize(
  'name', ['../outside.bin', '/etc/passwd', 'tables/../../x.bin', './x.bin', 'a//b', '.hidden', '']
)
def test_names_that_leave_the_folder(folder, name):
  forged(folder, lambda m: m['files'].update({name: {'size': 0, 'sha256': ''}}))
  with pytest.raises(ValueError, match='which is no file of an artifact'):
    artifact.open_artifact(folder)


def test_shapes_that_are_not_those_of_the_files(folder):
  path = 'tables/price'

  def grow(manifest):
    manifest['arrays'][path]['shape'] = [1 << 60, 1 << 60]

  forged(folder, grow)
  with pytest.raises(ValueError, match="the size of 'tables/price' is not that of its file"):
    artifact.open_artifact(folder)


def test_chains_that_are_not_those_of_the_arrays(folder):
  forged(folder, lambda m: m['model']['chains'].update(user=m['model']['chains']['agent']))
  with pytest.raises(ValueError, match=r"the array 'user.*' is"):
    serve.open(folder)


@pytest.mark.parametrize('key', ['files', 'arrays', 'schema', 'model'])
def test_manifests_that_lack_something(folder, key):
  forged(folder, lambda m: m.pop(key))
  with pytest.raises(ValueError, match=r'manifest\.json'):
    serve.open(folder)


@pytest.mark.parametrize(
  ('technique', 'arguments'),
  [
    ('product_quantize', {'centroids': 7, 'parts': 0, 'iterations': 1}),
    ('binary_code', {'block': 0, 'bits': 4, 'strategy': 'skip', 'combine': 'sum', 'seed': 0}),
    ('tensor_train', {'rank': 2, 'cores': 10**5}),
  ],
)
def test_chains_that_no_table_could_have(folder, technique, arguments):
  chain = {'technique': technique, 'arguments': arguments}
  forged(folder, lambda m: m['model']['chains'].update(item=chain))
  with pytest.raises(ValueError, match='does not describe a model'):
    serve.open(folder)


def test_other_formats_and_other_folders(folder, tmp_path):
  forged(folder, lambda m: m.update(format=99))
  with pytest.raises(ValueError, match='has the format 99, and this version reads 1'):
    artifact.open_artifact(folder)
  with pytest.raises(FileNotFoundError, match='is not an exported model'):
    serve.open(tmp_path / 'nothing')
  (folder / 'manifest.json').write_text('[' * 100_000)
  refused(folder, 'manifest.json')


def test_arrays_are_mapped_and_read_only(whole):
  opened = artifact.open_artifact(whole)
  for array in opened.arrays.values():
    assert not array.flags.writeable or not array.size
    assert isinstance(array.base, np.memmap) or not array.size


def test_bytes_of_plan_arrays_and_files(whole, made):
  model, _, stored, variables = made
  tables = {f.table for f in model.features}
  plan = leaf.nbytes({t: model.codec.plan[t] for t in tables})
  arrays = sum(x.nbytes for x in leaf.flatten(stored).values())
  on_disk = sum(p.stat().st_size for p in (whole / 'tables').rglob('*.bin'))
  assert plan == arrays == on_disk
  net = sum(p.stat().st_size for p in (whole / 'net').rglob('*.bin'))
  assert net == sum(np.asarray(x).nbytes for x in leaf.flatten(variables).values())
  scorer = serve.open(whole)
  assert scorer.nbytes == plan + net
  words = sum(p.stat().st_size for p in (whole / 'vocabulary').rglob('*.bin'))
  total = sum(p.stat().st_size for p in whole.rglob('*') if p.is_file())
  sizes = {'tables': plan, 'net': net, 'vocabulary': words, 'lookup': 0, 'vectors': 0}
  assert scorer.manifest['bytes'] == sizes
  more = total - plan - net - words
  assert more <= 0.02 * (plan + net + words) + (64 << 10), more


def test_the_same_model_is_the_same_bytes(whole, made, data, tmp_path):
  again = export.write(tmp_path / 'again', *made, data[0])
  assert files(again) == files(whole)
  for name in files(whole):
    if name not in ('manifest.json', 'forward.bin'):  # The program may name its caller's lines.
      assert (again / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_folder_that_is_there_is_left_alone(whole, made, data):
  before = {name: (whole / name).read_bytes() for name in files(whole)}
  with pytest.raises(FileExistsError, match='is there already'):
    export.write(whole, *made, data[0])
  assert {name: (whole / name).read_bytes() for name in files(whole)} == before


def test_data_that_have_grown_since_are_refused(made, data, tmp_path):
  model, *rest = made
  older = model._replace(rows=model.rows | {'item': model.rows['item'] - 1})
  with pytest.raises(ValueError, match=r"Table 'item' has \d+ rows in the model and \d+ in 'click"):
    export.write(tmp_path / 'model', older, *rest, data[0])
  assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize('part', ['tables', 'net'])
def test_a_model_that_has_diverged_is_refused(made, data, tmp_path, part):
  *how, stored, net = made
  arrays = jax.tree.leaves(stored if part == 'tables' else net)
  largest = max((x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)), key=jnp.size)

  def spoil(x):
    return jnp.asarray(x).at[(-1,) * x.ndim].set(jnp.nan) if x is largest else x

  with pytest.raises(ValueError, match=f'{part}/.* not finite: the training .* diverged'):
    export.write(tmp_path / 'model', *how, *jax.tree.map(spoil, (stored, net)), data[0])
  assert list(tmp_path.iterdir()) == []


def test_an_error_on_the_way_leaves_nothing(made, data, tmp_path, monkeypatch):
  def full(*arguments):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(export.forward, 'program', full)
  with pytest.raises(OSError, match='No space left'):
    export.write(tmp_path / 'model', *made, data[0])
  assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_nothing_that_looks_complete(tmp_path):
  code = """
import os, pathlib, signal, sys
from ctr_jax.serve import writing
with writing.folder(pathlib.Path(sys.argv[1])) as made:
  writing.file(made, 'tables/x.bin', [b'1234'])
  os.kill(os.getpid(), signal.SIGKILL)
"""
  out = tmp_path / 'model'
  done = subprocess.run([sys.executable, '-c', code, str(out)], check=False)
  assert done.returncode == -signal.SIGKILL
  assert not out.exists()
  (left,) = tmp_path.iterdir()
  with pytest.raises(FileNotFoundError, match=r'manifest\.json is missing'):
    artifact.open_artifact(left)
  from ctr_jax.serve import writing

  with writing.folder(out) as made:
    writing.file(made, 'tables/x.bin', [b'1234'])
  assert [p.name for p in tmp_path.iterdir()] == ['model']

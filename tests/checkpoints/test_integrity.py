"""Damaged checkpoints are seen, and full disks leave older ones whole."""

import contextlib
import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import optax
import pytest

from hh_jax import model as model_lib
from hh_jax import sharding, train
from hh_jax.checkpoints import integrity, native
from hh_jax.errors import InputError

CONFIG = model_lib.ModelConfig(
  num_layers=1, d_model=8, num_heads=2, d_mlp=16, vocab_size=12
)
MODEL = model_lib.Transformer(CONFIG)


def state_at(step, mesh, vocab=12):
  model = MODEL
  if vocab != 12:
    model = model_lib.Transformer(
      model_lib.ModelConfig(
        num_layers=1, d_model=64, num_heads=2, d_mlp=16, vocab_size=vocab
      )
    )
  state, _ = train.init_state(
    model.init, optax.adam(1e-3), jax.random.key(step), mesh
  )
  return state.replace(step=jnp.int32(step))


@pytest.fixture(scope='module')
def run_once(tmp_path_factory) -> pathlib.Path:
  path, mesh = tmp_path_factory.mktemp('run'), sharding.make_mesh()
  native.write_card(path, MODEL, 'abc')
  checkpoints = native.Checkpoints(path, keep=2)
  for step in (2, 4):
    checkpoints.save(state_at(step, mesh), {'at': step})
  checkpoints.close()
  return path


@pytest.fixture
def saved(run_once, tmp_path) -> pathlib.Path:
  """A run with checkpoints at steps 2 and 4."""
  return shutil.copytree(run_once, tmp_path / 'run')


def files_of(step: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in step.rglob('*') if p.is_file() and p.parent != step)


def flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def resumed(run: pathlib.Path):
  mesh = sharding.make_mesh()
  with contextlib.closing(native.Checkpoints(run, keep=2)) as checkpoints:
    return checkpoints.restore(state_at(9, mesh))


def test_one_flipped_bit_in_any_file_is_seen(saved):
  step = saved / 'checkpoints' / '4'
  assert integrity.damage(step) is None
  files = files_of(step)
  assert {p.relative_to(step).parts[0] for p in files} == {
    'params', 'train', 'host'
  }  # fmt: skip
  for path in files:
    before = path.read_bytes()
    flip(path)
    reason = integrity.damage(step)
    assert reason == f'{path.relative_to(step)} is not what was written'
    path.write_bytes(before)
  files[0].unlink()
  assert 'No such file' in integrity.damage(step)
  (step / integrity.CHECKSUMS).write_text('{')
  assert 'checksums.json is missing' in integrity.damage(step)


def test_damage_of_other_items_does_not_matter(saved):
  step = saved / 'checkpoints' / '4'
  flip(files_of(step / 'train')[-1])
  assert integrity.damage(step, ('params',)) is None
  assert integrity.damage(step, ('params', 'train')) is not None


def test_each_process_sums_up_and_checks_its_own_files(tmp_path, monkeypatch):
  names = [f'params/ocdbt.process_{i}/d/{x}' for i in (0, 1) for x in 'ab']
  for name in [*names, 'params/d/c', 'train/ocdbt.process_1/d/e']:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(name)
  read, digest = [], integrity._digest
  monkeypatch.setattr(
    integrity, '_digest', lambda p: read.append(p.name) or digest(p)
  )
  shares = []
  for number in (0, 1):
    integrity.seal_share(tmp_path, number)
    shares.append(sorted(read))
    read.clear()
  integrity.seal(tmp_path)
  assert (*shares, read) == (['a', 'b'], ['a', 'b', 'e'], ['c'])
  assert [p.name for p in tmp_path.glob('*.json')] == [integrity.CHECKSUMS]
  assert integrity.damage(tmp_path) is None
  flip(tmp_path / names[0])
  found = [integrity.damage(tmp_path, share=(i, 2)) for i in (0, 1)]
  assert sorted(map(bool, found)) == [False, True]


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(saved, capfd):
  flip(max(files_of(saved / 'checkpoints' / '4'), key=os.path.getsize))
  state, host = resumed(saved)
  assert (int(state.step), host) == (2, {'at': 2})
  said = capfd.readouterr().err
  assert 'checkpoint at step 4 is damaged (' in said
  assert (saved / 'damaged' / '4').is_dir()
  # and step 4 can be saved again
  checkpoints = native.Checkpoints(saved, keep=2)
  checkpoints.save(state_at(4, sharding.make_mesh()), {'at': 4})
  checkpoints.close()
  assert integrity.damage(saved / 'checkpoints' / '4') is None


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(saved):
  for step in ('2', '4'):
    flip(files_of(saved / 'checkpoints' / step)[0])
  for _ in range(2):  # it does not start anew the second time
    with pytest.raises(InputError, match='all checkpoints are damaged'):
      resumed(saved)


def test_other_runs_do_not_start_from_damaged_parameters(saved):
  mesh = sharding.make_mesh()
  flip(files_of(saved / 'checkpoints' / '4' / 'params')[-1])

  def load(step):
    return native.load_params(
      saved, MODEL, mesh, tokenizer_fingerprint='abc', step=step
    )

  with pytest.raises(InputError, match='step 4 is damaged: params/'):
    load(None)
  assert load(2)['embedding'].shape == (12, 8)


def test_an_unfinished_save_is_no_checkpoint(saved):
  step = saved / 'checkpoints' / '4'
  step.rename(step.with_name('4.orbax-checkpoint-tmp'))
  state, _ = resumed(saved)
  assert int(state.step) == 2
  assert not list((saved / 'checkpoints').glob('*tmp*'))


@pytest.mark.parametrize('text', ['{', '[]', '{"model": 3, "tokenizer": ""}'])
def test_a_damaged_card_is_one_line(saved, text):
  (saved / 'model.json').write_text(text)
  with pytest.raises(InputError, match='model.json'):
    native.check_card(saved, MODEL, 'abc')


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 5 MiB."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=5m', 'tmpfs', str(folder)]
  done = subprocess.run(mount, capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f'no small file system without root: {done.stderr.strip()}')
  yield folder
  subprocess.run(['umount', str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
  mesh = sharding.make_mesh()
  checkpoints = native.Checkpoints(small_disk, keep=4)
  with pytest.raises(InputError, match='no space left.*older.*are whole'):
    for step in range(1, 9):  # of 2 MB each
      checkpoints.save(state_at(step, mesh, vocab=8192), {})
  with contextlib.suppress(InputError):
    checkpoints.close()
  left = [p for p in (small_disk / 'checkpoints').iterdir() if p.name.isdigit()]
  assert left and all(integrity.damage(p) is None for p in left)

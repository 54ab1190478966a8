import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hh_jax import model as model_lib
from hh_jax import sharding, train
from hh_jax.checkpoints import native
from hh_jax.errors import InputError

CONFIG = model_lib.ModelConfig(
  num_layers=1, d_model=8, num_heads=2, d_mlp=16, vocab_size=12
)
MODEL = model_lib.Transformer(CONFIG)
TX = optax.adam(1e-3)


def make_state(mesh, seed=0):
  state, _ = train.init_state(MODEL.init, TX, jax.random.key(seed), mesh)
  return state


def save_run(path, mesh):
  state = make_state(mesh).replace(step=jnp.int32(7))
  native.write_card(path, MODEL, 'abc')
  checkpoints = native.Checkpoints(path)
  checkpoints.save(state, {'batches': {'next': 3}, 'totals': {}})
  checkpoints.close()
  return state


def test_restores_all_of_a_state_on_another_mesh(tmp_path):
  four = sharding.make_mesh()
  one = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  state = save_run(tmp_path, four)
  checkpoints = native.Checkpoints(tmp_path)
  assert checkpoints.resumable_step == 7
  for mesh in (four, one):
    other = make_state(mesh, seed=1)
    restored, host = checkpoints.restore(other)
    assert host == {'batches': {'next': 3}, 'totals': {}}
    chex.assert_trees_all_equal(
      jax.device_get(state.params), jax.device_get(restored.params)
    )
    assert int(restored.step) == 7
    np.testing.assert_array_equal(
      *(jax.random.key_data(s.key) for s in (restored, state))
    )
    assert restored.params['embedding'].sharding.mesh.shape == mesh.shape
    chex.assert_trees_all_equal_structs(state.opt_state, restored.opt_state)


def test_params_alone(tmp_path):
  mesh = sharding.make_mesh()
  state = save_run(tmp_path, mesh)
  params = native.load_params(
    tmp_path, MODEL, mesh, tokenizer_fingerprint='abc'
  )
  chex.assert_trees_all_equal(
    jax.device_get(state.params), jax.device_get(params)
  )


def test_what_does_not_fit_is_refused(tmp_path):
  mesh = sharding.make_mesh()
  save_run(tmp_path, mesh)

  def load(config=CONFIG, fingerprint='abc', path=tmp_path):
    model = model_lib.Transformer(config)
    native.load_params(path, model, mesh, tokenizer_fingerprint=fingerprint)

  wide = dataclasses.replace(CONFIG, d_model=16)
  with pytest.raises(InputError, match='d_model 8, this run asks for 16'):
    load(wide)
  with pytest.raises(InputError, match='another tokenizer'):
    load(fingerprint='xyz')
  with pytest.raises(InputError, match='is not a run with a model'):
    load(path=tmp_path / 'nowhere')
  (tmp_path / 'new').mkdir()
  native.write_card(tmp_path / 'new', MODEL, 'abc')
  with pytest.raises(InputError, match='has no checkpoint yet'):
    load(path=tmp_path / 'new')


def save_steps(path, mesh, steps, **kept):
  """A run whose embedding is the step; the steps that are left."""
  state = make_state(mesh)
  native.write_card(path, MODEL, 'abc')
  checkpoints = native.Checkpoints(path, **kept)
  for step in steps:
    params = state.params | {
      'embedding': jnp.full_like(state.params['embedding'], step)
    }
    checkpoints.save(state.replace(step=jnp.int32(step), params=params), {})
  checkpoints.close()
  left = [p.name for p in (path / 'checkpoints').iterdir()]
  return sorted(map(int, left))


@pytest.mark.parametrize(
  ('kept', 'left'),
  [
    ({}, [10]),
    ({'keep': 3}, [6, 8, 10]),
    ({'every': 4}, [4, 8, 10]),
    ({'keep': 2, 'every': 4}, [4, 8, 10]),
  ],
)
def test_what_stays(tmp_path, kept, left):
  mesh = sharding.make_mesh()
  assert save_steps(tmp_path, mesh, range(2, 11, 2), **kept) == left


def test_params_at_a_step(tmp_path):
  mesh = sharding.make_mesh()
  save_steps(tmp_path, mesh, [2, 4, 6], keep=2)

  def embedding(step):
    params = native.load_params(
      tmp_path, MODEL, mesh, tokenizer_fingerprint='abc', step=step
    )
    return float(params['embedding'].mean())

  assert [embedding(step) for step in (4, 6, None)] == [4, 6, 6]
  with pytest.raises(InputError, match='at step 2: there is 4, 6$'):
    embedding(2)


def test_one_network_of_several(tmp_path):
  mesh = sharding.make_mesh()
  wide = dataclasses.replace(CONFIG, num_layers=2)
  other = jax.jit(model_lib.Transformer(wide).init)(jax.random.key(1))
  state = make_state(mesh)
  params = {'policy': state.params, 'value': other}
  native.write_card(tmp_path, MODEL, 'abc')
  checkpoints = native.Checkpoints(tmp_path)
  checkpoints.save(state.replace(params=params), {})
  checkpoints.close()
  policy = native.load_params(
    tmp_path, MODEL, mesh, tokenizer_fingerprint='abc', part='policy'
  )
  chex.assert_trees_all_equal(*jax.device_get((policy, state.params)))
  assert policy['embedding'].sharding.mesh.shape == mesh.shape

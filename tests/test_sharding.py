import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from hh_jax import model as model_lib
from hh_jax import sharding


@pytest.mark.parametrize('size', model_lib.SIZES)
def test_every_parameter_of_every_size_has_a_rule(size):
  for mlp in ('gelu', 'swiglu'):
    config = model_lib.sized(size, vocab_size=2**16, mlp=mlp)
    model = model_lib.Transformer(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    mesh = sharding.make_mesh(fsdp=2, model=2)
    shardings = sharding.tree_shardings(mesh, shapes)
    whole = sum(x.size for x in jax.tree.leaves(shapes))
    a_device = sum(
      np.prod(s.shard_shape(x.shape))
      for x, s in zip(
        jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True
      )
    )
    # the norms are whole everywhere, all else is a quarter
    assert a_device < 0.26 * whole


def test_specs_of_nested_paths():
  assert sharding.spec_for('policy/blocks/mlp_in') == P(
    None, ('fsdp', 'sequence'), 'model'
  )
  assert sharding.spec_for('1/0/mu/value/embedding') == P(
    'model', ('fsdp', 'sequence')
  )
  assert sharding.spec_for('step') == P()
  with pytest.raises(ValueError, match="no sharding rule .* 'blocks/new'"):
    sharding.spec_for('blocks/new')


def test_what_cannot_be_split_is_refused():
  mesh = sharding.make_mesh(fsdp=4)
  with pytest.raises(ValueError, match='batch of 6 is not divisible by fsdp=4'):
    sharding.place(mesh, np.zeros((6, 2)))
  shapes = {'embedding': jax.ShapeDtypeStruct((8, 6), np.float32)}
  with pytest.raises(ValueError, match='embedding: 6 is not divisible by fsdp'):
    sharding.tree_shardings(mesh, shapes)
  with pytest.raises(
    ValueError,
    match='mesh fsdp=3 needs 3 devices, there are 4: fsdp=-1 takes all of them',
  ):
    sharding.make_mesh(fsdp=3)
  with pytest.raises(ValueError, match='mesh fsdp=1 x model=2 needs 2 devices'):
    sharding.make_mesh(fsdp=1, model=2)
  with pytest.raises(
    ValueError,
    match='mesh model=3 needs 3 .* 4: data x sequence x model has to divide 4',
  ):
    sharding.make_mesh(model=3)
  with pytest.raises(ValueError, match='model=8 needs 8 devices, there are 4'):
    sharding.make_mesh(model=8)
  for fsdp in (0, -2):
    with pytest.raises(ValueError, match=f'fsdp={fsdp} is not 1 or more, or'):
      sharding.make_mesh(fsdp=fsdp)


def test_place_splits_rows():
  placed = sharding.place(sharding.make_mesh(), np.arange(8).reshape(4, 2))
  assert [s.data.shape for s in placed.addressable_shards] == [(1, 2)] * 4
  np.testing.assert_array_equal(placed, np.arange(8).reshape(4, 2))


def test_data_splits_rows_and_keeps_a_copy_of_the_parameters():
  mesh = sharding.make_mesh(data=2, fsdp=2)
  placed = sharding.place(mesh, np.arange(8).reshape(4, 2))
  assert [s.data.shape for s in placed.addressable_shards] == [(1, 2)] * 4
  table = jax.ShapeDtypeStruct((6, 8), np.float32)
  (found,) = sharding.tree_shardings(mesh, {'embedding': table}).values()
  assert found.shard_shape(table.shape) == (6, 4)
  with pytest.raises(ValueError, match='6 is not divisible by data=2 x fsdp=2'):
    sharding.place(mesh, np.zeros(6))
  with pytest.raises(ValueError, match='mesh data=0 is not 1 or more'):
    sharding.make_mesh(data=0)


def test_data_alone_goes_from_slice_to_slice(monkeypatch):
  """As far as a machine without TPUs has slices: what JAX is told."""
  devices = jax.devices()
  monkeypatch.setattr(sharding, 'num_slices', lambda devices: 2)
  seen = []

  def lay_out(within, between, devices, **how):
    seen.append((within, between))
    return np.reshape(devices, np.multiply(within, between))

  monkeypatch.setattr(sharding.mesh_utils, 'create_hybrid_device_mesh', lay_out)
  mesh = sharding.make_mesh(data=2, devices=devices)
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'sequence': 1, 'model': 1}
  assert seen == [((1, 2, 1, 1), (2, 1, 1, 1))]
  with pytest.raises(
    ValueError, match='data=1 is not a multiple of 2, the TPU'
  ):
    sharding.make_mesh(devices=devices)


def test_split_follows_the_mesh_of_its_arguments():
  mesh = sharding.make_mesh(fsdp=2, model=2)
  by_row, whole = (jax.NamedSharding(mesh, spec) for spec in (P('fsdp'), P()))
  x = jax.device_put(np.ones((8, 6)), whole)
  out = jax.jit(lambda x: sharding.split(x * 2, 'fsdp'))(x)
  assert out.sharding.is_equivalent_to(by_row, 2)
  # a constant has the mesh of another array; rows that don't divide stay
  zeros = jax.jit(lambda x: sharding.split(x[:4] * 0, 'fsdp', like=x))(x)
  assert zeros.sharding.is_equivalent_to(by_row, 2)
  odd = jax.jit(lambda x: sharding.split(x[:3], 'fsdp'))(x)
  assert odd.shape == (3, 6)


def test_the_layout_for_decoding_is_split_by_model_alone():
  mesh = sharding.make_mesh(fsdp=2, model=2)
  table = jax.NamedSharding(mesh, P('model', 'fsdp'))
  found = sharding.for_decoding({'embedding': table})['embedding']
  assert found.is_equivalent_to(jax.NamedSharding(mesh, P('model')), 2)


def test_split_without_a_mesh_changes_nothing():
  out = jax.jit(lambda x: sharding.split(x, 'fsdp', 'model'))(np.ones((4, 4)))
  assert len(out.sharding.device_set) == 1

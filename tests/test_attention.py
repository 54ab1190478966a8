"""Attention: every implementation is a float64 one, forward and backward."""

import functools

import jax
import jax.extend as jex
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from hh_jax import attention, sharding
from hh_jax.attention import cpu, cudnn
from hh_jax.errors import InputError

B, H, K = 2, 2, 8
MASKS = ('causal', 'segments', 'pairs', 'left-padded')


def packed(name, length, batch=B):
  """Rows as the code has them: who sees whom, with padding but in 'causal'."""
  rng = np.random.default_rng(length)
  segments, branches = np.zeros((2, batch, length), np.int32)
  if name == 'causal':
    return attention.Packed(jnp.array(segments + 1))
  if name == 'left-padded':
    lengths = rng.integers(1, length, size=batch)
    is_real = np.arange(length) >= length - lengths[:, None]
    return attention.Packed(jnp.array(is_real.astype(np.int32)))
  for row in range(batch):
    cuts = np.sort(rng.choice(np.arange(1, length), size=7, replace=False))
    parts = np.searchsorted(cuts, np.arange(length), side='right')
    segments[row] = parts // 3 + 1
    branches[row] = parts % 3
    segments[row, cuts[-1] :] = branches[row, cuts[-1] :] = 0
  branches = jnp.array(branches) if name == 'pairs' else None
  return attention.Packed(jnp.array(segments), branches)


def inputs(length, key=0, shape=(H, K), batch=B):
  shape = (3, batch, length, *shape)
  return jax.random.normal(jax.random.key(key), shape, jnp.float32)


def value_and_grads(impl, q, k, v, mask, columns=None):
  """The output, and the gradients of a sum with random weights."""
  weights = inputs(q.shape[1], 1, q.shape[2:], q.shape[0])[0]

  @jax.jit
  def all_of_them(q, k, v, mask):
    def fn(q, k, v):
      return attention.attend(q, k, v, mask, columns, impl=impl)

    out, pull_back = jax.vjp(fn, q, k, v)
    return out, *pull_back(weights.astype(out.dtype))

  return all_of_them(q, k, v, mask)


def reference(q, k, v, mask, columns=None):
  """The same by numpy in float64."""
  weights = np.float64(inputs(q.shape[1], 1, q.shape[2:], q.shape[0])[0])
  q, k, v = (np.float64(x) for x in (q, k, v))
  segments = np.asarray(mask.segments)
  t = np.arange(segments.shape[1])
  seen = (t[:, None] >= t) & (segments[:, :, None] == segments[:, None])
  if mask.branches is not None:
    branches = np.asarray(mask.branches)
    own = branches[:, :, None] == branches[:, None]
    seen &= own | (branches[:, None] == 0)
  if columns is not None:
    rows = np.arange(len(segments))[:, None]
    seen = seen[:, columns] if isinstance(columns, slice) else seen[
      rows, np.asarray(columns)
    ]  # fmt: skip
  scores = np.einsum('bthk,bshk->bhts', q, k) * q.shape[-1] ** -0.5
  scores = np.where(seen[:, None], scores, -np.inf)
  p = np.exp(scores - scores.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  dp = np.einsum('bthk,bshk->bhts', weights, v)
  ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
  return (
    np.einsum('bhts,bshk->bthk', p, v),
    np.einsum('bhts,bshk->bthk', ds, k),
    np.einsum('bhts,bthk->bshk', ds, q),
    np.einsum('bhts,bthk->bshk', p, weights),
  )


def assert_close(found, wanted, atol=2e-6, rtol=2e-5):
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=atol, rtol=rtol)


@pytest.fixture
def cudnn_by_xla(monkeypatch):
  """What cuDNN is asked for, computed by XLA."""
  call = jax.nn.dot_product_attention

  def by_xla(*args, implementation, **options):
    assert implementation == 'cudnn'
    return call(*args, implementation='xla', **options)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', by_xla)


# 96 is too short for a kernel; 257 is odd, and not whole blocks
@pytest.mark.parametrize('length', [96, 256, 257])
@pytest.mark.parametrize('name', MASKS)
@pytest.mark.parametrize('impl', attention.IMPLEMENTATIONS)
def test_outputs_and_gradients_are_those_of_float64(
  impl, name, length, cudnn_by_xla
):
  mask, (q, k, v) = packed(name, length), inputs(length)
  wanted = reference(q, k, v, mask)
  assert_close(value_and_grads(impl, q, k, v, mask), wanted)


@pytest.mark.parametrize(
  'columns',
  [slice(70, 230), slice(255, None), np.array([[0, 3, 255], [9, 200, 1]])],
  ids=str,
)
@pytest.mark.parametrize('name', ['pairs', 'left-padded'])
@pytest.mark.parametrize('impl', attention.IMPLEMENTATIONS)
def test_queries_of_some_columns(impl, name, columns, cudnn_by_xla):
  mask, (q, k, v) = packed(name, 256), inputs(256)
  rows = np.arange(B)[:, None]
  q = q[:, columns] if isinstance(columns, slice) else q[rows, columns]
  where = columns if isinstance(columns, slice) else jnp.array(columns)
  found = value_and_grads(impl, q, k, v, mask, where)
  assert_close(found, reference(q, k, v, mask, columns))


@pytest.mark.parametrize(
  ('sizes', 'length'),
  [
    ({'fsdp': 2, 'model': 2}, 256),
    ({'fsdp': 1, 'sequence': 4}, 512),
    ({'sequence': 2, 'model': 2}, 300),
  ],
  ids=str,
)
@pytest.mark.parametrize('impl', ['xla', 'cpu', 'cudnn', 'splash'])
def test_four_devices_have_the_numbers_of_one(
  impl, sizes, length, cudnn_by_xla
):
  mesh = sharding.make_mesh(**sizes)
  mask, (q, k, v) = packed('pairs', length), inputs(length)
  wanted = reference(q, k, v, mask)

  def place(x, *axes):
    spec = sharding.fit(mesh, x.shape, *axes)
    return jax.device_put(x, jax.NamedSharding(mesh, spec))

  q, k, v = (place(x, 'fsdp', 'sequence', 'model') for x in (q, k, v))
  mask = jax.tree.map(lambda x: place(x, 'fsdp', 'sequence'), mask)
  found = value_and_grads(impl, q, k, v, mask)
  assert_close(found, wanted)
  spec = sharding.fit(mesh, q.shape, 'fsdp', 'sequence', 'model')
  assert found[0].sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), 4)


def test_any_mask_will_do_causal_or_not():
  length = 4 * cpu.BLOCK
  key = jax.random.key(2)
  mask = jax.random.bernoulli(key, 0.1, (B, length, length))
  mask |= jnp.eye(length, dtype=bool)[None]  # nobody sees nothing
  q, k, v = inputs(length)
  wanted = value_and_grads('xla', q, k, v, mask)
  for impl in ('cpu_blocks', 'splash'):
    assert_close(value_and_grads(impl, q, k, v, mask), wanted)


def test_blocks_that_nothing_sees_are_never_read():
  length = 4 * cpu.BLOCK
  segments = jnp.repeat(jnp.arange(1, 5), cpu.BLOCK)[None].repeat(B, axis=0)
  mask = attention.Packed(segments)
  q, k, v = inputs(length)
  broken = jnp.where(segments[:, :, None, None] == 2, jnp.nan, 1.0)
  out, *grads = value_and_grads('cpu_blocks', q, k * broken, v * broken, mask)
  is_broken = np.asarray(segments == 2)
  for x in (out, *grads):
    assert np.isfinite(np.asarray(x)[~is_broken]).all()
    assert np.isnan(np.asarray(x)[is_broken]).any()


@pytest.mark.parametrize('impl', attention.IMPLEMENTATIONS)
def test_bfloat16_comes_back_as_bfloat16(impl, cudnn_by_xla):
  mask = packed('pairs', 256)
  q, k, v = inputs(256).astype(jnp.bfloat16)
  out = attention.attend(q, k, v, mask, impl=impl)
  full = [x.astype(jnp.float32) for x in (q, k, v)]
  wanted = attention.attend(*full, mask, impl='xla')
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(jnp.float32), wanted, atol=0.03)


def test_kernels_store_no_scores():
  """Of 1,024 tokens and 2 heads they would be 8 MiB, the mask 1 MiB."""
  mask, (q, k, v) = packed('pairs', 1024), inputs(1024)

  def largest(impl):
    jaxpr = jax.make_jaxpr(functools.partial(value_and_grads, impl))(
      q, k, v, mask
    )
    return max(
      x.aval.size for eqn in every_equation(jaxpr.jaxpr) for x in eqn.outvars
    )

  assert largest('xla') == B * H * 1024**2
  assert largest('splash') < B * 1024**2 / 2


def every_equation(jaxpr):
  """Those of inner functions too, but not of a kernel's body."""
  for eqn in jaxpr.eqns:
    yield eqn
    if eqn.primitive.name != 'pallas_call':
      for inner in jex.core.jaxprs_in_params(eqn.params):
        yield from every_equation(inner)


def on(platform, devices=1, sequence=1):
  """An array of a mesh that is not here."""
  device = jax.sharding.AbstractDevice(
    device_kind=platform, num_cores=None, platform=platform
  )
  mesh = jax.sharding.AbstractMesh(
    (1, devices, sequence, 1), sharding.AXES, abstract_device=device
  )
  place = jax.NamedSharding(mesh, P())
  return jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)


@pytest.mark.parametrize(
  ('where', 'wanted'),
  [
    (('cpu',), 'cpu_blocks'),
    (('cpu', 4), 'cpu'),
    (('cpu', 2, 2), 'xla'),
    (('gpu',), 'cudnn'),
    (('tpu', 4), 'splash'),
  ],
)
def test_the_devices_choose(monkeypatch, where, wanted):
  monkeypatch.setattr(cudnn, 'can_run', lambda dtype, head_dim: True)
  how = {'dtype': 'bfloat16', 'head_dim': 64}
  assert attention.resolve('auto', on(*where), **how) == wanted
  assert attention.resolve('xla', on(*where), **how) == 'xla'


def test_what_the_devices_cannot_run_is_refused(monkeypatch):
  how = {'dtype': 'bfloat16', 'head_dim': 64}
  with pytest.raises(InputError, match="'cudnn' needs a GPU, not a CPU"):
    attention.resolve('cudnn', on('cpu'), **how)
  with pytest.raises(InputError, match="'splash' needs a TPU, not a GPU"):
    attention.resolve('splash', on('gpu'), **how)
  # the devices of tests have no compute capability
  assert attention.resolve('auto', on('gpu'), **how) == 'xla'
  with pytest.raises(ValueError, match="'flash' is none of"):
    q, k, v = inputs(4)
    attention.attend(q, k, v, packed('causal', 4), impl='flash')


@pytest.mark.parametrize(
  ('dtype', 'head_dim', 'capability', 'wanted'),
  [
    ('bfloat16', 128, '9.0', True),
    ('bfloat16', 64, '8.0', True),
    ('bfloat16', 64, '7.5', False),
    ('bfloat16', 256, '9.0', False),
    ('bfloat16', 20, '9.0', False),
    ('float32', 64, '9.0', False),
  ],
)
def test_what_cudnn_takes(monkeypatch, dtype, head_dim, capability, wanted):
  class Gpu:
    compute_capability = capability

  monkeypatch.setattr(jax, 'local_devices', lambda: [Gpu])
  assert cudnn.can_run(dtype, head_dim) == wanted

"""Attention: all implementations agree; the one by blocks skips blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import attention

B, H, K = 2, 2, 8
BLOCK = attention.BLOCK


def packed_mask(rng, length):
  """Rows of pairs of random lengths, the last columns padding."""
  segments, branches = np.zeros((2, B, length), np.int32)
  for row in range(B):
    cuts = np.sort(rng.choice(np.arange(1, length), size=7, replace=False))
    parts = np.searchsorted(cuts, np.arange(length), side='right')
    segments[row] = parts // 3 + 1
    branches[row] = parts % 3
    segments[row, cuts[-1] :] = 0
  return attention.causal_mask(jnp.array(segments), jnp.array(branches))


def inputs(length, key=0):
  shape = (3, B, length, H, K)
  return jax.random.normal(jax.random.key(key), shape, jnp.float32)


def value_and_grads(impl, q, k, v, mask):
  weights = inputs(q.shape[1], key=1)[0]

  def loss(q, k, v):
    out = attention.attend(q, k, v, mask, impl=impl)
    return (out * weights).sum(), out

  grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
  return out, *grads


@pytest.mark.parametrize('length', [96, 3 * BLOCK, 8 * BLOCK])
@pytest.mark.parametrize('impl', ['cpu', 'cpu_blocks'])
def test_outputs_and_gradients_equal_the_plain_ones(impl, length):
  mask = packed_mask(np.random.default_rng(length), length)
  q, k, v = inputs(length)
  found = value_and_grads(impl, q, k, v, mask)
  wanted = value_and_grads('xla', q, k, v, mask)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-5)


def test_any_mask_will_do_causal_or_not():
  length = 4 * BLOCK
  key = jax.random.key(2)
  mask = jax.random.bernoulli(key, 0.1, (B, length, length))
  mask |= jnp.eye(length, dtype=bool)[None]  # nobody sees nothing
  q, k, v = inputs(length)
  found = value_and_grads('cpu_blocks', q, k, v, mask)
  wanted = value_and_grads('xla', q, k, v, mask)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-5)


def test_blocks_that_nothing_sees_are_never_read():
  length = 4 * BLOCK
  segments = jnp.repeat(jnp.arange(1, 5), BLOCK)[None].repeat(B, axis=0)
  mask = attention.causal_mask(segments)
  q, k, v = inputs(length)
  broken = jnp.where(segments[:, :, None, None] == 2, jnp.nan, 1.0)
  out, *grads = value_and_grads('cpu_blocks', q, k * broken, v * broken, mask)
  is_broken = np.asarray(segments == 2)
  for x in (out, *grads):
    assert np.isfinite(np.asarray(x)[~is_broken]).all()
    assert np.isnan(np.asarray(x)[is_broken]).any()


def test_bfloat16_comes_back_as_bfloat16():
  length = 4 * BLOCK
  mask = packed_mask(np.random.default_rng(0), length)
  q, k, v = inputs(length).astype(jnp.bfloat16)
  out = attention.attend(q, k, v, mask, impl='cpu_blocks')
  full = [x.astype(jnp.float32) for x in (q, k, v)]
  wanted = attention.attend(*full, mask, impl='xla')
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(jnp.float32), wanted, atol=0.02)


@pytest.mark.parametrize(
  'backend, devices, wanted',
  [('cpu', 1, 'cpu_blocks'), ('cpu', 4, 'cpu'), ('gpu', 1, 'xla')],
)
def test_the_fastest_is_by_blocks_on_one_cpu(
  monkeypatch, backend, devices, wanted
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  assert attention.fastest() == wanted

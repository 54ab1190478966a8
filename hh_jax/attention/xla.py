"""Attention that XLA compiles for any device.

Axis letters: B batch, T query time, S key time, H heads, K head dim.
"""

import jax
import jax.numpy as jnp

from hh_jax.types import Array

MASKED = float(jnp.finfo(jnp.float32).min)


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
  """As attention.attend, with a dense mask; makes scores [B, H, T, S]."""
  scores = jnp.einsum(
    'bthk,bshk->bhts', q, k, preferred_element_type=jnp.float32
  )
  scores = scores * q.shape[-1] ** -0.5
  scores = jnp.where(mask[:, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum('bhts,bshk->bthk', weights, v)


def attend_one(q: Array, keys: Array, values: Array, mask: Array) -> Array:
  """The attention of one token a row to a cache: q [B, H, K] -> [B, H, K].

  keys [B, H, K, S], values [B, H, S, K], mask [B, S]. Products are written as
  sums: bound by the bytes of the cache, which XLA then reads where they lie.
  Barriers keep the rest out of these sums, where it would be done again for
  every entry of a head.
  """
  barrier, f32 = jax.lax.optimization_barrier, jnp.float32
  q = barrier(q.astype(f32) * q.shape[-1] ** -0.5)
  scores = barrier((q[..., None] * keys.astype(f32)).sum(axis=2))
  scores = jnp.where(mask[:, None], scores, MASKED)
  weights = barrier(jnp.exp(scores - scores.max(axis=-1, keepdims=True)))
  out = (weights[..., None] * values.astype(f32)).sum(axis=2)
  return (out / weights.sum(axis=-1, keepdims=True)).astype(values.dtype)

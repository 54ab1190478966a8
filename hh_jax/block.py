"""One block of the transformer, and what its attention keeps of a sequence.

Axis letters: see model.py.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from hh_jax import arrays, attention, sharding
from hh_jax.sizes import ModelConfig
from hh_jax.types import Array

# [B, T, D] -> [B, ...]: which of a layer's vectors to keep (arrays.take_last)
ReadFn = Callable[[Array], Array]


@flax.struct.dataclass
class KVCache:
  """Keys and values of the columns seen so far, of all layers.

  Laid out for decoding: the columns of the keys lie next to each other, so
  that scores are sums of whole rows. Each is one array with a leading L axis,
  or, where all layers are unrolled, a tuple of L arrays: XLA updates these in
  place, and copies the former.
  """

  keys: Any  # dtype of the model, [B, H, K, S] a layer
  values: Any  # the same, [B, H, S, K] a layer


@flax.struct.dataclass
class Context:
  """What all layers share."""

  cos: Array  # float32 [B, T, K/2], rotary tables
  sin: Array
  mask: attention.Mask  # of T columns; with a cache bool [B, 1, S]
  column: Array | None = None  # int32 [], where the cache is written
  keeps_kv: bool = flax.struct.field(pytree_node=False, default=False)

  def at(self, columns: arrays.Columns | None) -> 'Context':
    """The same with the tables of these columns alone."""
    if columns is None:
      return self
    cos, sin = (arrays.take_columns(x, columns) for x in (self.cos, self.sin))
    return self.replace(cos=cos, sin=sin)


def rotary(positions: Array, head_dim: int, base: float):
  """Tables of Su et al. 2021: positions [B, T] -> cos, sin [B, T, K/2]."""
  frequency = base ** (
    -jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  )
  angles = positions[..., None].astype(jnp.float32) * frequency[None, None]
  return jnp.cos(angles), jnp.sin(angles)


def _rotate(x: Array, ctx: Context) -> Array:
  """x [B, T, H, K] turned by its positions."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = ctx.cos[:, :, None], ctx.sin[:, :, None]
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return out.astype(x.dtype)


def rms_norm(x: Array, scale: Array, dtype: jnp.dtype) -> Array:
  """Zhang & Sennrich 2019, in float32: x [B, T, D]."""
  x = x.astype(jnp.float32)
  x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
  return (x * scale[None, None]).astype(dtype)


def _split(x: Array) -> tuple[Array, ...]:
  """x [B, T, M, H, K] -> M arrays [B, T, H, K].

  Not by indices: gradients would be padded and added up.
  """
  return tuple(y[:, :, 0] for y in jax.lax.split(x, (1,) * x.shape[2], axis=2))


@jax.checkpoint
def _swiglu(gate: Array, x: Array) -> Array:
  """Shazeer 2020; its inputs alone are kept for the backward pass."""
  return nn.silu(gate) * x


def _write(cache: KVCache, key: Array, value: Array, column: Array) -> KVCache:
  """One column of one layer's cache: key and value [B, H, K]."""
  update = jax.lax.dynamic_update_slice
  return KVCache(
    update(cache.keys, key[..., None], (0, 0, 0, column)),
    update(cache.values, value[:, :, None], (0, 0, column, 0)),
  )


class Block(nn.Module):
  """Pre-norm attention and MLP: x [B, T, D] -> [B, T, D].

  With `columns` only theirs come out, and only keys and values are computed of
  the others.
  """

  config: ModelConfig
  read: ReadFn | None = None

  def _matmul(self, x: Array, kernel: Array, axes: int = 1) -> Array:
    """x's last `axes` axes times the kernel's first: [B, T, ...] for both."""
    kernel = kernel.astype(x.dtype)
    if self.config.attention not in attention.CPU:
      return jnp.tensordot(x, kernel, axes)
    # plain products of two matrices, forward and backward; for the barriers
    # see attention.cpu, the one on the result serves the backward pass
    b, t = x.shape[:2]
    x = x.reshape(b * t, -1)
    flat = kernel.reshape(x.shape[1], -1)
    x, flat = jax.lax.optimization_barrier((x, flat))
    out = jax.lax.optimization_barrier(x @ flat)
    return out.reshape(b, t, *kernel.shape[axes:])

  @nn.compact
  def __call__(self, x, cache, ctx, columns=None):
    x = sharding.split(x, sharding.ROWS, 'sequence')
    x, cache = self._attention(x, cache, ctx, columns)
    x = self._mlp(sharding.split(x, sharding.ROWS, 'sequence'))
    return x, (cache, None if self.read is None else self.read(x))

  def _attention(self, x, cache, ctx, columns):
    c, init = self.config, nn.initializers.normal
    d, h, k = c.d_model, c.num_heads, c.head_dim
    scale = self.param('attn_norm', nn.initializers.ones, (d,))
    w_qkv = self.param('qkv', init(d**-0.5), (d, 3, h, k))
    w_out = self.param(
      'attn_out', init((2 * c.num_layers * d) ** -0.5), (h, k, d)
    )
    y = rms_norm(x, scale, jnp.dtype(c.dtype))
    if columns is None:
      query, key, value = _split(self._matmul(y, w_qkv))
    else:
      x, of_query = (arrays.take_columns(z, columns) for z in (x, y))
      query = self._matmul(of_query, w_qkv[:, 0])
      key, value = _split(self._matmul(y, w_qkv[:, 1:]))
    query, key = _rotate(query, ctx.at(columns)), _rotate(key, ctx)
    if cache is None:
      out = attention.attend(
        query, key, value, ctx.mask, columns, impl=c.attention
      )
    else:
      cache = _write(cache, key[:, 0], value[:, 0], ctx.column)
      cache = jax.tree.map(
        lambda kept: sharding.split(kept, sharding.ROWS, 'model', like=x), cache
      )
      out = attention.attend_one(
        query[:, 0], cache.keys, cache.values, ctx.mask[:, 0]
      )[:, None]
    out = self._matmul(out, w_out, axes=2)
    kept = (key, value) if ctx.keeps_kv else cache
    return x + out.astype(x.dtype), kept

  def _mlp(self, x):
    c, init, d = self.config, nn.initializers.normal, self.config.d_model
    scale = self.param('mlp_norm', nn.initializers.ones, (d,))
    y = rms_norm(x, scale, jnp.dtype(c.dtype))
    w_in = self.param('mlp_in', init(d**-0.5), (d, c.d_mlp))
    hidden = self._matmul(y, w_in)
    if c.mlp == 'swiglu':
      w_gate = self.param('mlp_gate', init(d**-0.5), (d, c.d_mlp))
      hidden = _swiglu(self._matmul(y, w_gate), hidden)
    else:
      hidden = nn.gelu(hidden)
    out_std = (2 * c.num_layers * c.d_mlp) ** -0.5
    w_out = self.param('mlp_out', init(out_std), (c.d_mlp, d))
    return x + self._matmul(hidden, w_out).astype(x.dtype)

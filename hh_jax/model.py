"""A decoder-only transformer as pure functions over one parameter tree.

Every tree has a vocabulary head (tied to the embedding) and a scalar head, so
the language model, the preference model and the value network are one network
with one checkpoint format. Inside a block tokens are flat, N = B * T.

Axis letters: B batch, T time, S cache time, N tokens, D model, H heads, K head
dim, F mlp, V vocab, L layers.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from hh_jax import attention
from hh_jax.sizes import SIZES, ModelConfig, sized
from hh_jax.types import Array, Params

__all__ = ['SIZES', 'KVCache', 'ModelConfig', 'Transformer', 'sized']

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
class _Context:
  """What all layers share."""

  cos: Array  # float32 [B, T, K/2], rotary tables
  sin: Array
  mask: Array  # bool [B, T, T]; with a cache [B, 1, S]
  column: Array | None = None  # int32 [], where the cache is written
  keeps_kv: bool = flax.struct.field(pytree_node=False, default=False)


def _rotary(positions: Array, head_dim: int, base: float):
  """Tables of Su et al. 2021: positions [B, T] -> cos, sin [B, T, K/2]."""
  frequency = base ** (
    -jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  )
  angles = positions[..., None].astype(jnp.float32) * frequency[None, None]
  return jnp.cos(angles), jnp.sin(angles)


def _rotate(x: Array, ctx: _Context) -> Array:
  """x [B, T, H, K] turned by its positions."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = ctx.cos[:, :, None], ctx.sin[:, :, None]
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return out.astype(x.dtype)


def _rms_norm(x: Array, scale: Array, dtype: jnp.dtype) -> Array:
  """Zhang & Sennrich 2019, in float32: x [N, D]."""
  x = x.astype(jnp.float32)
  x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
  return (x * scale[None]).astype(dtype)


def _kept(read: ReadFn | None, x: Array, ctx: _Context) -> Array | None:
  """What `read` takes from a layer's x [N, D]; None where nothing is read."""
  return None if read is None else read(x.reshape(*ctx.mask.shape[:2], -1))


def _write(cache: KVCache, key: Array, value: Array, column: Array) -> KVCache:
  """One column of one layer's cache: key and value [B, H, K]."""
  update = jax.lax.dynamic_update_slice
  return KVCache(
    update(cache.keys, key[..., None], (0, 0, 0, column)),
    update(cache.values, value[:, :, None], (0, 0, column, 0)),
  )


class Block(nn.Module):
  """Pre-norm attention and MLP: x [N, D] -> [N, D]."""

  config: ModelConfig
  read: ReadFn | None = None

  def _matmul(self, x: Array, kernel: Array, axes: int = 1) -> Array:
    """x's last `axes` axes times the kernel's first: [N, ...] -> [N, ...]."""
    kernel = kernel.astype(x.dtype)
    if self.config.attention == 'xla':
      return jnp.tensordot(x, kernel, axes)
    # plain products of two matrices, forward and backward; for the barriers
    # see attention.attend, the one on the result serves the backward pass
    x = x.reshape(x.shape[0], -1)
    flat = kernel.reshape(x.shape[1], -1)
    x, flat = jax.lax.optimization_barrier((x, flat))
    out = jax.lax.optimization_barrier(x @ flat)
    return out.reshape(x.shape[0], *kernel.shape[axes:])

  @nn.compact
  def __call__(self, x, cache, ctx):
    x, cache = self._attention(x, cache, ctx)
    x = self._mlp(x)
    return x, (cache, _kept(self.read, x, ctx))

  def _attention(self, x, cache, ctx):
    c, init = self.config, nn.initializers.normal
    (b, t, _), d = ctx.mask.shape, c.d_model
    h, k = c.num_heads, c.head_dim
    scale = self.param('attn_norm', nn.initializers.ones, (d,))
    w_qkv = self.param('qkv', init(d**-0.5), (d, 3, h, k))
    w_out = self.param(
      'attn_out', init((2 * c.num_layers * d) ** -0.5), (h, k, d)
    )
    y = _rms_norm(x, scale, jnp.dtype(c.dtype))
    qkv = self._matmul(y, w_qkv).reshape(b, t, 3, h, k)
    query, key = _rotate(qkv[:, :, 0], ctx), _rotate(qkv[:, :, 1], ctx)
    value = qkv[:, :, 2]
    if cache is None:
      out = attention.attend(query, key, value, ctx.mask, impl=c.attention)
    else:
      cache = _write(cache, key[:, 0], value[:, 0], ctx.column)
      out = attention.attend_one(
        query[:, 0], cache.keys, cache.values, ctx.mask[:, 0]
      )
    out = self._matmul(out.reshape(b * t, h, k), w_out, axes=2)
    kept = (key, value) if ctx.keeps_kv else cache
    return x + out.astype(x.dtype), kept

  def _mlp(self, x):
    c, init, d = self.config, nn.initializers.normal, self.config.d_model
    scale = self.param('mlp_norm', nn.initializers.ones, (d,))
    y = _rms_norm(x, scale, jnp.dtype(c.dtype))
    w_in = self.param('mlp_in', init(d**-0.5), (d, c.d_mlp))
    hidden = self._matmul(y, w_in)
    if c.mlp == 'swiglu':
      w_gate = self.param('mlp_gate', init(d**-0.5), (d, c.d_mlp))
      hidden = nn.silu(self._matmul(y, w_gate)) * hidden
    else:
      hidden = nn.gelu(hidden)
    out_std = (2 * c.num_layers * c.d_mlp) ** -0.5
    w_out = self.param('mlp_out', init(out_std), (c.d_mlp, d))
    return x + self._matmul(hidden, w_out).astype(x.dtype)


class _Network(nn.Module):
  config: ModelConfig
  read: ReadFn | None = None

  @nn.compact
  def __call__(
    self, tokens, positions, mask, cache=None, column=None, keeps_kv=False
  ):
    c = self.config
    (b, t), d = tokens.shape, c.d_model
    table = self.param(
      'embedding', nn.initializers.normal(d**-0.5), (c.vocab_size, d)
    )
    self.param('scalar_head', nn.initializers.zeros, (d,))
    self.param('scalar_bias', nn.initializers.zeros, ())
    cos, sin = _rotary(positions, c.head_dim, c.rope_base)
    ctx = _Context(cos, sin, mask, column, keeps_kv)
    # small beside the blocks' outputs, so that the tied head doesn't start out
    # predicting the token it sees
    x = jnp.take(table, tokens.reshape(-1), axis=0)
    blocks = nn.scan(
      _remat(c),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),
      length=c.num_layers,
      unroll=min(c.scan_unroll, c.num_layers),
    )
    kept = _kept(self.read, x, ctx)
    blocks = blocks(c, self.read, name='blocks')
    x, (cache, rest) = blocks(x, cache, ctx)
    if kept is not None:
      kept = jnp.moveaxis(jnp.concatenate([kept[None], rest]), 0, 1)
    scale = self.param('final_norm', nn.initializers.ones, (d,))
    x = _rms_norm(x, scale, jnp.float32).reshape(b, t, d)
    return x, cache, kept


def _remat(config: ModelConfig):
  """Block with the config's rematerialisation; nothing else changes."""
  if config.remat == 'none':
    return Block
  policy = None
  if config.remat == 'dots':
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  # prevent_cse=False: safe under scan, and faster
  return nn.remat(Block, policy=policy, prevent_cse=False)


@dataclasses.dataclass(frozen=True)
class Transformer:
  """The network's functions; `params` always comes first."""

  config: ModelConfig

  @functools.cached_property
  def _network(self) -> _Network:
    config = self.config
    if config.attention == 'auto':
      config = dataclasses.replace(config, attention=attention.fastest())
    return _Network(config)

  def init(self, key: Array) -> Params:
    """Fresh parameters, float32: a dict whose 'blocks' are stacked [L, ...]."""
    token = jnp.zeros((1, 1), jnp.int32)
    mask = jnp.ones((1, 1, 1), bool)
    return self._network.init(key, token, token, mask)['params']

  def hidden(
    self, params: Params, tokens: Array, positions: Array, mask: Array
  ) -> Array:
    """Final hidden states, float32 [B, T, D]; `mask` is [B, T, T]."""
    return self._network.apply({'params': params}, tokens, positions, mask)[0]

  def prefill(
    self,
    params: Params,
    tokens: Array,
    positions: Array,
    mask: Array,
    *,
    length: int,
  ) -> tuple[Array, KVCache]:
    """The same, and a cache of `length` columns of which T are written."""
    hidden, (keys, values), _ = self._network.apply(
      {'params': params}, tokens, positions, mask, keeps_kv=True
    )
    free = length - tokens.shape[1]
    keys, values = keys.transpose(0, 1, 3, 4, 2), values.swapaxes(2, 3)
    cache = KVCache(
      jnp.pad(keys, [(0, 0)] * 4 + [(0, free)]),
      jnp.pad(values, [(0, 0)] * 3 + [(0, free), (0, 0)]),
    )
    return hidden, self._by_layer(cache)

  def decode(
    self,
    params: Params,
    tokens: Array,
    positions: Array,
    mask: Array,
    cache: KVCache,
    column: Array,
  ) -> tuple[Array, KVCache]:
    """Final hidden state of one token a row, float32 [B, D].

    tokens and positions [B]; their keys and values go to `column`. `mask`
    [B, S]: the columns that a row sees, its own among them. `params` are those
    of `for_decoding`.
    """
    where = (tokens[:, None], positions[:, None], mask[:, None], cache, column)
    if self._is_unrolled:
      return self._decode_layers(params, *where)
    hidden, cache, _ = self._network.apply({'params': params}, *where)
    return hidden[:, 0], cache

  @property
  def _is_unrolled(self) -> bool:
    return self.config.scan_unroll >= self.config.num_layers

  def _by_layer(self, tree: Any) -> Any:
    """Arrays with a leading L axis as tuples of L, where that is faster."""
    if not self._is_unrolled:
      return tree
    layers = range(self.config.num_layers)
    return jax.tree.map(lambda x: tuple(x[i] for i in layers), tree)

  def for_decoding(self, params: Params) -> Params:
    """The same parameters, laid out for many calls of `decode`.

    A slice of stacked layers would be copied in every step of a loop.
    """
    return {**params, 'blocks': self._by_layer(params['blocks'])}

  def _decode_layers(self, params, tokens, positions, mask, cache, column):
    """What the network does with a cache, layer after layer."""
    c, layers = self._network.config, []
    ctx = _Context(*_rotary(positions, c.head_dim, c.rope_base), mask, column)
    x = jnp.take(params['embedding'], tokens[:, 0], axis=0)
    for i in range(c.num_layers):
      layer = {name: x[i] for name, x in params['blocks'].items()}
      at = KVCache(cache.keys[i], cache.values[i])
      x, (at, _) = Block(c).apply({'params': layer}, x, at, ctx)
      layers.append(at)
    x = _rms_norm(x, params['final_norm'], jnp.float32)
    keys, values = zip(*((at.keys, at.values) for at in layers), strict=True)
    return x, KVCache(keys, values)

  def activations(
    self,
    params: Params,
    tokens: Array,
    positions: Array,
    mask: Array,
    read: ReadFn,
  ) -> Array:
    """What `read` takes from the residual stream, float32 [B, L + 1, ...].

    Entry 0 comes from the embeddings, entry l from the output of block l, and
    entry L from what the final norm takes. `read` is called layer by layer, so
    that [L, B, T, D] never exists. `mask` is [B, T, T].
    """
    *_, kept = self._network.clone(read=read).apply(
      {'params': params}, tokens, positions, mask
    )
    return kept

  def logits(self, params: Params, hidden: Array) -> Array:
    """Vocabulary logits of hidden [..., D], float32 [..., V]."""
    dtype = jnp.dtype(self.config.dtype)
    return jnp.einsum(
      '...d,vd->...v',
      hidden.astype(dtype),
      params['embedding'].astype(dtype),
      preferred_element_type=jnp.float32,
    )

  def scores(self, params: Params, hidden: Array) -> Array:
    """The scalar head on hidden [..., D], float32 [...]; PM units."""
    return (
      jnp.einsum('...d,d->...', hidden, params['scalar_head'])
      + params['scalar_bias']
    )

  def empty_cache(self, batch: int, length: int) -> KVCache:
    """A cache for `length` columns, all free."""
    c = self.config
    rows = (c.num_layers, batch, c.num_heads)
    cache = KVCache(
      jnp.zeros((*rows, c.head_dim, length), jnp.dtype(c.dtype)),
      jnp.zeros((*rows, length, c.head_dim), jnp.dtype(c.dtype)),
    )
    return self._by_layer(cache)

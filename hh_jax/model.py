"""A decoder-only transformer as pure functions over one parameter tree.

Every tree has a vocabulary head (tied to the embedding) and a scalar head, so
the language model, the preference model and the value network are one network
with one checkpoint format.

Axis letters: B batch, T time, S cache time, M columns, D model, H heads, K head
dim, F mlp, V vocab, L layers.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hh_jax import arrays, attention, sharding
from hh_jax.arrays import Columns
from hh_jax.attention import Mask
from hh_jax.block import Block, Context, KVCache, ReadFn, rms_norm, rotary
from hh_jax.sizes import SIZES, ModelConfig, sized
from hh_jax.types import Array, Params

# Tokens up to which a CPU reads the vocabulary's table as it lies (up to 1.8x
# as fast for 16 of them; equal at 128).
_FEW = 64

__all__ = ['SIZES', 'KVCache', 'ModelConfig', 'Transformer', 'sized']


class _Network(nn.Module):
  config: ModelConfig
  read: ReadFn | None = None

  @nn.compact
  def __call__(
    self, tokens, positions, mask, cache=None, column=None, keeps_kv=False
  ):
    c = self.config
    d = c.d_model
    table = self.param(
      'embedding', nn.initializers.normal(d**-0.5), (c.vocab_size, d)
    )
    self.param('scalar_head', nn.initializers.zeros, (d,))
    self.param('scalar_bias', nn.initializers.zeros, ())
    ctx = _context(c, positions, mask, column=column, keeps_kv=keeps_kv)
    # small beside the blocks' outputs, so that the tied head doesn't start out
    # predicting the token it sees
    x = jnp.take(table, tokens, axis=0)
    blocks = nn.scan(
      _remat(c),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),
      length=c.num_layers,
      unroll=min(c.scan_unroll, c.num_layers),
    )
    kept = None if self.read is None else self.read(x)
    blocks = blocks(c, self.read, name='blocks')
    x, (cache, rest) = blocks(x, cache, ctx)
    if kept is not None:
      kept = jnp.moveaxis(jnp.concatenate([kept[None], rest]), 0, 1)
    scale = self.param('final_norm', nn.initializers.ones, (d,))
    return rms_norm(x, scale, jnp.float32), cache, kept


def _remat(config: ModelConfig):
  """Block with the config's rematerialisation; nothing else changes."""
  if config.remat == 'none':
    return Block
  policy = None
  if config.remat == 'dots':
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  # prevent_cse=False: safe under scan, and faster
  return nn.remat(Block, policy=policy, prevent_cse=False)


def _context(c: ModelConfig, positions, mask: Mask, **fields: Any) -> Context:
  return Context(*rotary(positions, c.head_dim, c.rope_base), mask, **fields)


def _unrolled(c: ModelConfig, params, tokens, ctx, columns=None, caches=None):
  """What the network does, layer after layer: hidden, and what each keeps.

  `params` are those of `by_layer`. The last layer is not rematerialised: its
  backward pass comes first.
  """
  kept, last = [], c.num_layers - 1
  caches = [None] * c.num_layers if caches is None else list(caches)
  x = jnp.take(params['embedding'], tokens, axis=0)
  for i, cache in enumerate(caches):
    layer = {name: w[i] for name, w in params['blocks'].items()}
    if i < last:
      x, (keep, _) = _remat(c)(c).apply({'params': layer}, x, cache, ctx)
    else:
      x, (keep, _) = Block(c).apply({'params': layer}, x, cache, ctx, columns)
    kept.append(keep)
  return rms_norm(x, params['final_norm'], jnp.float32), kept


def _to_split(params: Params, tokens: Array, positions: Array, mask: Mask):
  """With padding after each row, so that the axis 'sequence' divides it."""
  mesh = sharding.mesh_of(params['embedding'])
  more = 0 if mesh.empty else -tokens.shape[1] % mesh.shape['sequence']
  if not more or not isinstance(mask, attention.Packed):
    return tokens, positions, mask
  pads = [(0, 0), (0, more)]
  return jax.tree.map(lambda x: jnp.pad(x, pads), (tokens, positions, mask))


@dataclasses.dataclass(frozen=True)
class Transformer:
  """The network's functions; `params` always comes first."""

  config: ModelConfig

  def _attention_on(self, table: Array) -> str:
    """The attention of the devices that this parameter lies on."""
    c = self.config
    return attention.resolve(
      c.attention, table, dtype=c.dtype, head_dim=c.head_dim
    )

  def _here(self, params: Params, mask: Mask) -> tuple[ModelConfig, Mask]:
    """With the attention of the devices that the parameters lie on."""
    c, table = self.config, params['embedding']
    impl = self._attention_on(table)
    mask = attention.shared(mask, table, impl=impl)
    return dataclasses.replace(c, attention=impl), mask

  def init(self, key: Array) -> Params:
    """Fresh parameters, float32: a dict whose 'blocks' are stacked [L, ...]."""
    token = jnp.zeros((1, 1), jnp.int32)
    mask = jnp.ones((1, 1, 1), bool)
    config = dataclasses.replace(self.config, attention='xla')
    return _Network(config).init(key, token, token, mask)['params']

  def hidden(
    self,
    params: Params,
    tokens: Array,
    positions: Array,
    mask: Mask,
    columns: Columns | None = None,
  ) -> Array:
    """Final hidden states, float32 [B, T, D]; `mask` is of T columns.

    With `columns` those of M of them, [B, M, D]: where layers are unrolled the
    last one is not computed for the others.
    """
    t = tokens.shape[1]
    tokens, positions, mask = _to_split(params, tokens, positions, mask)
    if columns is None and tokens.shape[1] > t:
      columns = slice(t)
    config, mask = self._here(params, mask)
    if self._is_unrolled:
      ctx = _context(config, positions, mask)
      params = self.by_layer(params)
      return _unrolled(config, params, tokens, ctx, columns)[0]
    variables = {'params': params}
    hidden = _Network(config).apply(variables, tokens, positions, mask)[0]
    return hidden if columns is None else arrays.take_columns(hidden, columns)

  def prefill(
    self,
    params: Params,
    tokens: Array,
    positions: Array,
    mask: Mask,
    *,
    length: int,
  ) -> tuple[Array, KVCache]:
    """The last column's hidden state, float32 [B, D], and a cache.

    The cache has `length` columns, of which T are written.
    """
    last, free = slice(tokens.shape[1] - 1, None), length - tokens.shape[1]
    config, mask = self._here(params, mask)

    def cache_of(kv: tuple[Array, Array]) -> tuple[Array, Array]:
      """One layer's, or with a leading L axis."""
      keys, values = jnp.moveaxis(kv[0], -3, -1), kv[1].swapaxes(-3, -2)
      pad = [(0, 0)] * (keys.ndim - 1)
      return (
        jnp.pad(keys, [*pad, (0, free)]),
        jnp.pad(values, [*pad[:-1], (0, free), (0, 0)]),
      )

    if self._is_unrolled:
      ctx = _context(config, positions, mask, keeps_kv=True)
      params = self.by_layer(params)
      hidden, kept = _unrolled(config, params, tokens, ctx, last)
      keys, values = zip(*map(cache_of, kept), strict=True)
    else:
      hidden, kept, _ = _Network(config).apply(
        {'params': params}, tokens, positions, mask, keeps_kv=True
      )
      keys, values = cache_of(kept)
    return hidden[:, -1], KVCache(keys, values)

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
    of `by_layer`.
    """
    tokens, positions, mask = tokens[:, None], positions[:, None], mask[:, None]
    config, _ = self._here(params, mask)
    if not self._is_unrolled:
      hidden, cache, _ = _Network(config).apply(
        {'params': params}, tokens, positions, mask, cache, column
      )
      return hidden[:, 0], cache
    ctx = _context(config, positions, mask, column=column)
    caches = map(KVCache, cache.keys, cache.values)
    hidden, kept = _unrolled(config, params, tokens, ctx, caches=caches)
    keys, values = zip(*((at.keys, at.values) for at in kept), strict=True)
    return hidden[:, 0], KVCache(keys, values)

  @property
  def _is_unrolled(self) -> bool:
    return self.config.scan_unroll >= self.config.num_layers

  def cast(self, params: Params) -> Params:
    """Matrices of the blocks in the dtype that they are multiplied in.

    The functions above do so themselves, where they read them.
    """
    dtype = jnp.dtype(self.config.dtype)
    blocks = {
      name: w if name.endswith('norm') else w.astype(dtype)
      for name, w in params['blocks'].items()
    }
    return {**params, 'blocks': blocks}

  def by_layer(self, params: Params) -> Params:
    """The same parameters; where layers are unrolled, tuples of layers.

    A slice of stacked layers would be copied in every step of a loop.
    """
    if not self._is_unrolled:
      return params
    sizes = (1,) * self.config.num_layers

    def split(x: Array) -> tuple[Array, ...]:
      return tuple(y[0] for y in jax.lax.split(x, sizes))

    return {**params, 'blocks': jax.tree.map(split, params['blocks'])}

  def activations(
    self,
    params: Params,
    tokens: Array,
    positions: Array,
    mask: Mask,
    read: ReadFn,
  ) -> Array:
    """What `read` takes from the residual stream, float32 [B, L + 1, ...].

    Entry 0 comes from the embeddings, entry l from the output of block l, and
    entry L from what the final norm takes. `read` is called layer by layer, so
    that [L, B, T, D] never exists. `mask` is of T columns.
    """
    config, mask = self._here(params, mask)
    *_, kept = _Network(config, read).apply(
      {'params': params}, tokens, positions, mask
    )
    return kept

  def logits(self, params: Params, hidden: Array) -> Array:
    """Vocabulary logits of hidden [..., D], float32 [..., V]."""
    dtype = jnp.dtype(self.config.dtype)
    # rows of columns, or flat tokens
    rows = (
      (sharding.ROWS, 'sequence') if hidden.ndim > 2 else (sharding.TOKENS,)
    )
    hidden = sharding.split(hidden, *rows).astype(dtype)
    table = params['embedding'].astype(dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    are_few = hidden.ndim == 2 and len(hidden) <= _FEW
    if are_few and self._attention_on(table) in attention.CPU:
      # the table on the left is read as it lies
      out = product('vd,nd->vn', table, hidden)
      logits = jax.lax.optimization_barrier(out).T
    else:
      logits = product('...d,vd->...v', hidden, table)
    return sharding.split(logits, *rows, 'model')

  def scores(self, params: Params, hidden: Array) -> Array:
    """The scalar head on hidden [..., D], float32 [...]; PM units."""
    return (
      jnp.einsum('...d,d->...', hidden, params['scalar_head'])
      + params['scalar_bias']
    )

  def empty_cache(self, batch: int, length: int) -> KVCache:
    """A cache for `length` columns, all free."""
    c = self.config
    layers = () if self._is_unrolled else (c.num_layers,)
    rows = (*layers, batch, c.num_heads)
    keys = jnp.zeros((*rows, c.head_dim, length), jnp.dtype(c.dtype))
    values = jnp.zeros((*rows, length, c.head_dim), jnp.dtype(c.dtype))
    if not self._is_unrolled:
      return KVCache(keys, values)
    return KVCache((keys,) * c.num_layers, (values,) * c.num_layers)

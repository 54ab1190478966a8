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

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from hh_jax import attention
from hh_jax.types import Array, Params

# [B, T, D] -> [B, ...]: which of a layer's vectors to keep (arrays.take_last)
ReadFn = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and arithmetic of a transformer; only shapes reach a checkpoint."""

  num_layers: int
  d_model: int
  num_heads: int
  d_mlp: int
  vocab_size: int
  mlp: str = 'gelu'  # 'gelu' (two matrices) or 'swiglu' (three)
  rope_base: float = 10_000.0
  dtype: str = 'float32'  # of matmul operands; parameters stay float32
  attention: str = 'auto'  # or one of attention.IMPLEMENTATIONS
  remat: str = 'none'  # 'none', 'full', or 'dots' (keep matmul results)
  scan_unroll: int = 1  # layers a scan step; all of them is fastest on CPU

  def __post_init__(self):
    if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
      raise ValueError(
        f'd_model {self.d_model} over num_heads {self.num_heads} must be even'
      )
    if self.scan_unroll < 1:
      raise ValueError(f'scan_unroll {self.scan_unroll} is not 1 or more')
    for name, allowed in _CHOICES.items():
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'{name} {getattr(self, name)!r} is none of {tuple(allowed)}'
        )

  @property
  def head_dim(self) -> int:
    return self.d_model // self.num_heads

  @property
  def num_matmul_params(self) -> int:
    """Parameters a token multiplies with, embedding and heads left out."""
    mats = 3 if self.mlp == 'swiglu' else 2
    per_layer = 4 * self.d_model**2 + mats * self.d_model * self.d_mlp
    return self.num_layers * per_layer

  @property
  def shape(self) -> dict[str, int | float | str]:
    """The fields that a checkpoint depends on."""
    names = (
      'num_layers', 'd_model', 'num_heads', 'd_mlp', 'vocab_size', 'mlp',
      'rope_base',
    )  # fmt: skip
    return {name: getattr(self, name) for name in names}


_CHOICES = {
  'mlp': ('gelu', 'swiglu'),
  'dtype': ('float32', 'bfloat16'),
  'attention': ('auto', *attention.IMPLEMENTATIONS),
  'remat': ('none', 'full', 'dots'),
}

# Layers, d_model, heads. 13M..52B: the seven models of Bai et al. 2022, shapes
# by d_model = 128 * layers, which matches every parameter count in the figure
# legends; heads of 128 are our choice (not stated). tiny, mini, small: ours.
SIZES = {
  'tiny': (2, 64, 4),
  'mini': (3, 128, 4),
  'small': (4, 256, 8),
  '13M': (4, 512, 4),
  '42M': (6, 768, 6),
  '197M': (10, 1280, 10),
  '810M': (16, 2048, 16),
  '2.7B': (24, 3072, 24),
  '13B': (40, 5120, 40),
  '52B': (64, 8192, 64),
}


def sized(size: str, *, vocab_size: int, **changes) -> ModelConfig:
  """The ModelConfig of a named size; `changes` are further fields."""
  if size not in SIZES:
    raise ValueError(f'model size {size!r} is none of {tuple(SIZES)}')
  num_layers, d_model, num_heads = SIZES[size]
  return ModelConfig(
    num_layers=num_layers,
    d_model=d_model,
    num_heads=num_heads,
    d_mlp=4 * d_model,
    vocab_size=vocab_size,
    **changes,
  )


@flax.struct.dataclass
class KVCache:
  """Keys and values of the columns seen so far."""

  keys: Array  # dtype of the model, [L, B, S, H, K]
  values: Array  # the same
  index: Array  # int32 [], the next free column


@flax.struct.dataclass
class _Context:
  """What all layers share: rotary tables, mask, where to write the cache."""

  cos: Array  # float32 [B, T, K/2]
  sin: Array
  mask: Array  # bool [B, T, S]
  index: Array | None


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
    if cache is not None:
      start = (0, ctx.index, 0, 0)
      key = jax.lax.dynamic_update_slice(cache[0], key, start)
      value = jax.lax.dynamic_update_slice(cache[1], value, start)
      cache = (key, value)
    out = attention.attend(query, key, value, ctx.mask, impl=c.attention)
    out = self._matmul(out.reshape(b * t, h, k), w_out, axes=2)
    return x + out.astype(x.dtype), cache

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
  def __call__(self, tokens, positions, mask, cache):
    c = self.config
    (b, t), d = tokens.shape, c.d_model
    table = self.param(
      'embedding', nn.initializers.normal(d**-0.5), (c.vocab_size, d)
    )
    self.param('scalar_head', nn.initializers.zeros, (d,))
    self.param('scalar_bias', nn.initializers.zeros, ())
    cos, sin = _rotary(positions, c.head_dim, c.rope_base)
    index = None if cache is None else cache.index
    ctx = _Context(cos, sin, mask, index)
    # small beside the blocks' outputs, so that the tied head doesn't start out
    # predicting the token it sees
    x = jnp.take(table, tokens.reshape(-1), axis=0)
    layer_cache = None if cache is None else (cache.keys, cache.values)
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
    x, (layer_cache, rest) = blocks(x, layer_cache, ctx)
    if kept is not None:
      kept = jnp.moveaxis(jnp.concatenate([kept[None], rest]), 0, 1)
    scale = self.param('final_norm', nn.initializers.ones, (d,))
    x = _rms_norm(x, scale, jnp.float32).reshape(b, t, d)
    if cache is not None:
      cache = KVCache(*layer_cache, cache.index + t)
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
    return self._network.init(key, token, token, mask, None)['params']

  def hidden(
    self,
    params: Params,
    tokens: Array,
    positions: Array,
    mask: Array,
    cache: KVCache | None = None,
  ) -> tuple[Array, KVCache | None]:
    """Final hidden states, float32 [B, T, D].

    With a cache the T columns are appended to it and `mask` is [B, T, S] over
    all its columns; without one `mask` is [B, T, T].
    """
    hidden, cache, _ = self._network.apply(
      {'params': params}, tokens, positions, mask, cache
    )
    return hidden, cache

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
    _, _, kept = self._network.clone(read=read).apply(
      {'params': params}, tokens, positions, mask, None
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
    shape = (c.num_layers, batch, length, c.num_heads, c.head_dim)
    zeros = jnp.zeros(shape, jnp.dtype(c.dtype))
    return KVCache(zeros, zeros, jnp.int32(0))

"""Pure functions on arrays. Every time shift of the project lives here.

Axis letters: B batch, T time, R reply columns, D model, V vocab.
One time convention: column t of a network predicts token t + 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hh_jax.types import Array

# Columns of [B, T, ...]: those of a slice, or for every row its own, [B, M].
Columns = Array | slice


def predicting(x: Array, start: int = 1, stop: int | None = None) -> Array:
  """The columns of x [B, T, ...] that predict tokens[:, start:stop]."""
  stop = x.shape[1] if stop is None else stop
  if not 1 <= start <= stop <= x.shape[1] + 1:
    raise ValueError(f'tokens {start}:{stop} of {x.shape[1]} columns')
  return x[:, predicting_columns(start, stop)]


def predicting_columns(start: int, stop: int) -> slice:
  """Which columns predict tokens[:, start:stop]; see predicting."""
  return slice(start - 1, stop - 1)


def take_last(x: Array, lengths: Array) -> Array:
  """Entry lengths - 1 of every row: x [B, T, ...], lengths [B] >= 1."""
  index = (lengths - 1).reshape(lengths.shape + (1,) * (x.ndim - 1))
  return jnp.take_along_axis(x, index, axis=1)[:, 0]


def take_columns(x: Array, columns: Columns) -> Array:
  """x [B, T, D] at columns [B, M], or those of a slice -> [B, M, D]."""
  if isinstance(columns, slice):
    return x[:, columns]
  return jnp.take_along_axis(x, columns[:, :, None], axis=1)


def masked_mean(x: Array, mask: Array, whole: Array | None = None) -> Array:
  """Mean of x where mask is 1, float32 []; 0 for an empty mask.

  With `whole`, the mask of more rows, what x adds to the mean over that.
  """
  mask = mask.astype(jnp.float32)
  count = mask.sum() if whole is None else whole.astype(jnp.float32).sum()
  return (x * mask).sum() / jnp.maximum(count, 1.0)


def masked_var(x: Array, mask: Array) -> Array:
  """Biased variance of x where mask is 1, float32 []."""
  return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


def whiten(x: Array, mask: Array) -> Array:
  """x at mean 0 and variance 1 over the mask, zero elsewhere.

  Source: Ziegler et al. 2019's code, its epsilon included.
  """
  scale = jax.lax.rsqrt(masked_var(x, mask) + 1e-8)
  return (x - masked_mean(x, mask)) * scale * mask


def token_logprobs(logits: Array, targets: Array) -> Array:
  """log p(target), nats: logits [..., V] float32, targets [...] -> [...]."""
  picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)


def entropy(logits: Array) -> Array:
  """Entropy of the softmax, nats: logits [..., V] float32 -> [...]."""
  shifted = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  weights = jnp.exp(shifted)
  total = weights.sum(axis=-1)
  return jnp.log(total) - (weights * shifted).sum(axis=-1) / total


def chunked(fn: Callable[..., Array], chunk: int, *arrays: Array) -> Array:
  """fn over row chunks of [N, ...] arrays, recomputed in the backward pass.

  Bounds what fn materialises (the logits of a vocabulary head) to `chunk` rows;
  the last chunk is padded with zeros and cut off again. A chunk is every n-th
  row, so that each device has a share of every chunk.
  """
  n = arrays[0].shape[0]
  if n <= chunk:
    return fn(*arrays)
  num = -(-n // chunk)

  def split(x: Array) -> Array:
    x = jnp.pad(x, [(0, num * chunk - n)] + [(0, 0)] * (x.ndim - 1))
    return jnp.moveaxis(x.reshape((chunk, num) + x.shape[1:]), 1, 0)

  def join(y: Array) -> Array:
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape((num * chunk,) + y.shape[2:])[:n]

  body = jax.checkpoint(fn, prevent_cse=False)
  _, out = jax.lax.scan(
    lambda _, xs: (None, body(*xs)), None, tuple(split(x) for x in arrays)
  )
  return jax.tree.map(join, out)

"""Splash attention, the flash kernel of JAX for TPUs, on packed rows.

No mask and no scores are stored: the kernel compares the ids of a block's
queries and keys. Axis letters: B batch, T query time, S key time, H heads, K
head dim.
"""

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hh_jax import sharding
from hh_jax.attention.masks import Packed
from hh_jax.types import Array

LANES = 128  # the least block, and what all blocks are multiples of
_BLOCKS = (512, 256, LANES)  # the largest that divides a row
_PADDED = -1  # id of padded queries
_HIDDEN = -2  # of padded keys, and of those that a run leaves out: no query's
_SAVED = 'splash'  # outputs and sums of exp, what the backward pass needs


def attend(q: Array, k: Array, v: Array, mask: Packed, start: int = 0) -> Array:
  """As attention.attend: q [B, T, H, K] are the queries of columns start + t.

  Padded to whole blocks where T or S is not. On a mesh a device has its rows,
  columns and heads of q, and all keys of its rows. In a row of branches the
  kernel runs twice, without the keys of the other reply each time, and a query
  takes what its own branch sees.
  """
  mesh = sharding.mesh_of(q)
  shards = 1 if mesh.empty else mesh.shape['sequence']
  t = q.shape[1]
  of_queries = slice(start, start + t)
  own = _pad(mask.segments[:, of_queries], LANES * shards, _PADDED)
  q = _pad(q * q.shape[-1] ** -0.5, LANES * shards)
  k, v = _pad(k, LANES), _pad(v, LANES)
  if mask.branches is None:
    keys, second = (_pad(mask.segments, LANES, _HIDDEN),), None
  else:
    keys = tuple(
      _pad(jnp.where(mask.branches == other, _HIDDEN, mask.segments),
           LANES, _HIDDEN)
      for other in (2, 1)
    )  # fmt: skip
    second = _pad(mask.branches[:, of_queries] == 2, LANES * shards)
  arguments = (q, k, v, own, keys, second)
  platform = jax.default_backend()
  if not mesh.empty:
    platform = mesh.abstract_device.platform
  if mesh.size <= 1:
    kernel = _kernel(q, k, start, shards=1, platform=platform)
    return _attend(kernel, *arguments)[:, :t]
  kernel = _kernel(q, k, start, shards=shards, platform=platform)
  return _on(mesh, kernel, arguments)[:, :t]


def _on(mesh, kernel, arguments) -> Array:
  """_attend of each device's share: XLA does not split a kernel by itself."""
  q, k, _, own, keys, second = arguments
  of_q = sharding.fit(mesh, q.shape, sharding.ROWS, 'sequence', 'model')
  of_k = sharding.fit(mesh, k.shape, sharding.ROWS, None, 'model')
  of_own = sharding.fit(mesh, own.shape, sharding.ROWS, 'sequence')
  of_keys = sharding.fit(mesh, own.shape, sharding.ROWS)
  specs = (
    kernel.manual_sharding_spec(NamedSharding(mesh, P(None, 'sequence'))),
    *(of_q, of_k, of_k, of_own, (of_keys,) * len(keys)),
    None if second is None else of_own,
  )
  attend = jax.shard_map(
    _attend, mesh=mesh, in_specs=specs, out_specs=of_q, check_vma=False
  )
  # keys and values are whole within alone: gathered again for the backward pass
  saved = jax.checkpoint_policies.save_only_these_names(_SAVED)
  return jax.checkpoint(attend, policy=saved)(kernel, *arguments)


def _attend(kernel, q, k, v, own, keys, second) -> Array:
  """own [B, T] ids of queries; keys, ids [B, S] for every run of the kernel.

  second, bool [B, T]: the queries that take the second run's results.
  """
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))

  def run(ids: Array) -> Array:
    return jax.vmap(lambda *x: kernel(*x[:3], kernels.SegmentIds(*x[3:])))(
      q, k, v, own, ids
    )

  out = run(keys[0])
  if second is not None:
    out = jnp.where(second[:, None, :, None], run(keys[1]), out)
  return out.swapaxes(1, 2)


def _kernel(q: Array, k: Array, start: int, *, shards: int, platform: str):
  """The kernel of all heads; elsewhere than on TPUs interpreted, for tests."""
  t, s = q.shape[1], k.shape[1]
  block_q, block_k = (
    next(block for block in _BLOCKS if size % block == 0)
    for size in (t // shards, s)
  )
  # a mask of one head serves all of them
  causal = masks.MultiHeadMask([masks.CausalMask((t, s), offset=start)])
  return kernels.make_splash_mha(
    causal,
    block_sizes=kernels.BlockSizes(
      block_q=block_q,
      block_kv=block_k,
      block_q_dkv=block_q,
      block_kv_dkv=block_k,
      block_q_dq=block_q,
      block_kv_dq=block_k,
    ),
    head_shards=1,
    q_seq_shards=shards,
    residual_checkpoint_name=_SAVED,
    interpret=platform != 'tpu',
  )


def _pad(x: Array, multiple: int, value: int = 0) -> Array:
  """x [B, T, ...] with columns of `value` up to a multiple of so many."""
  more = -x.shape[1] % multiple
  if not more:
    return x
  widths = [(0, more if i == 1 else 0) for i in range(x.ndim)]
  return jnp.pad(x, widths, constant_values=value)

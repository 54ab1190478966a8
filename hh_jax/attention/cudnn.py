"""Flash attention of cuDNN, for NVIDIA GPUs.

The mask is a bias [B, 1, T, S]; scores are not stored. Axis letters: B batch,
T query time, S key time, H heads, K head dim.
"""

import jax

from hh_jax import sharding
from hh_jax.types import Array


def can_run(dtype: str, head_dim: int) -> bool:
  """Whether cuDNN takes such a model, on the GPUs of this process.

  Its flash attention knows no float32, wants heads of a multiple of 8 and
  Ampere or later (jax/_src/cudnn/fused_attention_stablehlo.py). Heads of more
  than 128, which Hopper alone takes, are not used here.
  """
  gpu = jax.local_devices()[0]
  generation = int(str(getattr(gpu, 'compute_capability', '0')).split('.')[0])
  is_head = head_dim % 8 == 0 and head_dim <= 128
  return dtype == 'bfloat16' and is_head and generation >= 8


def takes(q: Array, mask: Array) -> bool:
  """Whether the lengths that a device gets are even, as a bias wants them.

  q [B, T, H, K], mask [B, T, S].
  """
  mesh, (_, t, s) = sharding.mesh_of(q), mask.shape
  shards = 1 if mesh.empty else mesh.shape['sequence']
  if t % shards == 0:  # or all of it is on every device
    t //= shards
  return t % 2 == s % 2 == 0


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
  """As attention.attend, with a dense mask; bfloat16 or float16.

  On a mesh a device has its rows, columns and heads of q, and all keys of its
  rows.
  """

  def local(q, k, v, mask):
    return jax.nn.dot_product_attention(
      q, k, v, mask=mask[:, None], implementation='cudnn'
    )

  mesh = sharding.mesh_of(q)
  if mesh.size <= 1:
    return local(q, k, v, mask)
  of_q = sharding.fit(mesh, q.shape, sharding.ROWS, 'sequence', 'model')
  of_k = sharding.fit(mesh, k.shape, sharding.ROWS, None, 'model')
  of_mask = sharding.fit(mesh, mask.shape, sharding.ROWS, 'sequence')
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(of_q, of_k, of_k, of_mask),
    out_specs=of_q,
    check_vma=False,
  )(q, k, v, mask)

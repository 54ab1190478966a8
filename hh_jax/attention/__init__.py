"""Which tokens see which, and one attention function for every platform.

Axis letters: B batch, T query time, S key time, H heads, K head dim.
"""

import jax

from hh_jax import sharding
from hh_jax.arrays import Columns
from hh_jax.attention import cpu, cudnn, splash, xla
from hh_jax.attention.masks import Mask, Packed, of_columns
from hh_jax.attention.xla import attend_one
from hh_jax.errors import InputError
from hh_jax.types import Array

__all__ = [
  'CPU', 'IMPLEMENTATIONS', 'Mask', 'Packed', 'attend', 'attend_one', 'check',
  'resolve', 'shared',
]  # fmt: skip

CPU = ('cpu', 'cpu_blocks')
IMPLEMENTATIONS = ('xla', *CPU, 'cudnn', 'splash')
# The others run anywhere. On a CPU splash is interpreted: slow, for tests.
_PLATFORMS = {'cudnn': ('gpu',), 'splash': ('tpu', 'cpu')}
# Fewer queries than this are not worth a kernel's block: XLA's form serves.
FEWEST = 128


def check(name: str, platform: str, *, dtype: str, head_dim: int) -> None:
  """InputError where devices of this platform cannot run what is named."""
  able = _PLATFORMS.get(name, (platform,))
  if platform not in able:
    raise InputError(
      f'attention {name!r} needs a {able[0].upper()}, not a {platform.upper()}'
    )
  if name == 'cudnn' and not cudnn.can_run(dtype, head_dim):
    raise InputError(
      "attention 'cudnn' takes heads of a multiple of 8, up to 128, in "
      f'bfloat16 on Ampere or later; not heads of {head_dim} in {dtype} here'
    )


def resolve(name: str, like: Array, *, dtype: str, head_dim: int) -> str:
  """The implementation of config.model.attention for the devices of `like`.

  'auto' is the fastest of the platform; InputError where it cannot run `name`.
  """
  mesh = sharding.mesh_of(like)
  platform, devices, sequence = jax.default_backend(), 1, 1
  if not mesh.empty:
    platform = mesh.abstract_device.platform
    devices, sequence = mesh.size, mesh.shape['sequence']
  check(name, platform, dtype=dtype, head_dim=head_dim)
  if name != 'auto':
    return name
  if platform == 'tpu':
    return 'splash'
  if platform == 'gpu':
    return 'cudnn' if cudnn.can_run(dtype, head_dim) else 'xla'
  if sequence > 1:  # the CPU's products want flat tokens, of whole rows
    return 'xla'
  # blocks of a row that several devices share would be gathered to each
  return 'cpu_blocks' if devices == 1 else 'cpu'


def shared(mask: Mask, like: Array, *, impl: str) -> Mask:
  """The form of the mask that all layers share: made once, outside of them.

  Only splash goes without a dense one.
  """
  if isinstance(mask, Packed) and impl != 'splash':
    mask = sharding.split(mask.dense(), sharding.ROWS, 'sequence', like=like)
  return mask


def attend(
  q: Array,
  k: Array,
  v: Array,
  mask: Mask,
  columns: Columns | None = None,
  *,
  impl: str,
) -> Array:
  """Softmax attention: q [B, T, H, K], k and v [B, S, H, K] -> [B, T, H, K].

  `mask` is of whole rows, [B, S, S] where dense; with columns q has the queries
  of these T alone. Scores and softmax are float32 whatever the inputs' dtype.
  What a kernel does not take XLA's form computes, the same numbers in more
  memory: fewer than FEWEST queries, and for splash columns that each row has
  for itself, or a dense mask; for cuDNN odd lengths on a device.
  """
  q, k, v = (
    sharding.split(x, sharding.ROWS, 'sequence', 'model') for x in (q, k, v)
  )
  is_slice = columns is None or isinstance(columns, slice)
  is_large = q.shape[1] >= FEWEST
  if impl == 'splash' and is_large and is_slice and isinstance(mask, Packed):
    start = 0 if columns is None else columns.indices(k.shape[1])[0]
    return splash.attend(q, k, v, mask, start)
  if impl not in IMPLEMENTATIONS:
    raise ValueError(f'attention {impl!r} is none of {IMPLEMENTATIONS}')
  dense = of_columns(mask, columns)
  k, v = (sharding.split(x, sharding.ROWS, None, 'model') for x in (k, v))
  if impl == 'cudnn' and is_large and cudnn.takes(q, dense):
    return cudnn.attend(q, k, v, dense)
  if impl == 'cpu_blocks' and cpu.has_blocks(dense):
    return cpu.attend_blocks(q, k, v, dense)
  if impl in CPU:
    return cpu.attend_dense(q, k, v, dense)
  return xla.attend(q, k, v, dense)

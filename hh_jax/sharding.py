"""Where every array lives: one mesh, one table of rules.

Mesh axes: 'data' and 'fsdp' split the rows of a batch, 'sequence' the time of
long rows, 'fsdp' and 'sequence' the parameters, of which every 'data' has a
copy; 'model' splits heads, MLP and vocabulary. Layer-stacked parameters carry a
leading L axis.
"""

from collections.abc import Sequence
import math
import re
from typing import Any

import jax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from hh_jax.errors import InputError

AXES = ('data', 'fsdp', 'sequence', 'model')
# What splits rows of a batch, flat tokens, and parameters.
ROWS = ('data', 'fsdp')
TOKENS = (*ROWS, 'sequence')
_PARAMS = ('fsdp', 'sequence')

# Path regex -> spec. Optimizer moments end in the path of their parameter.
RULES = (
  (r'(^|/)embedding$', P('model', _PARAMS)),
  (r'(^|/)blocks/qkv$', P(None, _PARAMS, None, 'model', None)),
  (r'(^|/)blocks/attn_out$', P(None, 'model', None, _PARAMS)),
  (r'(^|/)blocks/mlp_(in|gate)$', P(None, _PARAMS, 'model')),
  (r'(^|/)blocks/mlp_out$', P(None, 'model', _PARAMS)),
  (r'(^|/)blocks/(attn|mlp)_norm$', P()),
  (r'(^|/)(final_norm|scalar_head|scalar_bias)$', P()),
  (r'(^|/)(step|count|key)$', P()),
)


def make_mesh(
  *,
  data: int = 1,
  fsdp: int = -1,
  sequence: int = 1,
  model: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh of all devices; fsdp=-1 takes what the other axes leave.

  Of several TPU slices 'data' alone goes from one to another, over the network
  of the data centre: it has to be a multiple of their number.

  Raises:
    ValueError: the devices cannot be laid out that way.
  """
  devices = jax.devices() if devices is None else list(devices)
  others = {'data': data, 'sequence': sequence, 'model': model}
  for name, size in others.items():
    if size < 1:
      raise ValueError(f'mesh {name}={size} is not 1 or more')
  asked = {name: size for name, size in others.items() if size > 1}
  if fsdp == -1:
    fsdp = max(len(devices) // math.prod(others.values()), 1)
  else:
    asked['fsdp'] = fsdp
  if fsdp < 1:
    raise ValueError(
      f'mesh fsdp={fsdp} is not 1 or more, or -1: what the others leave'
    )
  shape = (data, fsdp, sequence, model)
  if math.prod(shape) != len(devices):
    raise ValueError(_misfit(asked, math.prod(others.values()), len(devices)))
  slices = num_slices(devices)
  if data % slices:
    raise ValueError(
      f'mesh data={data} is not a multiple of {slices}, the TPU slices'
    )
  within = (data // slices, *shape[1:])
  # an axis may take a part of a side of the torus: 4 chips of 8, say
  how = {'devices': devices, 'allow_split_physical_axes': True}
  if slices == 1:
    laid_out = mesh_utils.create_device_mesh(within, **how)
  else:
    between = (slices, 1, 1, 1)
    laid_out = mesh_utils.create_hybrid_device_mesh(within, between, **how)
  return Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _misfit(asked: dict[str, int], others: int, num_devices: int) -> str:
  """What the axes that were asked for need, and how all devices are used.

  `others` is the product of all axes but fsdp.
  """
  words = ' x '.join(f'{name}={asked[name]}' for name in AXES if name in asked)
  hint = 'fsdp=-1 takes all of them'
  if num_devices % others:
    hint = f'data x sequence x model has to divide {num_devices}'
  return (
    f'mesh {words} needs {math.prod(asked.values())} devices, there are '
    f'{num_devices}: {hint}'
  )


def num_slices(devices: Sequence[Any]) -> int:
  """TPU slices that these devices are of; 1 of other devices."""
  if devices[0].platform != 'tpu':
    return 1
  # chips that are compiled for, and not here, do not say
  return len({getattr(device, 'slice_index', 0) for device in devices})


def path_name(path: tuple[Any, ...]) -> str:
  """'blocks/qkv' for the key path of jax.tree_util."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def spec_for(name: str) -> P:
  """The rule of one path; a path that no rule knows raises ValueError."""
  for pattern, spec in RULES:
    if re.search(pattern, name):
      return spec
  raise ValueError(f'no sharding rule matches the path {name!r}')


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
  """A tree of NamedSharding like `tree` (arrays or ShapeDtypeStructs)."""

  def of(path, leaf):
    spec = spec_for(path_name(path))
    for size, axes in zip(leaf.shape, spec, strict=False):
      if size % ways(mesh, axes):
        raise InputError(
          f'{path_name(path)}: {size} is not divisible by {sizes(mesh, axes)}'
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(of, tree)


# What splits one dimension: no axis, one, or several.
Axes = str | tuple[str, ...] | None


def _names(axes: Axes) -> tuple[str, ...]:
  return (axes,) if isinstance(axes, str) else axes or ()


def ways(mesh: Any, axes: Axes = ROWS) -> int:
  """Parts that these axes split a dimension into."""
  return math.prod(mesh.shape[name] for name in _names(axes))


def sizes(mesh: Any, axes: Axes = ROWS) -> str:
  """'fsdp=4': of these axes those that split anything."""
  names = _names(axes)
  names = [name for name in names if mesh.shape[name] > 1] or names[-1:]
  return ' x '.join(f'{name}={mesh.shape[name]}' for name in names)


def fit(mesh: Any, shape: Sequence[int], *axes: Axes) -> P:
  """The spec of leading dimensions over these axes, as far as they divide.

  Of several axes the last ones go first; a single row is whole everywhere.
  """

  def of(size: int, axes: Axes) -> Axes:
    names = _names(axes)
    while size % ways(mesh, names):
      names = names[:-1]
    return names[0] if len(names) == 1 else names or None

  return P(*map(of, shape, axes[: len(shape)]))


def row_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
  """Of arrays [B, ...]: B over ROWS, and what follows over 'sequence'.

  The second where it divides; ValueError where the first does not.
  """
  if shape[0] % ways(mesh):
    raise ValueError(f'batch of {shape[0]} is not divisible by {sizes(mesh)}')
  return NamedSharding(mesh, fit(mesh, shape, ROWS, 'sequence'))


def place(mesh: Mesh, batch: Any) -> Any:
  """Host arrays [B, ...] onto the mesh, as row_sharding splits them.

  Every process has to give the same whole batch (the same seed makes the same
  order), and puts those rows on its devices that are theirs. Of a loader.Part
  no others are made.
  """

  def put(x):
    if isinstance(x, jax.Array):
      x = np.asarray(x)
    return jax.make_array_from_callback(
      x.shape, row_sharding(mesh, x.shape), x.__getitem__
    )

  return jax.tree.map(put, batch)


def mesh_of(x: jax.Array) -> Any:
  """The mesh that x lies on, without its devices; within a jitted function.

  Arguments carry it in their types, constants have none: it is `empty`. Within
  a shard_map over all of it it is that of one device.
  """
  mesh = jax.typeof(x).sharding.mesh
  if mesh.are_all_axes_manual and not mesh.empty:
    return mesh.update(axis_sizes=(1,) * len(mesh.axis_sizes))
  return mesh


def split(
  x: jax.Array, *axes: Axes, like: jax.Array | None = None
) -> jax.Array:
  """x, its leading dimensions over these mesh axes; within a jitted function.

  What XLA would choose by itself may be far worse: it follows the parameters,
  and computes all rows on every device. The mesh is that of x, or of `like`.
  Where there is none, or nothing divides, x stays as it is.
  """
  mesh = mesh_of(x if like is None else like)
  if mesh.size <= 1:
    return x
  spec = fit(mesh, x.shape, *axes)
  if not any(spec):
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def for_decoding(shardings: Any) -> Any:
  """The layout of parameters [...] that only 'model' splits.

  For a loop that reads all of them in every step, and would gather them as
  often.
  """

  def of(sharding: NamedSharding) -> NamedSharding:
    spec = (axis if axis == 'model' else None for axis in sharding.spec)
    return NamedSharding(sharding.mesh, P(*spec))

  return jax.tree.map(of, shardings)


def split_rows(tree: Any, *, like: jax.Array) -> Any:
  """Arrays [B, ...] split as `place` does; see split."""
  return jax.tree.map(lambda x: split(x, ROWS, 'sequence', like=like), tree)


def fetch(tree: Any) -> Any:
  """The whole arrays on the host, in every process: all have to call it.

  As jax.device_get, which cannot get what lies on other processes' devices.
  """

  def gathered(x):
    is_spread = isinstance(x, jax.Array) and not (
      x.is_fully_addressable or x.is_fully_replicated
    )
    return multihost_utils.process_allgather(x, tiled=True) if is_spread else x

  return jax.device_get(jax.tree.map(gathered, tree))

"""Where every array lives: one mesh, one table of rules.

Mesh axes: 'fsdp' splits the rows of a batch, 'sequence' the time of long rows,
and both of them the parameters; 'model' splits heads, MLP and vocabulary.
Layer-stacked parameters carry a leading L axis.
"""

from collections.abc import Sequence
import math
import re
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from hh_jax.errors import InputError

AXES = ('fsdp', 'sequence', 'model')
# What has no time, parameters or flat tokens, is split over both.
BOTH = ('fsdp', 'sequence')

# Path regex -> spec. Optimizer moments end in the path of their parameter.
RULES = (
  (r'(^|/)embedding$', P('model', BOTH)),
  (r'(^|/)blocks/qkv$', P(None, BOTH, None, 'model', None)),
  (r'(^|/)blocks/attn_out$', P(None, 'model', None, BOTH)),
  (r'(^|/)blocks/mlp_(in|gate)$', P(None, BOTH, 'model')),
  (r'(^|/)blocks/mlp_out$', P(None, 'model', BOTH)),
  (r'(^|/)blocks/(attn|mlp)_norm$', P()),
  (r'(^|/)(final_norm|scalar_head|scalar_bias)$', P()),
  (r'(^|/)(step|count|key)$', P()),
)


def make_mesh(
  *,
  fsdp: int = -1,
  sequence: int = 1,
  model: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh of all devices; fsdp=-1 takes what the other axes leave.

  Raises:
    ValueError: the devices cannot be laid out that way.
  """
  devices = jax.devices() if devices is None else list(devices)
  for name, size in (('sequence', sequence), ('model', model)):
    if size < 1:
      raise ValueError(f'mesh {name}={size} is not 1 or more')
  if fsdp == -1:
    fsdp = max(len(devices) // (sequence * model), 1)
  if fsdp < 1:
    raise ValueError(
      f'mesh fsdp={fsdp} is not 1 or more, or -1: what the others leave'
    )
  sizes = (fsdp, sequence, model)
  if math.prod(sizes) != len(devices):
    raise ValueError(
      f'mesh fsdp={fsdp} x sequence={sequence} x model={model} needs '
      f'{math.prod(sizes)} devices, there are {len(devices)}'
    )
  return jax.make_mesh(
    sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
  )


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
      if size % _ways(mesh, axes):
        raise InputError(
          f'{path_name(path)}: {size} is not divisible by {_sizes(mesh, axes)}'
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(of, tree)


# What splits one dimension: no axis, one, or several.
Axes = str | tuple[str, ...] | None


def _names(axes: Axes) -> tuple[str, ...]:
  return (axes,) if isinstance(axes, str) else axes or ()


def _ways(mesh: Any, axes: Axes) -> int:
  """Parts that these axes split a dimension into."""
  return math.prod(mesh.shape[name] for name in _names(axes))


def _sizes(mesh: Any, axes: Axes) -> str:
  """'fsdp=4', or of several axes those that split anything."""
  names = [name for name in _names(axes) if mesh.shape[name] > 1]
  return ' x '.join(f'{name}={mesh.shape[name]}' for name in names)


def fit(mesh: Any, shape: Sequence[int], *axes: Axes) -> P:
  """The spec of leading dimensions over these axes, as far as they divide.

  Of several axes the last ones go first; a single row is whole everywhere.
  """

  def of(size: int, axes: Axes) -> Axes:
    names = _names(axes)
    while size % _ways(mesh, names):
      names = names[:-1]
    return names[0] if len(names) == 1 else names or None

  return P(*map(of, shape, axes[: len(shape)]))


def row_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
  """Of arrays [B, ...]: B over 'fsdp', and what follows over 'sequence'.

  The second where it divides; ValueError where the first does not.
  """
  if shape[0] % mesh.shape['fsdp']:
    raise ValueError(
      f'batch of {shape[0]} is not divisible by fsdp={mesh.shape["fsdp"]}'
    )
  return NamedSharding(mesh, fit(mesh, shape, 'fsdp', 'sequence'))


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

  Arguments carry it in their types, constants have none: it is `empty`.
  """
  return jax.typeof(x).sharding.mesh


def split(
  x: jax.Array, *axes: Axes, like: jax.Array | None = None
) -> jax.Array:
  """x, its leading dimensions over these mesh axes; within a jitted function.

  What XLA would choose by itself may be far worse: it follows the parameters,
  and computes all rows on every device. The mesh is that of x, or of `like`.
  Where there is none, or nothing divides, x stays as it is.
  """
  mesh = mesh_of(x if like is None else like)
  if mesh.empty or mesh.size == 1:
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
  return jax.tree.map(lambda x: split(x, *BOTH, like=like), tree)


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

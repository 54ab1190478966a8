"""Where every array lives: one mesh, one table of rules.

Mesh axes: 'fsdp' splits the batch and the parameters, 'model' splits heads,
MLP and vocabulary. Layer-stacked parameters carry a leading L axis.
"""

from collections.abc import Sequence
import re
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from hh_jax.errors import InputError

AXES = ('fsdp', 'model')

# Path regex -> spec. Optimizer moments end in the path of their parameter.
RULES = (
  (r'(^|/)embedding$', P('model', 'fsdp')),
  (r'(^|/)blocks/qkv$', P(None, 'fsdp', None, 'model', None)),
  (r'(^|/)blocks/attn_out$', P(None, 'model', None, 'fsdp')),
  (r'(^|/)blocks/mlp_(in|gate)$', P(None, 'fsdp', 'model')),
  (r'(^|/)blocks/mlp_out$', P(None, 'model', 'fsdp')),
  (r'(^|/)blocks/(attn|mlp)_norm$', P()),
  (r'(^|/)(final_norm|scalar_head|scalar_bias)$', P()),
  (r'(^|/)(step|count|key)$', P()),
)


def make_mesh(
  *, fsdp: int = -1, model: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
  """A mesh of all devices; fsdp=-1 takes what `model` leaves.

  Raises:
    ValueError: the devices cannot be laid out that way.
  """
  devices = jax.devices() if devices is None else list(devices)
  if model < 1:
    raise ValueError(f'mesh model={model} is not 1 or more')
  if fsdp == -1:
    fsdp = max(len(devices) // model, 1)
  if fsdp < 1:
    raise ValueError(
      f'mesh fsdp={fsdp} is not 1 or more, or -1: what model leaves'
    )
  if fsdp * model != len(devices):
    raise ValueError(
      f'mesh fsdp={fsdp} x model={model} needs {fsdp * model} devices, '
      f'there are {len(devices)}'
    )
  return jax.make_mesh(
    (fsdp, model), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices
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
    for size, axis in zip(leaf.shape, spec, strict=False):
      if axis is not None and size % mesh.shape[axis]:
        raise InputError(
          f'{path_name(path)}: {size} is not divisible by {axis}='
          f'{mesh.shape[axis]}'
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(of, tree)


def place(mesh: Mesh, batch: Any) -> Any:
  """Host arrays [B, ...] onto the mesh, B split over 'fsdp'.

  Every process has to give the same whole batch (the same seed makes the same
  order), and puts those rows on its devices that are theirs. Of a loader.Part
  no others are made.
  """
  sharding = NamedSharding(mesh, P('fsdp'))

  def put(x):
    if x.shape[0] % mesh.shape['fsdp']:
      raise ValueError(
        f'batch of {x.shape[0]} is not divisible by fsdp={mesh.shape["fsdp"]}'
      )
    if isinstance(x, jax.Array):
      x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(put, batch)


def split(
  x: jax.Array, *axes: str | None, like: jax.Array | None = None
) -> jax.Array:
  """x, its leading dimensions over these mesh axes; within a jitted function.

  What XLA would choose by itself may be far worse: it follows the parameters,
  and computes all rows on every device. The mesh is that of the type of x, or
  of `like` (constants have none); arguments carry it into a jitted function.
  Where there is none, or a dimension does not divide (a single row), x stays
  as it is.
  """
  mesh = jax.typeof(x if like is None else like).sharding.mesh
  if mesh.empty or mesh.size == 1:
    return x
  sizes = [mesh.shape[axis] if axis else 1 for axis in axes]
  if any(n % size for n, size in zip(x.shape, sizes, strict=False)):
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*axes)))


def gathered(params: Any) -> Any:
  """Parameters that 'fsdp' no longer splits; within a jitted function.

  For a loop that reads all of them in every step, and would gather them as
  often.
  """

  def of(path, x):
    spec = spec_for(path_name(path))
    return split(x, *(None if axis == 'fsdp' else axis for axis in spec))

  return jax.tree_util.tree_map_with_path(of, params)


def split_rows(tree: Any, *, like: jax.Array) -> Any:
  """Arrays [B, ...], B split as `place` does; see split."""
  return jax.tree.map(lambda x: split(x, 'fsdp', like=like), tree)


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

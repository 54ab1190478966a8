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
  if fsdp == -1 and model > 0:
    fsdp = len(devices) // model
  if model < 1 or fsdp * model != len(devices):
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
  order), and puts those rows on its devices that are theirs.
  """
  sharding = NamedSharding(mesh, P('fsdp'))

  def put(x):
    if x.shape[0] % mesh.shape['fsdp']:
      raise ValueError(
        f'batch of {x.shape[0]} is not divisible by fsdp={mesh.shape["fsdp"]}'
      )
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(put, batch)


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

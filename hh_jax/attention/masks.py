"""Which tokens see which.

Axis letters: B batch, T query time, S key time.
"""

import flax.struct
import jax.numpy as jnp

from hh_jax import arrays
from hh_jax.arrays import Columns
from hh_jax.types import Array


@flax.struct.dataclass
class Packed:
  """Rows of sequences, by two ids a token: the mask of a training pass.

  A token sees itself and the earlier tokens of its own segment; with branches,
  only those of branch 0 or of its own: the prompt comes first in a segment.
  Padding (segment 0) sees padding, so that no softmax row is empty; nothing
  real sees it.
  """

  segments: Array  # int32 [B, S], none negative
  branches: Array | None = None  # int32 [B, S], 0 prompt, 1 and 2 its replies

  def dense(self, columns: Columns | None = None) -> Array:
    """True where the query sees the key, bool [B, S, S].

    With columns of the queries in these alone, [B, T, S]; [B, S, S] is never
    made.
    """
    key_at = jnp.arange(self.segments.shape[1])[None]

    def of_queries(x: Array) -> Array:
      if columns is not None:
        x = arrays.take_columns(x[..., None], columns)[..., 0]
      return x[:, :, None]

    own = of_queries(self.segments) == self.segments[:, None]
    if columns is None or isinstance(columns, slice):
      query_at = of_queries(key_at)
    else:
      query_at = columns[:, :, None]
    mask = (query_at >= key_at[:, None]) & own
    if self.branches is not None:
      key_branch = self.branches[:, None]
      of_query = of_queries(self.branches)
      mask &= (key_branch == 0) | (key_branch == of_query)
    return mask


# Packed, or bool [B, T, S] for queries that see anything else.
Mask = Packed | Array


def of_columns(mask: Mask, columns: Columns | None) -> Array:
  """The dense mask of the queries in `columns`, bool [B, T, S]."""
  if isinstance(mask, Packed):
    return mask.dense(columns)
  return mask if columns is None else arrays.take_columns(mask, columns)

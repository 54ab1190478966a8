"""Several preference models as one (Coste et al. 2023); E members."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hh_jax.types import Array, Params

HOW = ('mean', 'worst', 'mean_minus_variance')
# scores [E, ...] -> [...]
CombineFn = Callable[[Array], Array]


def combine(scores: Array, *, how: str, k: float) -> Array:
  """One score from those of E members: [E, ...] -> [...], PM units.

  'mean'; 'worst', the smallest; 'mean_minus_variance', the mean less k times
  the variance over members (divided by E), Coste et al. 2023's uncertainty-
  weighted optimisation. Scores are defined up to a constant, so every member
  has to be centred on the same replies before. NaN in, NaN out.
  """
  if how == 'mean':
    return scores.mean(axis=0)
  if how == 'worst':
    return scores.min(axis=0)
  if how == 'mean_minus_variance':
    return scores.mean(axis=0) - k * scores.var(axis=0)
  raise ValueError(f'how {how!r} is none of {HOW}')


def over_members(
  score: Callable[[Params], Any], params: Params, combine_fn: CombineFn
) -> Any:
  """score(params), or, of a tuple of members, their scores as one.

  A loop, not a vmap: members keep their shardings, and are never copied.
  """
  if not isinstance(params, tuple):
    return score(params)
  members = [score(member) for member in params]
  return jax.tree.map(lambda *x: combine_fn(jnp.stack(x)), *members)

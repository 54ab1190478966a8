"""Sampling replies, and scoring them under the same distribution.

Prompts are padded on the left to P columns, replies on the right to R, so
reply token i of every row sits in column P + i.
"""

from hh_jax.sampling.distribution import (
  MIN_TEMPERATURE,
  SamplingDistribution,
  reply_distribution,
)  # fmt: skip
from hh_jax.sampling.replies import at_once, sample
from hh_jax.sampling.rows import (
  column_positions,
  default_widths,
  end_scores,
  reply_hidden,
  reply_tokens,
  row_keys,
  row_mask,
)  # fmt: skip
from hh_jax.sampling.turns import cut_at_markers

__all__ = [
  'MIN_TEMPERATURE',
  'SamplingDistribution',
  'at_once',
  'column_positions',
  'cut_at_markers',
  'default_widths',
  'end_scores',
  'reply_distribution',
  'reply_hidden',
  'reply_tokens',
  'row_keys',
  'row_mask',
  'sample',
]

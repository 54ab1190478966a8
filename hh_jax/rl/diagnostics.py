"""What replies look like: repetition and variety. Host side, NumPy."""

from collections.abc import Sequence

import numpy as np


def _ngrams(reply: Sequence[int], n: int) -> list[tuple[int, ...]]:
  return [tuple(reply[i : i + n]) for i in range(len(reply) - n + 1)]


def repetition(replies: Sequence[Sequence[int]], *, n: int) -> float:
  """Share of n-grams that occurred before in their own reply, over all.

  0 where no reply has n tokens.
  """
  total = repeated = 0
  for reply in replies:
    grams = _ngrams(reply, n)
    total += len(grams)
    repeated += len(grams) - len(set(grams))
  return repeated / total if total else 0.0


def distinct(replies: Sequence[Sequence[int]], *, n: int) -> float:
  """Distinct n-grams over n-grams, all replies together (Li et al. 2016).

  1 where no reply has n tokens. It falls with the number of replies, so only
  compare batches of one size.
  """
  grams = [gram for reply in replies for gram in _ngrams(reply, n)]
  return len(set(grams)) / len(grams) if grams else 1.0


def describe(tokens: np.ndarray, reply_mask: np.ndarray) -> dict[str, float]:
  """Of a rollout's tokens [B, P + R] and reply_mask [B, R], stops included."""
  width = tokens.shape[1] - reply_mask.shape[1]
  lengths = reply_mask.sum(axis=1).astype(int)
  replies = [
    row[width : width + n].tolist()
    for row, n in zip(tokens, lengths, strict=True)
  ]
  return {
    'repetition': repetition(replies, n=4),
    'distinct_1': distinct(replies, n=1),
    'distinct_2': distinct(replies, n=2),
  }

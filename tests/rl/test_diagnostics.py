import numpy as np
import pytest

from hh_jax.rl import diagnostics


def test_repetition_by_hand():
  # 2-grams: ab ba ab | bc cd -> one of five came before in its own reply
  assert diagnostics.repetition([[1, 2, 1, 2], [2, 3, 4]], n=2) == 1 / 5
  assert diagnostics.repetition([[1, 2], []], n=4) == 0.0


def test_distinct_counts_over_all_replies():
  assert diagnostics.distinct([[1, 2, 1], [1, 2]], n=1) == 2 / 5
  assert diagnostics.distinct([[1, 2, 1], [1, 2]], n=2) == 2 / 3
  assert diagnostics.distinct([[]], n=1) == 1.0


def test_only_reply_tokens_count():
  tokens = np.array([[9, 9, 9, 5, 6, 7, 8], [9, 9, 9, 5, 0, 0, 0]])
  mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
  got = diagnostics.describe(tokens, mask)
  assert got == {
    'repetition': 0.0,
    'distinct_1': pytest.approx(4 / 5),
    'distinct_2': 1.0,
  }

import dataclasses
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from hh_jax.data import hh_rlhf, packing
from hh_jax.data.examples import Pair


@given(st.lists(st.integers(1, 20), max_size=60), st.integers(1, 8))
@settings(deadline=None)
def test_first_fit_holds_every_item_once_within_capacity(lengths, window):
  rows = packing.first_fit(lengths, 20, window=window)
  assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
  assert all(sum(lengths[i] for i in row) <= 20 for row in rows)


def test_first_fit_by_hand_and_refusal():
  assert packing.first_fit([5, 6, 4, 4, 1], 10) == [[0, 2, 4], [1, 3]]
  with pytest.raises(ValueError, match='item 1 is 11 long'):
    packing.first_fit([3, 11], 10)


def test_documents_by_hand():
  rows = packing.pack_documents(
    [[2, 5, 3], [2, 3], [2, 6, 7, 8, 3]], row_length=5
  )
  np.testing.assert_array_equal(rows.tokens, [[2, 5, 3, 2, 3], [2, 6, 7, 8, 3]])
  np.testing.assert_array_equal(
    rows.positions, [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
  )
  np.testing.assert_array_equal(
    rows.segments, [[1, 1, 1, 2, 2], [1, 1, 1, 1, 1]]
  )
  np.testing.assert_array_equal(
    rows.loss_mask, [[0, 1, 1, 0, 1], [0, 1, 1, 1, 1]]
  )


def test_targets_begin_where_they_are_asked_to():
  rows = packing.pack_documents(
    [[2, 5, 6, 3], [2, 7, 3], list(range(10, 17))],
    row_length=5,
    first_targets=[3, 1, 6],
  )
  targets = [
    (int(t), int(p))
    for t, p, m in zip(
      *(x.ravel() for x in (rows.tokens, rows.positions, rows.loss_mask)),
      strict=True,
    )
    if m
  ]
  # the first token of a piece is none, whatever was asked for
  assert sorted(targets) == [(3, 2), (3, 3), (7, 1), (16, 1)]


def test_a_long_document_is_cut_into_pieces_that_keep_every_token():
  rows = packing.pack_documents([list(range(10, 22))], row_length=5)
  real = rows.tokens[rows.segments > 0]
  assert sorted(real.tolist()) == list(range(10, 22))


def test_pairs_by_hand():
  pairs = [packing.PairTokens([2, 9], [8, 4], [4]), None]
  rows = packing.pack_pairs(pairs, row_length=6, max_pairs=2)
  np.testing.assert_array_equal(rows.tokens, [[2, 9, 8, 4, 4, 0]])
  np.testing.assert_array_equal(rows.positions, [[0, 1, 2, 3, 2, 0]])
  np.testing.assert_array_equal(rows.branches, [[0, 0, 1, 1, 2, 0]])
  np.testing.assert_array_equal(rows.segments, [[1, 1, 1, 1, 1, 0]])
  np.testing.assert_array_equal(rows.chosen_end, [[3, 0]])
  np.testing.assert_array_equal(rows.rejected_end, [[4, 0]])
  np.testing.assert_array_equal(rows.pair_ids, [[0, -1]])
  np.testing.assert_array_equal(rows.pair_mask, [[1, 0]])


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_every_pair_is_packed_once_and_comes_out_again(seed):
  rng = np.random.default_rng(seed)
  pairs = [
    packing.PairTokens(
      *(rng.integers(5, 99, n).tolist() for n in rng.integers(1, 10, 3))
    )
    for _ in range(rng.integers(1, 30))
  ]
  rows = packing.pack_pairs(pairs, row_length=32, max_pairs=3)
  found = {}
  for r, m in zip(*np.nonzero(rows.pair_mask), strict=True):
    mine = rows.segments[r] == m + 1
    parts = [
      rows.tokens[r][mine & (rows.branches[r] == b)].tolist() for b in range(3)
    ]
    found[rows.pair_ids[r, m]] = packing.PairTokens(*parts)
    assert rows.tokens[r, rows.chosen_end[r, m]] == parts[1][-1]
    assert rows.tokens[r, rows.rejected_end[r, m]] == parts[2][-1]
  assert found == dict(enumerate(pairs))


@dataclasses.dataclass
class Letters:
  """One id a character, as encode_pairs needs it."""

  bos_id: int = 2
  eoc_id: int = 4

  def encode(self, text):
    return [ord(c) for c in text]


def pair(prompt, chosen, rejected):
  return Pair(prompt, chosen, rejected, conversation='c', source='s')


def test_long_prompts_lose_their_start_and_long_replies_are_counted():
  tokens, counts = packing.encode_pairs(
    [pair('abc', 'x', 'y'), pair('abcdef', 'x', 'yz'), pair('a', 'x' * 5, 'y')],
    Letters(),
    row_length=8,
  )
  assert tokens[0] == packing.PairTokens(
    [2, *b'abc'], [ord('x'), 4], [ord('y'), 4]
  )
  assert tokens[1] == packing.PairTokens(
    [*b'def'], [ord('x'), 4], [*b'yz', 4], is_cut=True
  )
  assert tokens[2] is None
  assert counts == {'kept': 2, 'prompt_cut': 1, 'dropped_over_long': 1}


def test_prompts_are_padded_left_and_long_ones_counted():
  rows, dropped = packing.pad_prompts([[5, 6], [7] * 9, [8]], length=3)
  np.testing.assert_array_equal(rows.tokens, [[0, 5, 6], [0, 0, 8]])
  np.testing.assert_array_equal(rows.lengths, [2, 1])
  np.testing.assert_array_equal(rows.ids, [0, 2])
  assert dropped == 1


@pytest.mark.parametrize('row_length', [256, 1024])
def test_rows_of_real_pairs_are_nearly_full(shared_data, row_length):
  """At most 5 % padding on red-teaming pairs, the ends of an epoch included."""
  path = shared_data / 'hh-rlhf' / 'harmless-base' / 'test.jsonl.gz'
  pairs, _ = hh_rlhf.load_pairs(path, 'real')
  words = re.compile(r'\w+|[^\w\s]')

  def ids(text):
    return [7] * len(words.findall(text))

  tokens = [
    packing.PairTokens(
      [2, *ids(p.prompt)], [*ids(p.chosen), 4], [*ids(p.rejected), 4]
    )
    for p in pairs
  ]
  fitting = [t for t in tokens if len(t) <= row_length]
  rows = packing.pack_pairs(fitting, row_length=row_length, max_pairs=32)
  assert rows.pair_mask.sum() == len(fitting) > 1500
  assert np.mean(rows.segments == 0) <= 0.05

import chex
import numpy as np
import pytest

from hh_jax.sampling import turns
from hh_jax.types import Samples

PIECES = {1: ' a', 2: '\n', 3: 'Hum', 4: 'an:', 5: ' b', 6: '\n\nHuman:', 9: ''}


def decode(ids):
  return ''.join(PIECES[i] for i in ids)


@pytest.mark.parametrize(
  ('ids', 'kept'),
  [
    ([1, 5], 2),
    ([1, 2, 2, 3, 4, 5], 1),  # ' a\n\nHuman: b'
    ([1, 2, 5, 2, 2, 3, 4], 3),
    ([1, 2, 2, 3], 4),  # no marker: '\n\nHum'
    ([6, 1], 1),  # begins with it: one token stays
    ([], 0),
  ],
)
def test_tokens_before_a_spelt_marker(ids, kept):
  assert turns.tokens_of_turn(ids, decode) == kept


def samples(replies, stopped):
  r = 6
  tokens = np.array([[8, 8, *ids, *[0] * (r - len(ids))] for ids in replies])
  lengths = np.array([len(ids) for ids in replies], np.int32)
  mask = (np.arange(r)[None] < lengths[:, None]).astype(np.float32)
  return Samples(
    tokens=tokens.astype(np.int32),
    prompt_lengths=np.array([2, 1], np.int32),
    reply_lengths=lengths,
    reply_mask=mask,
    is_stopped=np.array(stopped),
    logprobs=-mask,
  )


def test_a_cut_reply_is_as_if_nothing_had_followed():
  # 9 is the stop token of both
  drawn = samples([[1, 2, 2, 3, 4, 9], [1, 5, 9]], [True, True])
  got, is_cut = turns.cut_at_markers(drawn, decode)
  wanted = samples([[1], [1, 5, 9]], [False, True])
  chex.assert_trees_all_equal(got, wanted)
  assert is_cut.tolist() == [True, False]


def test_replies_of_one_turn_are_left_alone():
  drawn = samples([[1, 2, 2, 3], [1, 5, 9]], [False, True])
  got, is_cut = turns.cut_at_markers(drawn, decode)
  assert got is drawn and not is_cut.any()

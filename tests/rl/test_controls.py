import dataclasses
import json

import numpy as np
import pytest

from hh_jax.rl import controls


def scores(n=200, seed=0):
  return np.random.default_rng(seed).normal(3.0, 2.0, n)


def test_running_moments_are_those_of_all_scores():
  first, *later = np.split(scores(400), 4)
  got = controls.initial(first, kl_coef=0.1, score_norm='running')
  for batch in later:
    got.seen_scores(batch.mean(), batch.std(), len(batch))
  assert got.score_mean == pytest.approx(scores(400).mean(), rel=1e-12)
  assert got.score_var == pytest.approx(scores(400).var(), rel=1e-12)
  assert got.score_count == 400


def test_centring_leaves_the_scale_alone():
  got = controls.initial(scores(), kl_coef=0.1, score_norm='centre').arrays()
  assert got['score_std'] == 1.0
  assert got['score_mean'] == pytest.approx(scores().mean())
  whitened = controls.initial(scores(), kl_coef=0.1, score_norm='whiten')
  assert whitened.arrays()['score_std'] == pytest.approx(scores().std())


def test_they_survive_json_to_the_last_bit():
  got = controls.initial(scores(), kl_coef=0.1 / 3, score_norm='running')
  got.seen_kl(9.0, target=6.0, samples=128, horizon=10_000)
  got.seen_scores(1 / 3, 1 / 7, 10)
  text = json.dumps(dataclasses.asdict(got))
  assert controls.Controls(**json.loads(text)) == got
  assert got.kl_coef > 0.1 / 3


@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    (np.full(5, 0.25), 'all 5 replies the score 0.25'),
    (np.array([1.0, np.nan]), 'not finite'),
    (np.array([1.0, np.inf]), 'not finite'),
  ],
)
def test_scores_that_teach_nothing_are_refused(bad, message):
  with pytest.raises(ValueError, match=message):
    controls.initial(bad, kl_coef=0.1, score_norm='centre')

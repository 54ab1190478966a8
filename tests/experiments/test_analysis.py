"""Claims with errors from numbers that can be worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from experiments import analysis
from hh_jax.errors import InputError
from tests.experiments import made_up_sweep


@pytest.mark.parametrize(
  'values, holds, because',
  [
    ([0.1, 0.1, 0.1], True, 'the 95 % interval is above 0'),
    ([-0.1, -0.1], False, 'the 95 % interval is below 0'),
    # mean 2, standard error 1: 4.30 standard errors reach below 0
    ([2 - 3**0.5, 2.0, 2 + 3**0.5], False, 'the 95 % interval holds 0'),
    ([0.1], None, 'one seed has no error'),
  ],
)
def test_a_claim_holds_where_the_interval_is_above_0(values, holds, because):
  found = analysis.claim('it rises', values)
  assert (found['holds'], found['because']) == (holds, because)
  assert found['mean'] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
  'error, holds, because',
  [
    (0.01, True, 'over seeds is above 0'),  # +-.0196; over seeds +-.0248
    (0.04, True, 'over conversations is above 0'),  # .1 +- .0784
    (0.06, False, 'over conversations holds 0'),  # .1 +- .1176
    (float('nan'), False, 'over conversations holds 0'),
  ],
)
def test_both_intervals_have_to_be_above_0(error, holds, because):
  values = [0.09, 0.1, 0.11]
  found = analysis.claim('it rises', values, over_conversations=error)
  assert found['holds'] is holds
  assert found['because'] == f'the 95 % interval {because}'
  assert found['se'] == pytest.approx(0.01 / 3**0.5)
  assert found['se_conversations'] == (error if error == error else None)
  found = analysis.claim('it rises', [0.1], over_conversations=error)
  assert found['holds'] is None


def test_an_estimate_has_the_error_of_a_mean():
  found = analysis.estimate([1.0, 3.0])
  assert (found.mean, found.se, found.seeds) == (2.0, 1.0, 2)
  assert found.half == pytest.approx(12.71)
  for seeds in (2, 3, 7, 12, 20):  # the table ends at 12
    found = analysis.estimate(np.arange(seeds))
    exact = stats.t.ppf(0.975, seeds - 1) * found.se
    assert 0.999 * exact < found.half < 1.06 * exact


def test_a_seed_that_is_not_finite_is_no_evidence():
  with pytest.raises(InputError, match='not finite'):
    analysis.claim('it rises', [0.1, float('nan')])


def test_accuracy_by_kind_and_their_mean(tmp_path):
  made_up_sweep.write_pm(
    tmp_path, 'x', 'tiny', 0, right={'helpful': 15, 'harmless': 5}
  )
  path = tmp_path / 'pm/x/tiny/seed0'
  assert analysis.accuracies(path) == {
    'all': 0.5,
    'helpful': 0.75,
    'harmless': 0.25,
    'mean': 0.5,
  }
  made_up_sweep.write_pm(tmp_path, 'y', 'tiny', 0, right={'harmless': 5})
  path = tmp_path / 'pm/y/tiny/seed0'
  assert analysis.accuracies(path) == {'all': 0.25, 'harmless': 0.25}


def test_a_curve_has_the_comparisons_seen_at_each_evaluation(tmp_path):
  points = {10: {'helpful': 0.6}, 30: {'helpful': 0.7}}
  made_up_sweep.write_pm(tmp_path, 'x', 'tiny', 0, curve=points)
  found = analysis.curve(tmp_path / 'pm/x/tiny/seed0')
  np.testing.assert_array_equal(found.pairs, [0, 10, 30])
  np.testing.assert_array_equal(found.accuracy['helpful'], [0.5, 0.6, 0.7])
  assert 'harmless' not in found.accuracy
  assert analysis.at(found, 20) == pytest.approx(0.65)


def test_a_fit_without_enough_points_is_refused():
  with pytest.raises(InputError, match='2 points cannot fit 3 numbers'):
    analysis.fit([1.0, 2.0], [0.0, 1.0], [0.0, 2.0])


def test_only_seeds_that_all_sizes_have_count():
  runs = [('tiny', 0), ('tiny', 1), ('mini', 1), ('mini', 2)]
  assert analysis.shared_seeds(runs) == [1]
  assert analysis.in_order(['mini', '13M', 'tiny', 'mini']) == [
    'tiny',
    'mini',
    '13M',
  ]
  assert analysis.parameters('13M') == 12 * 4 * 512**2

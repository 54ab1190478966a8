"""Numbers of the report card, by hand."""

import numpy as np
import pytest
import scipy.stats

from hh_jax.errors import InputError
from hh_jax.evals import figures, preference, report_card

BOOTSTRAP = {'num_samples': 200, 'seed': 0}
SETTINGS = dict(
  thresholds=(-9.0, 0.0, 9.0),
  length_share=0.1,
  num_bins=1,
  histogram_bins=4,
  **BOOTSTRAP,
)


def row(chosen, rejected, chars=(10, 10), **changes):
  return {
    'source': 'a',
    'turns': 1,
    'score_chosen': chosen,
    'score_rejected': rejected,
    'chosen_chars': chars[0],
    'rejected_chars': chars[1],
    'p_chosen': None,
  } | changes


def test_equal_values_share_their_mean_rank():
  ranks = report_card.ranks([10.0, 20.0, 10.0, 5.0, 10.0])
  np.testing.assert_array_equal(ranks, [3, 5, 3, 1, 3])


def test_pearson_by_hand():
  # (-1, 0, 1) and (-7, -1, 8) / 3: 15 / 3 over sqrt(2 * 114 / 9)
  expected = 5 / np.sqrt(2 * 114 / 9)
  assert report_card.pearson([1, 2, 3], [2, 4, 7]) == pytest.approx(expected)
  assert report_card.pearson([1, 2, 3], [-2, -4, -7]) == pytest.approx(
    -expected
  )


def test_spearman_by_hand():
  # ranks (1, 2, 3) and (1, 3, 2): 1 - 6 * 2 / (3 * 8)
  assert report_card.spearman([1, 2, 9], [0, 50, 7]) == pytest.approx(0.5)


def test_correlations_agree_with_scipy():
  rng = np.random.default_rng(0)
  x = rng.integers(6, size=80)  # many ties
  y = x + rng.integers(9, size=80)
  for ours, theirs in (
    (report_card.pearson, scipy.stats.pearsonr),
    (report_card.spearman, scipy.stats.spearmanr),
  ):
    assert ours(x, y) == pytest.approx(theirs(x, y).statistic, rel=1e-12)


@pytest.mark.parametrize(
  ('x', 'y', 'message'),
  [
    ([1, 1], [1, 2], 'constant'),
    ([1, 2], [3, 3], 'constant'),
    ([], [], 'constant'),
    ([1, 2], [1, 2, 3], 'want two'),
  ],
)
def test_correlation_refuses(x, y, message):
  with pytest.raises(ValueError, match=message):
    report_card.pearson(x, y)


def test_a_correlation_within_pairs_is_blind_to_the_side():
  rng = np.random.default_rng(1)
  margins, lengths = rng.normal(size=(2, 50)) + 1
  sign = rng.choice([-1, 1], size=50)
  results = [
    fn(report_card.both_ways(m), report_card.both_ways(n))
    for fn in (report_card.pearson, report_card.spearman)
    for m, n in ((margins, lengths), (sign * margins, sign * lengths))
  ]
  assert results[0] == pytest.approx(results[1])
  assert results[2] == pytest.approx(results[3])
  # each pair's two replies less their mean
  assert results[0] == pytest.approx(
    margins @ lengths / np.sqrt((margins @ margins) * (lengths @ lengths))
  )


def test_length_slope_by_hand():
  assert report_card.length_slope([1, 2], [1, 3]) == pytest.approx(0.7)
  assert report_card.length_slope([-1, 2], [-1, 3]) == pytest.approx(0.7)
  with pytest.raises(ValueError, match='no slope'):
    report_card.length_slope([1, 2], [0, 0])


def test_replies_of_about_one_length():
  matched = report_card.is_length_matched(
    [100, 100, 100, 90, 5], [90, 89, 110, 100, 5], 0.1
  )
  np.testing.assert_array_equal(matched, [True, False, True, True, True])


def test_scores_are_centred_on_all_replies():
  assert report_card.centre([1.0, 3.0], [0.0, -2.0]) == 0.5


def test_thresholds_by_hand():
  chosen = np.array([2.0, 1.0, 0.0, -1.0])
  rejected = np.array([1.0, 2.0, -1.0, 5.0])
  curve = report_card.above_thresholds(
    chosen,
    rejected,
    np.arange(4),
    thresholds=(1.0, -5.0, 0.0, -1.0),
    **BOOTSTRAP,
  )
  # lowest of the two: 1, 1, -1, -1; above, not at, the threshold
  np.testing.assert_array_equal(curve.threshold, [-5, -1, 0])
  np.testing.assert_array_equal(curve.count, [4, 2, 2])
  np.testing.assert_array_equal(curve.accuracy, [0.5, 0.5, 0.5])
  assert (curve.low <= curve.accuracy).all()
  assert (curve.accuracy <= curve.high).all()
  other = report_card.above_thresholds(
    chosen[:1], rejected[:1], np.arange(1), thresholds=(0.0,), **BOOTSTRAP
  )
  assert other.accuracy == [1.0]


def test_no_threshold_is_passed():
  ones = np.ones(2)
  curve = report_card.above_thresholds(
    ones, ones, ones, thresholds=(1.0,), **BOOTSTRAP
  )
  assert [x.size for x in curve] == [0] * 5


def test_equal_outcomes_get_an_interval_by_groups():
  found = report_card.share([1, 1, 1, 1], ['a', 'a', 'b', 'b'], **BOOTSTRAP)
  # Wilson for 2 of 2: 1 / (1 + 1.96 ** 2 / 2)
  assert found == pytest.approx((1, 1 / (1 + 1.96**2 / 2), 1, 4))
  mixed = report_card.share([1, 0, 1, 1], [1, 2, 3, 4], **BOOTSTRAP)
  assert mixed.value == 0.75 and mixed.low < 0.75 < mixed.high
  with pytest.raises(ValueError, match='N >= 1'):
    report_card.share([], [], **BOOTSTRAP)


def test_ranges_are_those_of_the_calibration_bins():
  margins = [3.0, -1.0, 0.5, -4.0, 2.0]
  np.testing.assert_array_equal(
    report_card.margin_ranges(margins, 2), [[0.5, 2.0], [3.0, 4.0]]
  )
  margins = np.random.default_rng(0).normal(size=103)
  ranges = report_card.margin_ranges(margins, 7)
  bins = preference.calibration(margins, 7)
  for (low, high), mean, count in zip(
    ranges, bins.margin, bins.count, strict=True
  ):
    sizes = np.abs(margins)
    inside = sizes[(sizes >= low) & (sizes <= high)]
    assert inside.size == count and inside.mean() == pytest.approx(mean)


def test_histogram_counts_every_reply_once():
  counts = report_card.histogram(
    np.array([0.0, 1.0, 4.0]), np.array([0.0, 0.5, 3.9]), 4
  )
  np.testing.assert_array_equal(counts.edges, [0, 1, 2, 3, 4])
  np.testing.assert_array_equal(counts.chosen, [1, 1, 0, 1])
  np.testing.assert_array_equal(counts.rejected, [2, 0, 0, 1])


def test_kinds_of_sources():
  names = ('harmless-base', 'gold-helpful-base', 'online')
  assert [report_card.kind(name) for name in names] == [
    'harmless',
    'helpful',
    'other',
  ]


def test_invariance_by_hand():
  base = [[1.0, 0.0], [0.25, 0.5]]
  variants = {
    'same': base,
    'moved': [[1.5, 0.0], [0.25, 0.5]],
    'turned': [[1.0, 0.0], [0.5, 0.375]],
  }
  assert report_card.invariance(base, variants) == {
    'same': 0,
    'moved': 0.5,
    'turned': 0.25,
    'largest': 0.5,
    'changed': 1,
    'changed_margin': 0.25,
    'pairs': 2,
  }
  still = report_card.invariance(base, {'same': base})
  assert still['changed'] == still['changed_margin'] == 0
  with pytest.raises(ValueError, match='short'):
    report_card.invariance(base, {'short': base[:1]})


def test_card_by_hand():
  rows = [
    row(2.0, 0.0, (20, 10), source='helpful-base'),
    row(1.0, 2.0, (10, 20), source='helpful-base', turns=2),
    row(0.0, -1.0, (10, 10), source='harmless-base'),
    row(-1.0, 1.0, (19, 20), source='other'),
  ]
  card = report_card.card(rows, **SETTINGS)
  expected = {
    'pm/accuracy': 0.5,
    'pm/helpful-base/accuracy': 0.5,
    'pm/turns_2/accuracy': 0.0,
    'kind/helpful/accuracy': 0.5,
    'kind/helpful/pairs': 2,
    'kind/harmless/accuracy': 1.0,
    'kind/other/accuracy': 0.0,
    'score/centre': 0.5,
    # both above 0.5 of all scores: only the second pair
    'threshold/all/-9/pairs': 4,
    'threshold/all/0/pairs': 1,
    'threshold/all/0/accuracy': 0.0,
    'threshold/helpful/0/pairs': 1,
    # margins 2, -1, 1, -2 and lengths 10, -10, 0, -1
    'length/slope': 32 / 201,
    'length/pair_pearson': 32 / np.sqrt(10 * 201),
    # 2 - 1.59, -1 + 1.59, 1, -2 + 0.16
    'length/removed/accuracy': 0.75,
    'length/matched/pairs': 2,
    'length/matched/accuracy': 0.5,
  }
  assert {k: card.numbers[k] for k in expected} == pytest.approx(expected)
  assert 'threshold/all/9/pairs' not in card.numbers
  assert 'threshold/harmless/0/pairs' not in card.numbers
  assert 'pm/bayes_ceiling' not in card.numbers
  assert set(card.thresholds) == {'all', 'helpful', 'harmless', 'other'}
  assert card.notes == []
  np.testing.assert_array_equal(card.bins.count, [4])
  assert card.histogram.chosen.sum() == 4


@pytest.mark.parametrize(
  ('counts', 'ticks'),
  [([300, 700], [100, 1000]), ([2, 150], [1, 10, 100, 1000]), ([1], [1, 10])],
)
def test_pairs_are_drawn_by_decades(counts, ticks):
  some = np.linspace(0, 1, len(counts))
  curve = report_card.Thresholds(*[some] * 4, np.array(counts))
  _, below = figures.threshold_accuracy({'all': curve}).axes
  assert below.get_yticks().tolist() == ticks
  labels = below.get_yticklabels(minor=True)
  assert not any(label.get_text() for label in labels)


def test_one_kind_is_not_drawn_twice():
  rows = [row(1.0, 0.0, source='helpful-base'), row(0.0, 2.0)]
  assert 'helpful' in report_card.card(rows, **SETTINGS).thresholds
  assert set(report_card.card(rows[1:], **SETTINGS).thresholds) == {'all'}


def test_a_card_depends_on_differences_of_scores_only():
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(40, 2))
  chars = rng.integers(1, 99, (40, 2)).tolist()
  both = [
    report_card.card(
      [row(*(s + shift), c) for s, c in zip(scores, chars, strict=True)],
      **SETTINGS,
    ).numbers
    for shift in (0.0, 7.0)
  ]
  assert both[1].pop('score/centre') == pytest.approx(
    both[0].pop('score/centre') + 7
  )
  assert both[0] == pytest.approx(both[1])


def test_what_cannot_be_said_is_noted():
  rows = [row(1.0, 0.0, (10, 10)), row(0.0, 1.0, (10, 10))]
  card = report_card.card(rows, **SETTINGS)
  assert 'constant' in card.notes[0]
  assert 'length/slope' not in card.numbers
  assert card.numbers['length/matched/pairs'] == 2
  rows = [row(1.0, 0.0, (10, 20)), row(0.0, 1.0, (30, 20))]
  card = report_card.card(rows, **SETTINGS)
  assert card.notes == [
    'No two replies have lengths within 10 % of each other.'
  ]
  assert 'length/matched/pairs' not in card.numbers


def test_a_pm_that_knows_nothing_gets_a_card():
  card = report_card.card([row(0.0, 0.0)] * 5, **SETTINGS)
  assert card.numbers['pm/accuracy'] == 0.5
  low = card.numbers['pm/accuracy_low']  # ties alone: nothing to resample
  assert low == card.numbers['kind/other/accuracy_low'] < 0.5
  assert card.histogram.chosen.sum() == 5
  assert set(card.thresholds['all'].threshold) == {-9}
  drawings = (
    figures.threshold_accuracy(card.thresholds),
    figures.score_histogram(card.histogram),
    figures.calibration(card.bins, card.margins),
  )
  assert all(figures.png(d).startswith(b'\x89PNG') for d in drawings)


def test_curves_are_plain_lists_and_say_what_the_card_says():
  rows = [row(i / 10, (i % 3) / 2, (i, 9)) for i in range(1, 20)]
  card = report_card.card(rows, **SETTINGS)
  curves = report_card.curves(card)
  assert curves['calibration']['accuracy'] == card.bins.accuracy.tolist()
  assert curves['calibration']['largest'][-1] == pytest.approx(1.8)
  assert sum(curves['histogram']['rejected']) == 19
  threshold = curves['thresholds']['all']
  assert threshold['threshold'] == [-9, 0]
  # the mean is 0.75: rejected at 1, and chosen 0.8, 1.1, 1.4, 1.7
  assert threshold['count'] == [19, 4]
  assert card.numbers['threshold/all/0/accuracy'] == threshold['accuracy'][1]


@pytest.mark.parametrize('score', [float('nan'), float('inf'), None])
def test_card_refuses_a_score_that_is_no_number(score):
  with pytest.raises(InputError, match='row 1: score_rejected'):
    report_card.card([row(1.0, 0.0), row(1.0, score)], **SETTINGS)


def test_card_refuses_bins_that_hold_next_to_nothing():
  rows = [row(float(i % 3), 1.0) for i in range(29)]
  settings = SETTINGS | {'num_bins': 2}
  assert report_card.card(rows, **settings).bins.count.tolist() == [15, 14]
  with pytest.raises(InputError, match='3 is above 2: the pairs are 29'):
    report_card.card(rows, **settings | {'num_bins': 3})


def test_card_refuses_no_rows():
  with pytest.raises(InputError, match='no held-out pairs'):
    report_card.card([], **SETTINGS)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_bins': 0}, 'config.num_bins 0'),
    ({'num_samples': -1}, 'config.num_samples -1'),
    ({'num_samples': 99}, 'config.num_samples 99 is below 100'),
    ({'thresholds': ()}, 'name one or more, each once'),
    ({'thresholds': (1.0, 1.0)}, 'name one or more, each once'),
    ({'length_share': 1.0}, 'config.length_share 1.0'),
    ({'thresholds': ('a',)}, "config.thresholds: 'a'"),
    ({'thresholds': (float('nan'),)}, 'config.thresholds: nan'),
  ],
)
def test_bad_settings_are_refused(change, message):
  settings = {k: v for k, v in SETTINGS.items() if k != 'seed'}
  report_card.check(**settings)
  with pytest.raises(InputError, match=message):
    report_card.check(**settings | change)

import math

import pytest

from hh_jax.rl import alarms

THRESHOLDS = alarms.Thresholds(
  max_kl=10.0, max_pm_gap=0.5, max_repetition=0.4, min_stop_rate=0.1
)
QUIET = {
  'eval/kl': 10.0,
  'eval/pm_gap': 0.4,
  'eval/pm_gap_se': 0.01,
  'rollout/repetition': 0.4,
  'rollout/stop_rate': 0.1,
}


def test_at_the_threshold_all_is_quiet():
  assert alarms.raised(THRESHOLDS, QUIET) == {}
  assert alarms.raised(THRESHOLDS, {}) == {}


@pytest.mark.parametrize(
  ('metric', 'value', 'alarm'),
  [
    ('eval/kl', 10.1, 'kl'),
    ('eval/kl', math.nan, 'kl'),
    ('eval/pm_gap', 0.6, 'pm_gap'),
    ('rollout/repetition', 0.41, 'repetition'),
    ('rollout/stop_rate', 0.09, 'stop_rate'),
  ],
)
def test_each_alarm(metric, value, alarm):
  (name,) = alarms.raised(THRESHOLDS, QUIET | {metric: value})
  assert name == alarm
  off = alarms.Thresholds(0.0, 0.0, 0.0, 0.0)
  assert alarms.raised(off, QUIET | {metric: value}) == {}


def test_a_gap_within_its_error_is_none():
  noisy = QUIET | {'eval/pm_gap': 0.6, 'eval/pm_gap_se': 0.3}
  assert alarms.raised(THRESHOLDS, noisy) == {}

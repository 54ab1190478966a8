"""When a run is not what it looks like: thresholds on what is logged."""

from collections.abc import Mapping
import dataclasses

ACTIONS = ('warn', 'stop')


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """0 switches an alarm off."""

  max_kl: float  # nats a reply, exact, at an evaluation
  max_pm_gap: float  # PM units by which the training PM's gain is above
  # the held-out PM's, if that is also 3 standard errors
  max_repetition: float  # share of 4-grams that are repeated within a reply
  min_stop_rate: float  # share of replies that end by themselves


def raised(
  thresholds: Thresholds, metrics: Mapping[str, float]
) -> dict[str, str]:
  """Name of each alarm that these metrics raise, and what to tell people.

  Metrics by their logged names; an alarm whose metrics are not there is quiet.
  """
  t, found = thresholds, {}

  def check(name: str, metric: str, limit: float, sign: int) -> None:
    value = metrics.get(metric)
    # not (a <= b): a NaN raises the alarm
    if limit and value is not None and not sign * value <= sign * limit:
      side = 'above' if sign > 0 else 'below'
      found[name] = f'{metric} {value:.3g} is {side} {limit:g}'

  check('kl', 'eval/kl', t.max_kl, 1)
  check('repetition', 'rollout/repetition', t.max_repetition, 1)
  check('stop_rate', 'rollout/stop_rate', t.min_stop_rate, -1)
  if t.max_pm_gap and 'eval/pm_gap' in metrics:
    gap, error = metrics['eval/pm_gap'], metrics['eval/pm_gap_se']
    if not gap <= max(t.max_pm_gap, 3 * error):
      found['pm_gap'] = (
        f"the training PM's gain is {gap:.3g} PM units above the held-out "
        f"PM's, more than {t.max_pm_gap:g}"
      )
  return found

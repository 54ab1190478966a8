"""What a policy run writes down, and when it has to stop."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from hh_jax import distributed, sharding
from hh_jax import metrics as metrics_lib
from hh_jax import workdir as workdir_lib
from hh_jax.checkpoints import native
from hh_jax.errors import InputError
from hh_jax.recipes import policy_evaluation
from hh_jax.rl import alarms, diagnostics
from hh_jax.types import Params, Rollout, TrainState

PHASES = 'phases.jsonl'
# Largest difference, nats, of a token's log-prob as drawn and as scored. Seen
# at temperature 1 over 1,500 tokens: 1e-5 in float32; in bfloat16 .02 for fresh
# and .01 to .08 for trained weights of tiny to small (.4 to .9 with every
# matrix doubled, sharper than training makes them; as 1 / temperature).
SAMPLER_TOLERANCE = {'float32': 1e-4, 'bfloat16': 0.25}


@dataclasses.dataclass
class Seen:
  """What the past of a run decides about its future; saved with it."""

  alarms: dict[str, int] = dataclasses.field(default_factory=dict)
  best: float | None = None  # held-out PM score, PM units
  best_step: int = 0  # iterations
  failed: int = 0  # iterations on end with an update that was not finite


@dataclasses.dataclass
class Watch:
  """Metrics, alarms and the best checkpoint of one run."""

  workdir: pathlib.Path
  writer: metrics_lib.MetricsWriter
  evaluation: policy_evaluation.Log
  thresholds: alarms.Thresholds
  stops: bool  # whether an alarm ends the run
  max_failed: int
  tolerance: float  # nats, of the sampler's log-probs
  seen: Seen
  evaluated: int = -1  # the last iteration after which there was one
  has_phases: bool = False  # whether this process has written to PHASES

  def evaluate(self, step: int, state: TrainState, frozen: Params) -> None:
    """Evaluates the policy, and keeps it if the held-out PM likes it best."""
    if self.evaluated == step:
      return
    self.evaluated = step
    values = self.evaluation(step, state.params['policy'], frozen)
    values |= pm_gap(self.workdir, step)
    self.writer.write(step, values)
    self._alarm(step, values)
    score = values.get('eval/heldout_pm_score')
    if score is not None and (self.seen.best is None or score > self.seen.best):
      self.seen.best, self.seen.best_step = score, step
      native.save_best(self.workdir, state)

  def check_rollout(
    self, step: int, rollout: Rollout, metrics: dict[str, Any]
  ) -> dict[str, float]:
    """A rollout's metrics as logged; refuses what must not be trained on."""
    values = {f'rollout/{k}': float(v) for k, v in metrics.items()}
    if not np.isfinite(values['rollout/pm_score']):
      raise InputError(
        f'iteration {step}: a score of the preference model is not finite'
      )
    # only differences of PM scores mean something
    values['rollout/pm_score'] -= self.evaluation.reference_mean
    error = values['rollout/sampler_error']
    self._check_same(step, error, 'sampler and of the training pass')
    tokens, mask = sharding.fetch((rollout.tokens, rollout.reply_mask))
    found = diagnostics.describe(tokens, mask)
    return values | {f'rollout/{k}': v for k, v in found.items()}

  def _check_same(self, step: int, error: float, what: str) -> None:
    if not error <= self.tolerance:
      raise InputError(
        f'iteration {step}: log-probs of the {what} differ by {error:.3g} '
        f'nats, more than {self.tolerance:g}: the policy that is updated is '
        'not the one that sampled'
      )

  def iteration(
    self,
    step: int,
    values: Mapping[str, float],
    update: dict[str, np.ndarray],
    rollout: Rollout,
  ) -> None:
    """Writes one iteration down. A non-finite update was skipped: its rollout
    is dumped, and too many on end stop the run."""
    metrics = update_metrics(update)
    self.writer.write(step, {**values, **metrics})
    self._alarm(step, values)
    if not update['skipped'][0]:
      error = metrics['ppo/first_log_ratio_abs_max']
      self._check_same(step, error, 'rollout and of the first minibatch')
    if not update['skipped'].any():
      self.seen.failed = 0
      return
    self.seen.failed += 1
    path = self.workdir / f'skipped_{step}.npz'
    arrays = dataclasses.asdict(sharding.fetch(rollout))
    distributed.by_writer(lambda: np.savez(path, **arrays))
    distributed.say(f'iteration {step}: a non-finite update, skipped: {path}')
    if self.seen.failed >= self.max_failed:
      raise InputError(
        f'iteration {step}: non-finite updates in {self.seen.failed} '
        f'iterations on end; the last rollout is in {path}'
      )

  @property
  def must_stop(self) -> bool:
    return self.stops and bool(self.seen.alarms)

  def summary(self) -> dict[str, float]:
    """Alarms by name and iteration, and the best evaluation."""
    out: dict[str, float] = {
      f'alarms/{name}': step for name, step in self.seen.alarms.items()
    }
    if self.seen.best is not None:
      out |= {
        'best/heldout_pm_score': self.seen.best,
        'best/iteration': self.seen.best_step,
      }
    return out

  def phases(
    self, step: int, phases: Mapping[str, Any], *, wall: float
  ) -> None:
    """Appends seconds, and bytes by the compiler's count, of each phase.

    `wall` are the iteration's seconds: idle_share is the part of them outside
    of all phases, host work and compilation. The first line of a process drops
    those of the iterations that it redoes.
    """
    busy = sum(phase.seconds for phase in phases.values())
    line: dict[str, Any] = {
      'step': step,
      'idle_share': round(1 - busy / wall, 4),
    }
    for name, phase in phases.items():
      line[f'{name}/seconds'] = round(phase.seconds, 4)
      line[f'{name}/compile_s'] = round(phase.compile_s, 3)
      line |= {f'{name}/{k}_bytes': v for k, v in phase.memory.items()}
    distributed.by_writer(lambda: self._append(line))

  def _append(self, line: dict[str, Any]) -> None:
    path, step = self.workdir / PHASES, line['step']
    if not self.has_phases and path.exists():
      rows = workdir_lib.read_rows(path, ('step',), unfinished=True)
      workdir_lib.write_rows(path, [r for r in rows if r['step'] < step])
    self.has_phases = True
    with open(path, 'a') as file:
      file.write(json.dumps(line) + '\n')

  def _alarm(self, step: int, values: Mapping[str, float]) -> None:
    for name, text in alarms.raised(self.thresholds, values).items():
      if name not in self.seen.alarms:
        self.seen.alarms[name] = step
        end = 'the run ends here' if self.stops else 'the run goes on'
        distributed.say(f'iteration {step}: alarm {name}: {text}; {end}')


def pm_gap(workdir: pathlib.Path, step: int) -> dict[str, float]:
  """Training PM's gain less the held-out PM's at the newest evaluation.

  PM units, paired by prompt: both score the same replies, before and now.
  Empty without a held-out PM.
  """
  start, now = (
    policy_evaluation.read_values(workdir / f'eval_{name}.npz')
    for name in ('start', 'last' if step else 'start')
  )
  if 'heldout_pm_score' not in now:
    return {}
  gains = [now[x] - start[x] for x in ('pm_score', 'heldout_pm_score')]
  gap, error = policy_evaluation.clustered(gains[0] - gains[1])
  return {'eval/pm_gap': gap, 'eval/pm_gap_se': error}


def update_metrics(update: dict[str, np.ndarray]) -> dict[str, float]:
  """One iteration's scalars from those of its minibatches, [E * M] each.

  Means, but for maxima and the number of skipped updates. The first minibatch
  must see the policy that sampled: how far its ratios are from 1 is logged by
  itself.
  """
  out = {
    f'ppo/{name}': float(x.max() if name.endswith('_max') else x.mean())
    for name, x in update.items()
  }
  out['ppo/skipped'] = float(update['skipped'].sum())
  out['ppo/first_log_ratio_abs_max'] = float(update['log_ratio_abs_max'][0])
  return out

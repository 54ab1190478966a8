"""Evaluates a policy on fixed held-out prompts, the same way every time."""

from collections.abc import Sequence
import dataclasses
import functools
import io
import json
import pathlib
from typing import Any
import zipfile

import numpy as np

from hh_jax import workdir as workdir_lib
from hh_jax.data import loader, sources
from hh_jax.data.examples import Prompt
from hh_jax.errors import InputError
from hh_jax.recipes import policy_samples
from hh_jax.rl import controls
from hh_jax.types import Params, Prompts


def clustered(values: np.ndarray) -> tuple[float, float]:
  """Mean and its standard error from [prompts, samples a prompt]."""
  means = values.mean(axis=1)
  return float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5)


@dataclasses.dataclass
class Evaluator:
  """Samples the same held-out prompts with the same keys every time.

  Values are kept by name as [prompts, samples a prompt], so that gains can be
  paired by prompt.
  """

  sampler: policy_samples.Sampler
  rows: Prompts
  prompts: Sequence[Prompt]
  gold_score: sources.GoldFn | None

  def __call__(
    self, policy: Params, frozen: Params
  ) -> tuple[policy_samples.Values, list[str]]:
    """Values by name, each [prompts, samples], and the replies in row order."""
    numbers = np.arange(loader.num_rows(self.rows))
    values, replies = self.sampler(policy, frozen, self.rows, numbers)
    if self.gold_score is not None:
      n = self.sampler.num_samples
      texts = [self.prompts[i].text for i in np.repeat(self.rows.ids, n)]
      gold = self.gold_score(texts, replies)
      values['gold_score'] = gold.astype(np.float64).reshape(-1, n)
    return values, replies

  def samples(
    self, step: int, values: dict[str, np.ndarray], replies: list[str]
  ) -> list[dict[str, Any]]:
    """The first reply to every prompt, without the text of sensitive ones."""
    out, n = [], self.sampler.num_samples
    for row, i in enumerate(self.rows.ids):
      prompt = self.prompts[i]
      sample = {
        'step': step,
        'index': row,
        'shown': not prompt.is_sensitive,
        'prompt': '' if prompt.is_sensitive else prompt.text,
        'reply': '' if prompt.is_sensitive else replies[row * n],
      }
      for name in ('pm_score', 'gold_score'):
        if name in values:
          sample[name] = float(values[name][row, 0])
      out.append(sample)
    return out


class Log:
  """Evaluations of one run: their metrics, and what gains are measured from.

  The values of step 0 are kept in eval_start.npz: PM scores are centred on
  them, and gains are paired with them prompt by prompt. The newest values are
  in eval_last.npz. samples.jsonl holds the replies of both.
  """

  def __init__(self, workdir: str, evaluator: Evaluator):
    self._dir = pathlib.Path(workdir)
    self._evaluator = evaluator

  @property
  def reference_mean(self) -> float:
    """Mean training-PM score of the reference's samples, PM units."""
    return float(self._reference_scores.mean())

  @functools.cached_property
  def _reference_scores(self) -> np.ndarray:
    """Training-PM scores of the reference's samples, PM units."""
    return read_values(self._dir / 'eval_start.npz')['pm_score']

  def initial_controls(self, config: Any) -> controls.Controls:
    """Scores are normalised on the reference's before the first update."""
    try:
      return controls.initial(
        self._reference_scores,
        kl_coef=config.kl_coef,
        score_norm=config.score_norm,
      )
    except ValueError as error:
      raise InputError(str(error)) from error

  def __call__(
    self, step: int, policy: Params, frozen: Params
  ) -> dict[str, float]:
    """Evaluates, keeps values and replies, and returns `eval/` metrics."""
    values, replies = self._evaluator(policy, frozen)
    name = 'eval_last' if step else 'eval_start'
    file = io.BytesIO()
    np.savez(file, **values)
    workdir_lib.write_bytes(self._dir / f'{name}.npz', file.getvalue())
    start = read_values(self._dir / 'eval_start.npz')
    self._write_samples(step, values, replies)
    metrics = {}
    for key, value in values.items():
      mean, error = clustered(value)
      # only differences of PM scores mean something
      mean -= start[key].mean() if key.endswith('pm_score') else 0.0
      metrics |= {f'eval/{key}': mean, f'eval/{key}_se': error}
    if values['pm_score'].shape[1] > 1:
      spread = values['pm_score'].var(axis=1, ddof=1).mean() ** 0.5
      metrics['eval/within_prompt_std'] = float(spread)
    return metrics

  def _write_samples(
    self, step: int, values: dict[str, np.ndarray], replies: list[str]
  ) -> None:
    """Replaces the later replies in samples.jsonl; those of step 0 stay."""
    centred = values | {'pm_score': values['pm_score'] - self.reference_mean}
    rows = self._evaluator.samples(step, centred, replies)
    path = self._dir / 'samples.jsonl'
    if step:
      with open(path) as file:
        rows = [r for r in map(json.loads, file) if r['step'] == 0] + rows
    workdir_lib.write_rows(path, rows)


def read_values(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of an .npz file by name; InputError for a damaged one."""
  try:
    with np.load(path) as file:
      return dict(file)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise InputError(f'{path} is missing or damaged: {error}') from error


def read_gains(workdir: str) -> dict[str, float]:
  """Last evaluation minus the first, paired by prompt, with standard errors.

  Also the KL of both: at the start it must be 0.
  """
  start = read_values(pathlib.Path(workdir) / 'eval_start.npz')
  last = read_values(pathlib.Path(workdir) / 'eval_last.npz')
  out = {}
  for name in ('kl', 'kl_k1', 'kl_k2', 'kl_k3'):
    out[f'start/{name}'] = float(np.abs(start[name]).max())
    out[f'last/{name}'], out[f'last/{name}_se'] = clustered(last[name])
  for name in last:
    if name.endswith('score'):
      gain, error = clustered(last[name] - start[name])
      out |= {f'gain/{name}': gain, f'gain/{name}_se': error}
  for name in ('length', 'stop_rate'):
    out[f'start/{name}'] = float(start[name].mean())
    out[f'last/{name}'] = float(last[name].mean())
  return out

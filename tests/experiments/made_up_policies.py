"""Finished policies and best of n with known numbers, as far as plots read."""

from collections.abc import Callable, Sequence
import json
import math
import pathlib

import numpy as np

SQRT_KL = (0.0, 1.0, 2.0, 3.0, 4.0)
ITERATIONS = 8  # two between evaluations, of 10 replies
Curve = Callable[[float], float]


def write_ppo(
  path: pathlib.Path,
  *,
  sqrt_kl: Sequence[float] = SQRT_KL,
  iterations: int = ITERATIONS,
  failure: str = '',
  **gains: Curve,
) -> pathlib.Path:
  """A ppo run whose scores are those functions of sqrt(KL), from 1 up."""
  path.mkdir(parents=True)
  _json(path / 'config.json', {
    'recipe': 'ppo',
    'config': {
      'batch_size': 10, 'num_iterations': ITERATIONS, 'init_from': 'start',
      'pm': 'pm', 'heldout_pm': 'pm1', 'temperature': 1.0, 'max_prompt': 8,
      'max_reply': 8, 'ensemble': {}, 'no_stop_penalty': 1.0,
      'no_stop': 'subtract', 'score_norm': 'centre',
    },
  })  # fmt: skip
  lines = [{'step': 1, 'time': 0.0, 'rollout/kl': 0.0}]
  for i, d in enumerate(sqrt_kl):
    line = {'step': 2 * i, 'time': float(i), 'eval/kl': d * d}
    for name, curve in gains.items():
      line |= {f'eval/{name}': 1 + curve(d), f'eval/{name}_se': 0.01}
    lines.append(line)
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (path / 'metrics.jsonl').write_text(text)
  offsets = np.array([[-1.0, 1.0], [1.0, 3.0]])
  for name, d in (('start', sqrt_kl[0]), ('last', sqrt_kl[-1])):
    values = {key: offsets + curve(d) for key, curve in gains.items()}
    np.savez(path / f'eval_{name}.npz', kl=d * d + 0 * offsets, **values)
  if failure:
    _json(path / 'failure.json', {'error': failure})
  else:
    _json(path / 'summary.json', {'train/iterations': iterations})
  return path


def write_best_of_n(
  path: pathlib.Path, *, n: int = 64, std: float = 1.0, **gains: Curve
) -> pathlib.Path:
  """Best of n whose gains are those functions of its own sqrt(KL)."""
  path.mkdir(parents=True)
  _json(path / 'config.json', {
    'recipe': 'best_of_n',
    'config': {
      'run': 'start', 'pm': 'pm', 'heldout_pm': 'pm1', 'temperature': 1.0,
      'max_prompt': 8, 'max_reply': 8, 'ensemble': {}, 'no_stop_penalty': 1.0,
    },
  })  # fmt: skip
  kl = [math.log(k) - (k - 1) / k for k in range(1, n + 1)]
  summary = {
    'kl': kl,
    'samples/prompts': 8,
    'samples/per_prompt': n,
    'within_prompt_std/pm_score': std,
    'within_prompt_std/pm_score_se': 0.1 * std,
  }
  for name, curve in gains.items():
    found = [curve(d**0.5) for d in kl]
    summary[f'curve/{name}'] = {
      'k': list(range(1, n + 1)),
      'gain': found,
      'gain_se': [0.02] * n,
      'mean': [1 + gain for gain in found],
    }
  _json(path / 'summary.json', summary)
  return path


def _json(path: pathlib.Path, value: dict) -> None:
  path.write_text(json.dumps(value))

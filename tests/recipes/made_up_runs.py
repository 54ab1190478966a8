"""Files of runs that never ran, with planted effects, for test_report.py."""

import json
import math
import pathlib

import numpy as np

from hh_jax import workdir

EVIL = '<script>alert(1)</script> </p><img src=x onerror=y> & \x1b[0m\u202e'


def write_rows(path: pathlib.Path, rows: list[dict]) -> None:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


SAMPLING = {
  'pm': 'pm', 'heldout_pm': 'heldout_pm', 'temperature': 1.0, 'max_prompt': 8,
  'max_reply': 8, 'ensemble': {}, 'no_stop_penalty': 1.0,
}  # fmt: skip


def make_run(path, recipe, summary, config=None, **files):
  workdir.open_run(path, {'seed': 0, 'lr': 1e-3} | (config or {}), recipe)
  for name, rows in files.items():
    write_rows(path / f'{name}.jsonl', rows)
  workdir.write_summary(path, summary)


def pairs(seed: int, num: int = 1600) -> list[dict]:
  """Pairs of a rater who knows a gold margin; the PM sees it with noise."""
  rng, rows = np.random.default_rng(seed), []
  for i in range(num):
    gold = 1.5 * rng.normal()
    p = 1 / (1 + np.exp(-gold))
    if rng.random() > p:
      gold, p = -gold, 1 - p
    margin = 0.7 * (gold + 0.9 * rng.normal())
    chars = rng.integers(40, 200, size=2) + (15 if i % 3 else -15, 0)
    rows.append({
      'source': 'gold-base' if i % 3 else 'gold-rejection-sampled',
      'turns': int(rng.integers(1, 8)),
      'score_chosen': margin + 0.3, 'score_rejected': 0.3,
      'chosen_chars': int(chars[0]), 'rejected_chars': int(chars[1]),
      'p_chosen': p,
    })  # fmt: skip
  return rows


def pm_metrics(seed: int) -> list[dict]:
  rng, rows = np.random.default_rng(seed), []
  for step in range(0, 1001, 10):
    seen = 40 * step
    best = 0.5 + 0.026 * np.log1p(seen / 20)
    rows.append({'step': step, 'time': step, 'train/pairs': seen,
                 'train/loss': 0.69 - 0.1 * (best - 0.5),
                 'train/accuracy': best + 0.06 * rng.normal()})  # fmt: skip
    if step % 100 == 0:
      value = best + 0.005 * rng.normal()
      rows.append({'step': step, 'eval/accuracy': value, 'eval/loss': 0.6})
  return rows


def ppo_metrics(seed: int, *, has_gold: bool = True) -> list[dict]:
  """Training PM linear in sqrt(KL); gold rises, then falls."""
  rng, rows = np.random.default_rng(seed), []
  for step in range(61):
    root = 3.6 * step / 60
    gain, noise = 0.55 * root, rng.normal(size=4) * 0.02 * (step > 0)
    length = 24 - 5 * step / 60
    if step:
      rows.append({'step': step, 'rollout/pm_score': gain + 3 * noise[0],
                   'rollout/kl_k1': root**2 + 10 * noise[1] * root,
                   'rollout/length': length + 10 * noise[2],
                   'rollout/stop_rate': 0.9 + 0.1 * step / 60,
                   'ppo/clip_fraction': 0.08 + noise[3],
                   'ppo/approx_kl_k3': 0.01 + 0.1 * abs(noise[0]),
                   'ppo/value_loss': 0.4 / (1 + step / 10),
                   'rollout/explained_variance': 1 - 1 / (1 + step / 9),
                   })  # fmt: skip
    if step % 5 == 0:
      se = 0.04 if step else 0.03
      row = {'step': step, 'eval/kl': root**2, 'eval/kl_se': 0.05 * root,
             'eval/pm_score': gain + noise[0], 'eval/pm_score_se': se,
             'eval/heldout_pm_score': gain - 0.04 * root**2 + noise[1],
             'eval/heldout_pm_score_se': se, 'eval/length': length,
             'eval/stop_rate': 0.9 + 0.1 * step / 60,
             'eval/within_prompt_std': 0.8}  # fmt: skip
      if has_gold:
        gold = 0.7 * root - 0.14 * root**2 + noise[2] - 0.8
        row |= {'eval/gold_score': gold, 'eval/gold_score_se': se}
      rows.append(row)
  return rows


def samples() -> list[dict]:
  rows = []
  for step in (0, 60):
    for i in range(6):
      rows.append({'step': step, 'index': i, 'shown': i != 3,
                   'prompt': '\n\nHuman: How do I make a bean stew for six '
                   'people?\n\nAssistant:' if i != 3 else '',
                   'reply': f' reply {i} of iteration {step}: beans, stock '
                   'and an hour of patience.' if i != 3 else '',
                   'pm_score': 0.1 * i + step / 40,
                   'gold_score': -0.5 + step / 100})  # fmt: skip
  rows[0]['reply'] = EVIL
  return rows


def pretrain_metrics() -> list[dict]:
  loss = [{'step': s, 'train/loss': 2 + 4 / (1 + s / 30)} for s in range(200)]
  steps = range(0, 200, 25)
  return loss + [
    {'step': s, 'eval/loss': 2.1 + 4 / (1 + s / 30)} for s in steps
  ]


def best_of_n(n: int = 16) -> dict:
  """A summary: the training PM gains 1 a root nat, and so on."""
  k = list(range(1, n + 1))
  kl = [math.log(i) - (i - 1) / i for i in k]
  summary = {'kl': kl, 'samples/prompts': 64,
             'within_prompt_std/pm_score': 0.8,
             'within_prompt_std/pm_score_se': 0.02}  # fmt: skip
  slopes = {'pm_score': 1.0, 'heldout_pm_score': 0.8, 'gold_score': 0.55}
  for name, slope in slopes.items():
    gain = [slope * x**0.5 for x in kl]
    summary[f'curve/{name}'] = {'k': k, 'gain': gain, 'gain_se': [0.03] * n}
  return summary


def make_all(root: pathlib.Path) -> None:
  """The directories pretrain, pm, heldout_pm, ppo and best_of_n."""
  make_run(
    root / 'pretrain',
    'pretrain',
    {'eval/loss': 2.1},
    metrics=pretrain_metrics(),
  )
  for seed, name in enumerate(('pm', 'heldout_pm')):
    make_run(
      root / name,
      'pm',
      {'train/pairs': 40_000},
      metrics=pm_metrics(seed),
      eval=pairs(seed),
    )
  make_run(
    root / 'ppo',
    'ppo',
    {'gain/pm_score_se': 0.03},
    SAMPLING
    | {'init_from': 'pretrain', 'no_stop': 'subtract', 'score_norm': 'centre'},
    metrics=ppo_metrics(2),
    samples=samples(),
  )
  make_run(
    root / 'best_of_n', 'best_of_n', best_of_n(), SAMPLING | {'run': 'pretrain'}
  )

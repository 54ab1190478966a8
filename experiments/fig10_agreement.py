"""Bai et al. 2022, Fig 10: HHH score differences; who agrees with whom.

Claim: the largest PM agrees with researchers a little more than researchers
agree with crowdworkers (about .63; some 320 comparisons that researchers judged
again), and larger PMs agree more with both (A.4). Nobody outside has those 320
labels. So the second rater comes from a file, --config.probes.second_rater:
JSON lines {"row": N, "prefers": "chosen" or "rejected"}, where N counts the
lines of the runs' eval.jsonl from 0; some of them are enough. Without it the
gold world simulates a second, independent rater of the same law, whose
agreement with the first is known; on other data that part is left out.
Command: python -m experiments.fig10_agreement --workdir=runs/pm_sweep \\
  [--scale=cpu] [--config.probes.hhh=DIR/hhh_alignment.jsonl.gz]
Cost: Fig 7's runs, and seconds a model.
Expect: in the gold world a good PM agrees with a rater more than another rater
does: the PM has no noise of its own. The left half needs the HHH evaluation's
file, and means nothing for models of the gold world, which do not know English.
"""

import pathlib

import numpy as np

from experiments import analysis, judged, scoring, sweep
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.evals import external, preference

SECOND = 'second_rater.jsonl'
SIDES = ('chosen', 'rejected')


def run(config, workdir: str) -> None:
  """Fig 7's models, their scores of the HHH items, and a second rater."""
  runs = sweep.by_size(config, workdir)
  if config.probes.hhh:
    items = external.read_hhh(config.probes.hhh, seed=0)
    scoring.keep(
      *(workdir, 'hhh', runs, lambda judge: _margins(judge, items)),
      texts=config.probes.hhh,
    )
  rows = workdir_lib.read_rows(next(iter(runs.values())) / 'eval.jsonl')
  path = pathlib.Path(workdir) / SECOND
  if config.probes.second_rater:
    workdir_lib.write_rows(
      path, read_second(config.probes.second_rater, len(rows))
    )
  elif config.pm.data.name == 'gold_world':
    workdir_lib.write_rows(path, simulate(rows, seed=0))


def _margins(judge, items: list[external.Item]) -> scoring.Rows:
  """Score of the good answer less that of the other, an HHH item each.

  Without items whose candidates are one text, or that do not fit a row whole.
  """
  differ = [item for item in items if not item.is_one_text]
  scores = judge([item.pair() for item in differ]).whole(len(differ))
  return [
    {'category': item.category, 'margin': item.margin(*both)}
    for item, both in zip(differ, scores.tolist(), strict=True)
    if np.isfinite(both).all()
  ]


def read_second(path: str, num_rows: int) -> scoring.Rows:
  """A file of a second rater's labels; InputError names what is wrong."""
  rows, seen = workdir_lib.read_rows(path, ('row', 'prefers')), set()
  for row in rows:
    number = row['row']
    if type(number) is not int or not 0 <= number < num_rows:
      raise InputError(f'{path}: row {number!r} is not in [0, {num_rows})')
    if number in seen:
      raise InputError(f'{path}: row {number} is there twice')
    if row['prefers'] not in SIDES:
      raise InputError(f'{path}: {row["prefers"]!r} is none of {SIDES}')
    seen.add(number)
  if not rows:
    raise InputError(f'{path}: no labels')
  return [
    {'row': row['row'], 'prefers': row['prefers'], 'rater': 'file'}
    for row in rows
  ]


def simulate(rows: scoring.Rows, *, seed: int) -> scoring.Rows:
  """A second rater of the gold world; needs every row's p_chosen."""
  p = np.array([row['p_chosen'] for row in rows], np.float64)
  if not np.isfinite(p).all():
    raise InputError('a held-out row has no p_chosen: no rater to simulate')
  agrees = np.random.default_rng(seed).random(p.size) < p
  return [
    {'row': i, 'prefers': SIDES[not yes], 'rater': 'simulated'}
    for i, yes in enumerate(agrees.tolist())
  ]


def agreement(workdir: str) -> dict | None:
  """Who agrees with whom, or None without a second rater.

  By size: the PM's [seeds, labels] agreement with both raters; `raters`
  [labels] theirs; `known` its expectation where it is known.
  """
  path = pathlib.Path(workdir) / SECOND
  if not path.is_file():
    return None
  labels = workdir_lib.read_rows(path, ('row', 'prefers', 'rater'))
  at = np.array([row['row'] for row in labels])
  same = np.array([row['prefers'] == 'chosen' for row in labels])
  runs = judged.runs(workdir)
  by_size = {}
  for size in judged.sizes(runs):
    first = np.stack([o.outcomes[at] for o in judged.of_size(runs, size)])
    second = np.where(same, first, 1 - first)
    by_size[size] = {'first': first, 'second': second}
  some = next(iter(runs))
  path = sweep.finished(workdir, 'mix')[some] / 'eval.jsonl'
  law = [row['p_chosen'] for row in workdir_lib.read_rows(path, ('p_chosen',))]
  return {
    'rater': labels[0]['rater'],
    'by_size': by_size,
    'raters': same.astype(float),
    'known': None if None in law else float(np.mean(np.array(law)[at])),
    'groups': runs[some].conversations[at],
  }


def claims(found: dict) -> list[dict]:
  """Verdicts; the first is on an agreement itself, so has both errors."""
  sizes = list(found['by_size'])
  last = found['by_size'][sizes[-1]]
  out = [
    judged.claim(
      f'{sizes[-1]}: agrees with the second rater more than the raters with '
      'each other',
      lambda rows: (last['second'] - found['raters'])[:, rows].mean(axis=1),
      found['groups'],
    )
  ]
  if len(sizes) > 1:
    first = found['by_size'][sizes[0]]
    for who in ('first', 'second'):
      text = f'{sizes[-1]} agrees with the {who} rater more than {sizes[0]}'
      gain = last[who].mean(axis=1) - first[who].mean(axis=1)
      out.append(analysis.claim(text, gain))
  return out


def plot(workdir: str) -> dict:
  """Writes fig10.png and fig10.json: margins, agreement, verdicts."""
  margins = {
    key: scoring.column(rows, 'margin')
    for key, rows in scoring.kept(workdir, 'hhh').items()
  }
  found = agreement(workdir)
  analysis.require(margins or found, 'HHH scores or second rater', workdir)
  summary = {'claims': [], 'left_out': []}
  if margins:
    summary['hhh_accuracy'] = {
      size: analysis.estimate(values).report()
      for size, values in analysis.by_size(margins, preference.accuracy).items()
    }
  else:
    summary['left_out'].append('HHH margins: config.probes.hhh is empty')
  if found:
    summary |= {
      'second_rater': found['rater'],
      'labels': found['raters'].size,
      'raters_agree': float(found['raters'].mean()),
      'raters_agree_known': found['known'],
      'agreement': analysis.reports(_means(found)),
      'claims': claims(found),
    }
  else:
    summary['left_out'].append('agreement: no second rater for this data')
  return analysis.write(workdir, 'fig10', summary, draw(margins, found))


def _means(found: dict) -> dict:
  """size -> rater -> agreement [seeds]."""
  return {
    size: {who: v.mean(axis=1) for who, v in one.items()}
    for size, one in found['by_size'].items()
  }


def draw(margins: dict, found: dict | None):
  """Left: HHH margins of the largest size; right: agreement by size."""
  titles = ['HHH items'] * bool(margins) + ['agreement'] * bool(found)
  drawing, axes = analysis.axes(*titles, width=4.6)
  if margins:
    size = analysis.in_order(size for size, _ in margins)[-1]
    values = np.concatenate(analysis.by_size(margins, np.asarray)[size])
    edges = judged.bins([values])
    judged.histogram(axes[0], edges, {size: values})
    axes[0].axvline(0, color='black', lw=1)
    axes[0].set_xlabel('Score of the good answer − other (PM units)')
  if found:
    _draw_agreement(axes[-1], found)
  return drawing


def _draw_agreement(ax, found: dict) -> None:
  means = _means(found)
  x = [analysis.parameters(size) for size in means]
  for who, color in (('first', '#0072B2'), ('second', '#D55E00')):
    estimates = [analysis.estimate(one[who]) for one in means.values()]
    style = dict(color=color, marker='o', label=f'PM and {who} rater')
    analysis.draw_estimates(ax, x, estimates, **style)
  label = f'the two raters ({found["rater"]} second)'
  ax.axhline(found['raters'].mean(), color='black', ls='--', lw=1, label=label)
  if found['known'] is not None and found['rater'] == 'simulated':
    ax.axhline(found['known'], color='0.6', ls=':', lw=1, label='known')
  analysis.log_axis(ax)
  ax.set_xlabel('Parameters, embedding left out')
  ax.set_ylabel('Share of comparisons')
  ax.legend(frameon=False, fontsize=8)


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)

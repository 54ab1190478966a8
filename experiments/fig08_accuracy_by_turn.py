"""Bai et al. 2022, Fig 8: turns of the test conversations, accuracy by turn.

Claim: the first exchange is a little easier to judge, after it accuracy does
not depend on the turn (A.2).
Command: python -m experiments.fig08_accuracy_by_turn \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: none beside Fig 7's, whose runs it reads.
Expect: no trend after the first turn; dialogues of 5 or more human turns count
together, and turns with fewer than 30 comparisons not at all. The gold world
has no more than 3 exchanges, and its later requests refer to earlier ones,
which small models may miss. Turns are other comparisons, so verdicts are over
seeds and over conversations; bars are over seeds.
"""

import numpy as np

from experiments import analysis, judged, sweep
from hh_jax.evals import preference

MIN_PAIRS = 30  # a turn with fewer is left out
LIMIT = 0.02  # accuracy a turn that counts as none, our choice


def run(config, workdir: str) -> None:
  """The preference models of Fig 7."""
  sweep.by_size(config, workdir)


def by_turn(found: judged.Runs, kind: str | None = None) -> dict:
  """size -> turn -> accuracy [seeds], of one kind of comparison or of all."""
  first = next(iter(found.values()))
  mask = (
    np.full(first.turns.size, True) if kind is None else first.kinds == kind
  )
  turns, counts = np.unique(first.turns[mask], return_counts=True)
  turns = turns[counts >= MIN_PAIRS].tolist()
  return {
    size: {
      turn: np.array(
        [
          one.outcomes[mask & (one.turns == turn)].mean()
          for one in judged.of_size(found, size)
        ]
      )
      for turn in turns
    }
    for size in judged.sizes(found)
  }


def first_gain(one: judged.Judged, later: list[int]) -> float:
  """Accuracy on first exchanges less that on later ones."""
  rest = judged.mean(one.outcomes, np.isin(one.turns, later))
  return judged.mean(one.outcomes, one.turns == 1) - rest


def slope(one: judged.Judged, turns: list[int]) -> float:
  """Accuracy a turn, least squares over the comparisons of those turns."""
  is_in = np.isin(one.turns, turns)
  x, y = one.turns[is_in], one.outcomes[is_in]
  if np.unique(x).size < 2:
    return float('nan')
  x = x - x.mean()
  return float(np.sum(x * y) / np.sum(x * x))


def claims(found: judged.Runs, turns: list[int]) -> list[dict]:
  """Verdicts on the largest size, of those turns."""
  size = judged.sizes(found)[-1]
  ones = judged.of_size(found, size)
  conversations = ones[0].conversations
  later = [turn for turn in turns if turn > 1]
  out = []
  if 1 in turns and later:
    text = f'{size}: the first exchange is easier than later ones'
    gains = judged.of_each(ones, lambda one: first_gain(one, later))
    out.append(judged.claim(text, gains, conversations))
  if len(later) > 1:
    text = f'{size}: after it, accuracy does not depend on the turn (slope)'
    slopes = judged.of_each(ones, lambda one: slope(one, later))
    out.append(judged.within(text, slopes, conversations, limit=LIMIT))
  return out


def plot(workdir: str) -> dict:
  """Writes fig08.png and fig08.json: counts, accuracies by turn, verdicts."""
  found = judged.runs(workdir)
  first = next(iter(found.values()))
  turns, num = np.unique(first.turns, return_counts=True)
  counts = dict(zip(turns.tolist(), num.tolist(), strict=True))
  values = by_turn(found)
  summary = {
    'pairs_by_turn': {str(turn): count for turn, count in counts.items()},
    'last_turn_means': f'{preference.MAX_TURNS} or more',
    'accuracy': analysis.reports(values),
    'accuracy_by_kind': {
      kind: analysis.reports(by_turn(found, kind))
      for kind in sorted(set(first.kinds.tolist()))
    },
    'claims': claims(found, list(next(iter(values.values())))),
  }
  return analysis.write(workdir, 'fig08', summary, draw(values, counts))


def draw(values: dict, counts: dict[int, int]):
  """How many comparisons a turn has; accuracy by turn and size."""
  drawing, (left, right) = analysis.axes('test comparisons', 'accuracy by turn')
  left.bar(list(counts), list(counts.values()), color='#0072B2', alpha=0.7)
  left.set_ylabel('Comparisons')
  colors = analysis.colors(len(values))
  for i, (size, by) in enumerate(values.items()):
    aside = 0.06 * (i - (len(values) - 1) / 2)  # bars stay apart
    estimates = [analysis.estimate(v) for v in by.values()]
    x = [turn + aside for turn in by]
    style = dict(color=colors[i], marker='o', label=size)
    analysis.draw_estimates(right, x, estimates, **style)
  right.set_ylabel('Accuracy on the test set')
  right.legend(frameon=False, fontsize=8)
  names = {t: f'{t}+' if t == preference.MAX_TURNS else str(t) for t in counts}
  for ax in (left, right):
    ax.set_xticks(list(names), names.values())
    ax.set_xlabel('Human turns')
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)

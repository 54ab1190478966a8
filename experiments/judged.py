"""Held-out comparisons as the preference models of a sweep judged them.

N comparisons of one run; runs share the test set, in one order. Values of a
claim are one a seed, as in experiments/analysis.py. Nothing here trains.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments import analysis, sweep
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.evals import preference

COLUMNS = ('source', 'turns', 'score_chosen', 'score_rejected', 'conversation')
Runs = Mapping[tuple[str, int], 'Judged']


@dataclasses.dataclass(frozen=True)
class Judged:
  """One preference model's scores of the test set, PM units."""

  chosen: np.ndarray  # [N], less the mean of all 2 N scores
  rejected: np.ndarray
  kinds: np.ndarray  # 'helpful' or 'harmless'
  turns: np.ndarray  # int, human turns, preference.MAX_TURNS or more as that
  conversations: np.ndarray

  @property
  def margins(self) -> np.ndarray:
    return self.chosen - self.rejected

  @property
  def outcomes(self) -> np.ndarray:
    """1 where the model prefers the chosen reply, 1/2 on a tie, else 0."""
    return preference.outcomes(self.margins)

  def where(self, mask: np.ndarray) -> 'Judged':
    """Those comparisons, their scores as they are."""
    values = (getattr(self, f.name)[mask] for f in dataclasses.fields(self))
    return Judged(*values)


def read(path: pathlib.Path) -> Judged:
  """The eval.jsonl of a finished run."""
  rows = workdir_lib.read_rows(path / 'eval.jsonl', COLUMNS)
  scores = np.array([[r['score_chosen'], r['score_rejected']] for r in rows])
  return Judged(
    *(scores - scores.mean()).T,
    np.array([analysis.kind_of(row['source']) for row in rows]),
    np.minimum([row['turns'] for row in rows], preference.MAX_TURNS),
    np.array([row['conversation'] for row in rows]),
  )


def runs(workdir: Any, name: str = 'mix') -> Runs:
  """(size, seed) -> scores, of the seeds that all sizes have."""
  found = sweep.finished(workdir, name)
  analysis.require(found, f'preference models {name!r}', workdir)
  seeds = analysis.shared_seeds(found)
  out = {key: read(path) for key, path in found.items() if key[1] in seeds}
  first = next(iter(out.values()))
  for (size, seed), one in out.items():
    if not np.array_equal(one.conversations, first.conversations):
      raise InputError(f'{workdir}: {size}/seed{seed} has another test set')
  return out


def trained_on(workdir: Any, name: str = 'mix') -> list[str]:
  """Kinds of comparisons that the runs of that name learned from."""
  path = next(iter(sweep.finished(workdir, name).values()))
  mixture = workdir_lib.read_config(path)['config']['mixture']
  share = mixture['helpful_share']
  parts = {'helpful': share > 0, 'harmless': share < 1}
  return [kind for kind, is_in in parts.items() if is_in]


def sizes(found: Runs) -> list[str]:
  """From small to large."""
  return analysis.in_order(size for size, _ in found)


def of_size(found: Runs, size: str) -> list[Judged]:
  """One a seed."""
  return [found[key] for key in sorted(found) if key[0] == size]


def within(text: str, values: ArrayLike, limit: float) -> dict[str, Any]:
  """Whether a value that the claim says is about 0 is so, over seeds.

  holds: true where the whole 95 % interval is within +- limit (equivalence;
  the limit is our choice), else false, with `because`; null for one seed.
  """
  found = analysis.estimate(values)
  out = {'claim': text, **found.report(), 'limit': limit}
  if found.half is None:
    return out | {'holds': None, 'because': 'one seed has no error'}
  low, high = found.mean - found.half, found.mean + found.half
  if -limit <= low and high <= limit:
    return out | {'holds': True, 'because': 'the 95 % interval is within'}
  if low > limit or high < -limit:
    return out | {'holds': False, 'because': 'the 95 % interval is beyond'}
  because = 'the 95 % interval reaches beyond the limit: cannot tell'
  return out | {'holds': False, 'because': because}


def histogram(ax, edges: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
  """Densities of named values in the same bins, with their means."""
  colours = ('#0072B2', '#D55E00', '#009E73', '#6B6B6B')
  for (name, values), colour in zip(parts.items(), colours, strict=False):
    density, _ = np.histogram(values, edges, density=True)
    ax.stairs(density, edges, fill=True, color=colour, alpha=0.2)
    mean = f'{np.mean(values):+.2f}'.replace('-', '−')
    label = f'{name}, mean {mean}'
    ax.stairs(density, edges, color=colour, lw=1.3, label=label)
    ax.axvline(np.mean(values), color=colour, lw=1, ls='--')
  ax.set_ylabel('Density')
  ax.set_ylim(0, 1.2 * ax.get_ylim()[1])  # room for the legend
  ax.legend(frameon=False, fontsize=8)


def bins(parts: Sequence[np.ndarray], num: int = 40) -> np.ndarray:
  """Edges of num bins that hold all values."""
  return np.histogram_bin_edges(np.concatenate(list(parts)), bins=num)

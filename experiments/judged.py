"""Held-out comparisons as the preference models of a sweep judged them.

N comparisons of one run; runs share the test set, in one order. Values of a
claim are one a seed, as in experiments/analysis.py, and all of its claims here
have both errors: over seeds, and over the test set's conversations, which are
drawn again with replacement (Efron 1979). Nothing here trains.
"""

from collections.abc import Callable, Mapping, Sequence
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
NUM_DRAWS = 500  # of conversations: a standard error to 3 %
MIN_CONVERSATIONS = 10  # of fewer, draws do not tell the error; our choice
Runs = Mapping[tuple[str, int], 'Judged']
# rows [M] of the test set, some of them more than once -> a value a seed
OfRows = Callable[[np.ndarray], ArrayLike]


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
    """Those comparisons (a mask, or their numbers), scores as they are."""
    values = (getattr(self, f.name)[mask] for f in dataclasses.fields(self))
    return Judged(*values)


def read(path: pathlib.Path) -> Judged:
  """The eval.jsonl of a finished run."""
  rows = workdir_lib.read_rows(path / 'eval.jsonl', COLUMNS)
  if not rows:
    raise InputError(f'{path}/eval.jsonl has no rows: nothing was judged')
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
  check_same(
    {f'{workdir}: {size}/seed{seed}': one for (size, seed), one in out.items()}
  )
  return out


def check_same(found: Mapping[str, Judged]) -> None:
  """InputError names what does not have the test set of the first one."""
  first = next(iter(found.values()))
  for name, one in found.items():
    if not np.array_equal(one.conversations, first.conversations):
      raise InputError(f'{name} has another test set')


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


def mean(values: np.ndarray, mask: np.ndarray) -> float:
  """Of values [N] where mask [N] is true; NaN where it never is."""
  return float(values[mask].mean()) if mask.any() else float('nan')


def of_each(
  ones: Sequence[Judged], statistic: Callable[[Judged], float]
) -> OfRows:
  """The statistic of those rows as each seed's model judged them."""
  # names are long, and no statistic reads them
  numbers = np.arange(ones[0].conversations.size)
  ones = [dataclasses.replace(one, conversations=numbers) for one in ones]
  return lambda rows: [statistic(one.where(rows)) for one in ones]


def over_conversations(values: OfRows, conversations: np.ndarray) -> float:
  """Standard error of the mean over seeds, from conversations [N] drawn anew.

  Comparisons of one conversation share their context, so they are drawn
  together (our choice). NaN, which proves nothing, where some draw lacks what
  `values` compares or there are fewer than MIN_CONVERSATIONS.
  """
  _, group, counts = np.unique(
    conversations, return_inverse=True, return_counts=True
  )
  if counts.size < MIN_CONVERSATIONS:
    return float('nan')
  order = np.argsort(group, kind='stable')  # conversations one after another
  starts = np.cumsum(counts) - counts
  rng = np.random.default_rng(0)
  means = []
  for _ in range(NUM_DRAWS):
    drawn = rng.integers(counts.size, size=counts.size)
    size = counts[drawn]
    first = starts[drawn] - (np.cumsum(size) - size)
    places = np.repeat(first, size) + np.arange(size.sum())
    means.append(np.mean(values(order[places])))
  return float(np.std(means))


def claim(
  text: str, values: OfRows, conversations: np.ndarray, *, paper: Any = None
) -> dict[str, Any]:
  """analysis.claim with both errors."""
  error = over_conversations(values, conversations)
  everything = values(np.arange(conversations.size))
  return analysis.claim(text, everything, over_conversations=error, paper=paper)


def below_chance(
  text: str, ones: Sequence[Judged], kind: str, *, paper: str
) -> dict[str, Any]:
  """A verdict on models of another kind of comparison."""
  parts = [one.where(one.kinds == kind) for one in ones]
  below = of_each(parts, lambda one: 0.5 - one.outcomes.mean())
  return claim(text, below, parts[0].conversations, paper=paper)


def within(
  text: str, values: OfRows, conversations: np.ndarray, *, limit: float
) -> dict[str, Any]:
  """Whether a value that the claim says is about 0 is so.

  holds: true where both 95 % intervals are within +- limit (equivalence; the
  limit is our choice), else false, with `because`; null for one seed.
  """
  error = over_conversations(values, conversations)
  everything = values(np.arange(conversations.size))
  out, low, high, kind = analysis.intervals(text, everything, error)
  out['limit'] = limit
  if low is None:
    return out | {'holds': None, 'because': 'one seed has no error'}
  interval = f'the 95 % interval{kind}'
  if -limit <= low and high <= limit:
    return out | {'holds': True, 'because': f'{interval} is within'}
  if low > limit or high < -limit:
    return out | {'holds': False, 'because': f'{interval} is beyond'}
  because = f'{interval} reaches beyond the limit: cannot tell'
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

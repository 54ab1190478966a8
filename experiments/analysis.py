"""From the files of finished preference models to claims with errors.

Values of a claim are one a seed: seeds share the test set, so what is compared
within a seed is paired, and errors over seeds hold for this test set. Claims
that contrast different pairs, or are on an accuracy itself, have a second
error, over its conversations (experiments/judged.py). Nothing here trains.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hh_jax import metrics
from hh_jax import model as model_lib
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.evals import figures, preference

# Student's t for a two-sided 95 % interval, by degrees of freedom from 1; the
# last one serves for more, where it is a little wide.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20)
_Z95 = 1.96
KINDS = ('helpful', 'harmless')


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The mean of one value a seed."""

  mean: float
  se: float | None  # standard error over seeds; None for one seed
  seeds: int

  @property
  def half(self) -> float | None:
    """Half of the 95 % interval (Student's t)."""
    if self.se is None:
      return None
    return self.se * _T95[min(self.seeds - 1, len(_T95)) - 1]

  def report(self) -> dict[str, Any]:
    return {'mean': self.mean, 'se': self.se, 'seeds': self.seeds}


def estimate(values: ArrayLike) -> Estimate:
  """Mean and standard error of values [seeds]; InputError where not finite."""
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size:
    raise ValueError(f'want one value a seed, not {values.shape}')
  if not np.isfinite(values).all():
    raise InputError(f'a value of a seed is not finite: {values.tolist()}')
  n = values.size
  se = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
  return Estimate(float(values.mean()), se, n)


def claim(
  text: str,
  values: ArrayLike,
  *,
  over_conversations: float | None = None,
  paper: Any = None,
) -> dict[str, Any]:
  """Whether a value that the claim says is positive is so.

  holds: true where the 95 % interval over seeds is above 0, and the one over
  conversations, where their standard error is given, else false, with
  `because`; null for one seed, which has no error.
  """
  out, low, high, kind = intervals(text, values, over_conversations)
  holds, because = None, 'one seed has no error'
  if low is not None:
    holds, because = verdict(low, high, kind)
  out |= {'holds': holds, 'because': because}
  return out | ({} if paper is None else {'paper': paper})


def intervals(
  text: str, values: ArrayLike, over_conversations: float | None
) -> tuple[dict[str, Any], float | None, float | None, str]:
  """A claim's numbers, ends of its wider 95 % interval, and which one that is.

  Both intervals have the same middle, so what the wider one says both do. Ends
  are None for one seed, and infinite where the error is not finite (too few
  conversations; null in the report).
  """
  found = estimate(values)
  out, half, kind = {'claim': text, **found.report()}, found.half, ''
  if over_conversations is not None:
    is_known = bool(np.isfinite(over_conversations))
    out['se_conversations'] = over_conversations if is_known else None
    other = _Z95 * over_conversations if is_known else np.inf
    if half is not None:
      kind = ' over seeds' if half > other else ' over conversations'
      half = max(half, other)
  if half is None:
    return out, None, None, kind
  return out, found.mean - half, found.mean + half, kind


def verdict(low: float, high: float, kind: str = '') -> tuple[bool, str]:
  """Whether all of a 95 % interval is above 0, and why."""
  if low > 0:
    return True, f'the 95 % interval{kind} is above 0'
  if high < 0:
    return False, f'the 95 % interval{kind} is below 0'
  return False, f'the 95 % interval{kind} holds 0'


def kind_of(source: str) -> str:
  """'harmless' or 'helpful', by the tranche's name (data/examples.py)."""
  return 'harmless' if 'harmless' in source else 'helpful'


def accuracies(path: pathlib.Path) -> dict[str, float]:
  """A preference model on its whole test set: by kind, 'all' and 'mean'.

  'mean' is that of helpful and harmless, and like each only there where the
  test set has them.
  """
  rows = workdir_lib.read_rows(
    path / 'eval.jsonl', ('source', 'score_chosen', 'score_rejected')
  )
  if not rows:
    raise InputError(f'{path}/eval.jsonl has no rows: no accuracies')
  margins = np.array([r['score_chosen'] - r['score_rejected'] for r in rows])
  kinds = np.array([kind_of(r['source']) for r in rows])
  return {'all': preference.accuracy(margins)} | _with_mean(
    {
      kind: preference.accuracy(margins[kinds == kind])
      for kind in KINDS
      if (kinds == kind).any()
    }
  )


def _with_mean(by_kind: dict[str, float]) -> dict[str, float]:
  if set(by_kind) < set(KINDS):
    return by_kind
  return by_kind | {'mean': float(np.mean([by_kind[k] for k in KINDS]))}


@dataclasses.dataclass(frozen=True)
class Curve:
  """A learning curve: comparisons seen [E], and accuracies [E] by kind."""

  pairs: np.ndarray
  accuracy: Mapping[str, np.ndarray]  # 'all', 'helpful', 'harmless'


def curve(path: pathlib.Path) -> Curve:
  """From metrics.jsonl; several tranches of a kind count alike."""
  seen, evaluations = {0: 0}, {}
  for row in metrics.read_metrics(path / metrics.METRICS):
    if 'train/pairs' in row:
      seen[row['step']] = row['train/pairs']
    if 'eval/accuracy' in row:
      evaluations[row['step']] = row
  steps = [step for step in evaluations if step in seen]
  rows = [evaluations[step] for step in steps]
  if not rows:
    raise InputError(f'{path} has no evaluations')
  by_kind = {'all': np.array([row['eval/accuracy'] for row in rows])}
  sources = [
    key.split('/')[1]
    for key in rows[0]
    if re.fullmatch('eval/[^/]+/accuracy', key)
  ]
  for kind in KINDS:
    keys = [f'eval/{x}/accuracy' for x in sources if kind_of(x) == kind]
    if keys:
      by_kind[kind] = np.array([np.mean([r[k] for k in keys]) for r in rows])
  return Curve(np.array([seen[step] for step in steps]), by_kind)


def at(curve: Curve, pairs: ArrayLike, kind: str = 'all') -> np.ndarray:
  """Accuracy after that many comparisons, linear between evaluations."""
  return np.interp(pairs, curve.pairs, curve.accuracy[kind])


def parameters(size: str) -> int:
  """12 L D^2: what a token multiplies with, as the paper's names count."""
  return model_lib.sized(size, vocab_size=1).num_matmul_params


def fit(y: ArrayLike, *columns: ArrayLike) -> np.ndarray:
  """Least squares [1 + C] of y = a + b x1 + c x2 + ...; needs enough points."""
  y = np.asarray(y, np.float64)
  design = np.stack([np.ones(y.size), *map(np.asarray, columns)], axis=1)
  if np.linalg.matrix_rank(design) < design.shape[1]:
    raise InputError(f'{y.size} points cannot fit {design.shape[1]} numbers')
  return np.linalg.lstsq(design, y, rcond=None)[0]


def scaling(
  curves: Mapping[tuple[str, int], Curve], kind: str = 'all'
) -> dict[str, np.ndarray]:
  """accuracy = a + b ln(D) + c ln(P), fitted seed by seed (eq A.1).

  D: the last comparisons seen / 1, 2, 4, 8, 16; P: `parameters`. Values [seeds]
  of 'at_end' (of the fit, at the largest P and D), 'data' (b), 'parameters' (c;
  absent for one size) and 'rms' (root mean square residual). Points of a curve
  are not independent, so errors are to be taken over seeds.
  """
  sizes = in_order(size for size, _ in curves)
  seeds = shared_seeds(curves)
  end = min(curve.pairs[-1] for curve in curves.values())
  pairs = end / 2.0 ** np.arange(5)
  d = np.tile(np.log(pairs / end), len(sizes))
  p = np.repeat([np.log(parameters(size)) for size in sizes], pairs.size)
  columns = [d] if len(sizes) == 1 else [d, p - p.max()]
  names = ('at_end', 'data', 'parameters')[: len(columns) + 1]
  out = {name: [] for name in (*names, 'rms')}
  for seed in seeds:
    y = np.concatenate([at(curves[s, seed], pairs, kind) for s in sizes])
    found = fit(y, *columns)
    for name, value in zip(names, found, strict=True):
      out[name].append(value)
    left = y - np.stack([np.ones(y.size), *columns], axis=1) @ found
    out['rms'].append(np.sqrt(np.mean(left**2)))
  return {name: np.array(values) for name, values in out.items()}


def shared_seeds(runs: Iterable[tuple[str, int]]) -> list[int]:
  """Seeds that every size of (size, seed) has."""
  by_size: dict[str, set[int]] = {}
  for size, seed in runs:
    by_size.setdefault(size, set()).add(seed)
  return sorted(set.intersection(*by_size.values())) if by_size else []


def by_size(
  found: Mapping[tuple[str, int], Any], fn: Callable[[Any], Any]
) -> dict[str, list]:
  """size -> fn of each seed's value, from (size, seed) -> value."""
  return {
    size: [fn(found[key]) for key in sorted(found) if key[0] == size]
    for size in in_order(size for size, _ in found)
  }


def reports(tree: Mapping) -> dict:
  """Estimates of the arrays [seeds] in a tree of dicts, by string keys."""
  return {
    str(key): reports(value)
    if isinstance(value, Mapping)
    else estimate(value).report()
    for key, value in tree.items()
  }


def in_order(sizes: Iterable[str]) -> list[str]:
  """Sizes from small to large, each once."""
  return sorted(set(sizes), key=parameters)


def require(found: Any, what: str, workdir: Any) -> None:
  """InputError where a plot has nothing to read."""
  if not found:
    raise InputError(
      f'{workdir} has no finished {what}: run without --plot-only'
    )


def write(workdir: Any, name: str, summary: dict[str, Any], drawing) -> dict:
  """NAME.json and NAME.png in workdir; the summary."""
  folder = pathlib.Path(workdir)
  workdir_lib.write_json(folder / f'{name}.json', summary)
  workdir_lib.write_bytes(folder / f'{name}.png', figures.png(drawing))
  return summary


def axes(*titles: str, width: float = 4.2, height: float = 3.6) -> Any:
  """A matplotlib Figure and one axes a title, side by side."""
  from matplotlib import figure

  size = (width * len(titles), height)
  drawing = figure.Figure(figsize=size, layout='constrained')
  found = drawing.subplots(1, len(titles), squeeze=False)[0]
  for ax, title in zip(found, titles, strict=True):
    ax.set_title(title, fontsize=10)
    ax.spines[['top', 'right']].set_visible(False)
  return drawing, found


def draw_curves(
  ax, curves: Mapping[tuple[str, int], Curve], kind: str = 'all'
) -> None:
  """Accuracy against comparisons: mean over seeds, a band of one s.e."""
  sizes = in_order(size for size, _ in curves)
  seeds = shared_seeds(curves)
  for size, color in zip(sizes, colors(len(sizes)), strict=True):
    mine = [curves[size, seed] for seed in seeds]
    start = max(curve.pairs[1] for curve in mine)  # 0 has no logarithm
    pairs = np.geomspace(start, min(c.pairs[-1] for c in mine), 30)
    values = np.stack([at(curve, pairs, kind) for curve in mine])
    mean = values.mean(axis=0)
    ax.plot(pairs, mean, color=color, label=size, lw=1.4)
    if len(mine) > 1:
      se = values.std(axis=0, ddof=1) / np.sqrt(len(mine))
      ax.fill_between(pairs, mean - se, mean + se, color=color, alpha=0.2, lw=0)
  log_axis(ax)
  ax.set_xlabel('Comparisons seen')


def log_axis(ax) -> None:
  """A logarithmic x axis with few ticks: 300, 1k, 3k, ..."""
  from matplotlib import ticker

  ax.set_xscale('log')
  ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
  ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  ax.xaxis.set_minor_locator(ticker.NullLocator())


def colors(n: int) -> list[Any]:
  """Light to dark, one a size; a dark one where there is one."""
  import matplotlib

  shades = np.linspace(0.95, 0.15, n)[::-1]
  return list(matplotlib.colormaps['viridis_r'](shades))


def draw_estimates(
  ax, x: Sequence[float], values: Sequence[Estimate], **style
) -> None:
  """Means with bars of one standard error over seeds."""
  bars = [0.0 if v.se is None else v.se for v in values]
  ax.errorbar(
    x, [v.mean for v in values], bars, capsize=2, ms=4, lw=1.2, **style
  )

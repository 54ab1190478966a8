"""The figures of a run: data in, matplotlib Figure out, no global state.

Colours are Okabe and Ito's, told apart by colour-blind readers too; every
series also has its own marker. Bars and bands are stated in each docstring.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io

from matplotlib import figure, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
import numpy as np

from hh_jax.evals import preference
from hh_jax.evals.frontier import LineFit
from hh_jax.evals.report_card import Histogram, Thresholds

BLUE, ORANGE, GREEN = '#0072B2', '#D55E00', '#009E73'
INK, MUTED, FAINT = '#222222', '#6B6B6B', '#DDDDDD'
LOOKS = {  # series -> colour, marker
  'training PM': (BLUE, 'o'),
  'held-out PM': (ORANGE, 's'),
  'gold': (GREEN, '^'),
}
SETS = {  # kind of comparison -> colour, marker
  'all': (BLUE, 'o'),
  'helpful': (GREEN, '^'),
  'harmless': (ORANGE, 's'),
  'other': (MUTED, 'D'),
}
LINES = ('--', ':', '-.')  # of horizontal references
SIZE = (6.2, 4.5)  # inches
NUM_NAME_CHARS = 22  # longer names are cut in tick labels


@dataclasses.dataclass(frozen=True)
class Series:
  """One curve; se, if given, draws bars of one standard error."""

  name: str
  x: np.ndarray
  y: np.ndarray
  se: np.ndarray | None = None
  is_faint: bool = False  # a noisy curve behind the others, without markers


@dataclasses.dataclass(frozen=True)
class Panel:
  """One of several stacked axes over the same x."""

  label: str  # with the unit
  series: Sequence[Series]


@dataclasses.dataclass(frozen=True)
class Group:
  """Accuracy of one set of pairs with its interval and reference rules."""

  name: str
  accuracy: float
  low: float
  high: float
  length_rule: float | None = None
  ceiling: float | None = None


def png(drawing: figure.Figure) -> bytes:
  """The figure as PNG; the same data gives the same bytes."""
  buffer = io.BytesIO()
  drawing.savefig(buffer, format='png', dpi=150, metadata={'Software': None})
  return buffer.getvalue()


def _style(ax: Axes) -> None:
  ax.grid(True, color=FAINT, linewidth=0.6)
  ax.set_axisbelow(True)
  ax.tick_params(labelsize=9, colors=MUTED, labelcolor=INK)
  for side in ('top', 'right'):
    ax.spines[side].set_visible(False)
  for side in ('left', 'bottom'):
    ax.spines[side].set_color(MUTED)


def _axes(
  title: str, *, height: float = SIZE[1], rows: Sequence[float] = (1,)
) -> tuple[figure.Figure, Sequence[Axes]]:
  """A figure of stacked axes of the given relative heights, shared x."""
  drawing = figure.Figure(figsize=(SIZE[0], height), layout='constrained')
  axes = drawing.subplots(
    len(rows), 1, sharex=True, squeeze=False, height_ratios=rows
  )[:, 0]
  for ax in axes:
    _style(ax)
  axes[0].set_title(
    title, loc='left', fontsize=11, fontweight='bold', color=INK
  )
  return drawing, axes


def _legend(ax: Axes) -> None:
  ax.legend(fontsize=8, framealpha=0.9, edgecolor='none', labelcolor=INK)


def _legend_below(
  drawing: figure.Figure, ax: Axes, *, num_columns: int
) -> None:
  drawing.legend(
    *ax.get_legend_handles_labels(),
    **dict(loc='outside lower left', ncols=num_columns),
    **dict(fontsize=8, frameon=False, labelcolor=INK),
  )


def _percent(axis: Axis) -> None:
  axis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))


def _points(
  ax: Axes, series: Series, look: tuple[str, str], line: str = '-'
) -> None:
  """The series with its bars; look is (colour, marker)."""
  colour, marker = look
  ax.errorbar(
    *(series.x, series.y, series.se),
    **dict(color=colour, marker=marker, linestyle=line, label=series.name),
    **dict(markersize=4.5, linewidth=1.3, capsize=2, elinewidth=0.9),
  )


def _curve(ax: Axes, series: Series, look: tuple[str, str]) -> None:
  if not series.is_faint:
    return _points(ax, series, look)
  style = dict(color=look[0], alpha=0.45, linewidth=1)
  ax.plot(series.x, series.y, label=series.name, **style)


def learning_curve(
  held_out: Series, train: Series | None, references: Mapping[str, float]
) -> figure.Figure:
  """PM accuracy against pairs seen, log x (Bai et al. 2022, Fig 7 left).

  references: horizontal lines, name -> accuracy.
  """
  drawing, (ax,) = _axes('Preference model: accuracy while training')
  if train is not None:
    _curve(ax, train, (MUTED, '.'))
  _curve(ax, held_out, (BLUE, 'o'))
  for (name, value), style in zip(references.items(), LINES, strict=False):
    label = f'{name} ({100 * value:.1f} %)'
    ax.axhline(value, color=INK, linewidth=1, linestyle=style, label=label)
  ax.set_xscale('log')
  _percent(ax.yaxis)
  ax.set_xlabel('Training comparisons seen (log scale)')
  ax.set_ylabel('Accuracy')
  shown = [*held_out.y, *references.values()]
  ax.set_ylim(min(shown) - 0.04, max(shown) + 0.06)
  _legend_below(drawing, ax, num_columns=3)
  return drawing


def calibration(
  bins: preference.Calibration, margins: np.ndarray
) -> figure.Figure:
  """Accuracy against |score difference| (Fig 9); bars: 95 % Wilson.

  Below: how the |margins| [N] are spread.
  """
  drawing, (ax, below) = _axes('Preference model: calibration', rows=(4, 1))
  line = np.linspace(0, max(bins.margin.max(), 0.1) * 1.05, 200)
  name = 'calibrated: 1 / (1 + exp(−Δ))'
  ax.plot(line, preference.sigmoid(line), '--', color=INK, lw=1, label=name)
  bars = np.abs(np.stack([bins.low, bins.high]) - bins.accuracy)
  measured = f'test pairs, {bins.count.max():,} pairs a bin, 95 % interval'
  _points(
    ax, Series(measured, bins.margin, bins.accuracy, bars), (BLUE, 'o'), ''
  )
  _percent(ax.yaxis)
  ax.set_ylabel('Accuracy')
  _legend(ax)
  below.hist(np.abs(margins), bins=40, color=BLUE, alpha=0.6)
  below.set_ylabel('Pairs', fontsize=9)
  below.set_xlabel('|Δ|: difference of the two scores (PM units)')
  return drawing


def threshold_accuracy(curves: Mapping[str, Thresholds]) -> figure.Figure:
  """Accuracy where both scores pass a threshold (Fig 25), by set of SETS.

  Bars: 95 % intervals. Below: how many pairs are left.
  """
  drawing, (ax, below) = _axes(
    'Preference model: accuracy above a score', rows=(3, 1)
  )
  span = np.ptp(np.concatenate([one.threshold for one in curves.values()]))
  for i, (name, one) in enumerate(curves.items()):
    colour, marker = SETS[name]
    bars = np.abs(np.stack([one.low, one.high]) - one.accuracy)
    aside = 0.01 * span * (i - (len(curves) - 1) / 2)  # bars stay apart
    x = one.threshold + aside
    _points(ax, Series(name, x, one.accuracy, bars), SETS[name])
    style = dict(color=colour, marker=marker, markersize=3, linewidth=1)
    below.plot(one.threshold, one.count, **style)
  ax.axhline(0.5, color=INK, linewidth=1, linestyle='--', label='chance')
  _percent(ax.yaxis)
  ax.set_ylabel('Accuracy')
  below.set_yscale('log')
  _decades(below, np.concatenate([one.count for one in curves.values()]))
  below.set_ylabel('Pairs (log)', fontsize=9)
  below.set_xlabel('Both scores above (PM units; mean score 0)')
  _legend_below(drawing, ax, num_columns=5)
  return drawing


def _decades(ax: Axes, values: np.ndarray) -> None:
  """A log axis whose ticks are the powers of ten around positive values."""
  low = np.floor(np.log10(values.min()))
  high = max(np.ceil(np.log10(values.max())), low + 1)
  ax.set_ylim(10**low, 10**high)
  ax.set_yticks(10.0 ** np.arange(low, high + 1))
  ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def score_histogram(counts: Histogram) -> figure.Figure:
  """How the scores of chosen and of rejected replies are spread."""
  drawing, (ax,) = _axes('Preference model: scores')
  centres = (counts.edges[:-1] + counts.edges[1:]) / 2
  for name, values, colour, line in (
    ('chosen', counts.chosen, BLUE, '-'),
    ('rejected', counts.rejected, ORANGE, '--'),
  ):
    mean = np.average(centres, weights=values)
    style = dict(color=colour, linestyle=line)
    ax.stairs(values, counts.edges, fill=True, color=colour, alpha=0.2)
    label = f'{name}, mean {mean:+.2f}'.replace('-', '−')
    ax.stairs(values, counts.edges, linewidth=1.4, label=label, **style)
    ax.axvline(mean, linewidth=1, **style)
  ax.set_ylabel('Replies')
  ax.set_xlabel('Score (PM units; mean of all 0)')
  _legend(ax)
  return drawing


def group_accuracy(groups: Sequence[Group]) -> figure.Figure:
  """Accuracy of sets of pairs, one row each; bars: 95 % bootstrap."""
  drawing, (ax,) = _axes(
    'Preference model: accuracy by set',
    height=max(SIZE[1], 1.5 + 0.34 * len(groups)),
  )
  rows = np.arange(len(groups))[::-1]
  ends = np.array([(g.low, g.high) for g in groups]).T
  ax.hlines(rows, *ends, color=BLUE, linewidth=2)
  # marker, colour, size, label, value of each group (None: not known)
  for marker, colour, size, label, values in (
    ('o', BLUE, 6, 'PM, 95 % interval', [g.accuracy for g in groups]),
    ('D', ORANGE, 6, 'better length rule', [g.length_rule for g in groups]),
    ('|', GREEN, 13, 'gold ceiling', [g.ceiling for g in groups]),
  ):
    known = [p for p in zip(values, rows, strict=True) if p[0] is not None]
    if known:
      style = dict(color=colour, markersize=size, markeredgewidth=2)
      ax.plot(*zip(*known, strict=True), marker, label=label, mfc='w', **style)
  ax.axvline(0.5, color=INK, linewidth=1, linestyle='--', label='chance')
  names = [group.name[:NUM_NAME_CHARS] for group in groups]
  ax.set_yticks(rows, names, parse_math=False)
  ax.set_ylim(-0.6, len(groups) - 0.4)
  _percent(ax.xaxis)
  ax.set_xlabel('Accuracy')
  _legend_below(drawing, ax, num_columns=4)
  return drawing


def _slope(fit: LineFit) -> str:
  return f'{fit.slope:.2f} ± {fit.slope_se:.2f}, R² {fit.r_squared:.3f}'


def best_of_curve(ax: Axes, series: Series) -> None:
  """Gain by best of k = 1 .. n, dashed, with bars at powers of four.

  The series is named as in LOOKS; bars: one standard error.
  """
  colour, marker = LOOKS[series.name]
  n = series.x.size
  label = f'best of 1 … {n}, {series.name}'
  ax.plot(series.x, series.y, '--', color=colour, linewidth=1.2, label=label)
  at = [4**i - 1 for i in range(n.bit_length()) if 4**i <= n]
  ax.errorbar(
    *(series.x[at], series.y[at], series.se[at]),
    **dict(color=colour, marker=marker, linestyle='', markerfacecolor='w'),
    **dict(markersize=5.5, capsize=2, elinewidth=0.9),
  )


def reward_frontier(
  series: Sequence[Series],
  fits: Mapping[str, LineFit],
  best_of: Sequence[Series] = (),
) -> figure.Figure:
  """Gain in score against sqrt(KL) (Figs 4 and 13) with its lines.

  Bars: one standard error; bands: two standard errors of the line. `best_of`
  are curves of best of k on the same axes.
  """
  drawing, (ax,) = _axes('Policy: reward against √KL')
  for one in series:
    colour = LOOKS[one.name][0]
    fit = fits.get(one.name)
    label = one.name + (f', slope {_slope(fit)}' if fit else '')
    named = dataclasses.replace(one, name=label)
    _points(ax, named, LOOKS[one.name], '')
    if fit:
      line = np.linspace(0, one.x.max() * 1.03, 100)
      centre, error = fit.predict(line), 2 * fit.standard_error(line)
      ax.plot(line, centre, color=colour, linewidth=1.2)
      band = (line, centre - error, centre + error)
      ax.fill_between(*band, color=colour, alpha=0.15, linewidth=0)
  for one in best_of:
    best_of_curve(ax, one)
  ax.axhline(0, color=MUTED, linewidth=0.8)
  ax.set_xlabel('√KL(policy ‖ reference) (√nats)')
  ax.set_ylabel('Gain over the first evaluation\n(PM units or gold units)')
  _legend_below(drawing, ax, num_columns=2)
  return drawing


def over_steps(
  title: str, panels: Sequence[Panel], *, x_label: str
) -> figure.Figure:
  """Stacked panels over training steps; bars: one standard error."""
  drawing, axes = _axes(title, rows=(1,) * len(panels))
  for ax, panel in zip(axes, panels, strict=True):
    for one in panel.series:
      _curve(ax, one, LOOKS.get(one.name, (BLUE, 'o')))
    ax.set_ylabel(panel.label, fontsize=9)
    if len(panel.series) > 1:
      _legend(ax)
  axes[-1].set_xlabel(x_label)
  whole = ticker.MaxNLocator(
    # those of other axes, but none between steps, and of one step one tick
    **dict(nbins='auto', steps=(1, 2, 2.5, 5, 10), integer=True, min_n_ticks=1)
  )
  axes[-1].xaxis.set_major_locator(whole)
  axes[-1].xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
  return drawing

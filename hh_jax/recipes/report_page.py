"""The report as HTML: one file, no scripts, no outside addresses."""

from collections.abc import Mapping

from hh_jax.recipes import (
  report_analysis,
  report_data,
  report_html,
  report_parts,
  report_replies,
  report_text,
)
from hh_jax.recipes.report_analysis import Analysis
from hh_jax.recipes.report_data import Runs
from hh_jax.recipes.report_html import Html, tag

PM_PLOTS = ('pm_learning_curve', 'pm_calibration', 'pm_groups', 'pretrain')
POLICY_PLOTS = ('policy', 'replies', 'ppo')


def render(runs: Runs, analysis: Analysis, plots: Mapping[str, bytes]) -> str:
  """The whole page."""
  title = 'RLHF run report'
  section, claims = report_parts.section, report_text.claims(analysis)
  return report_html.document(
    title,
    tag('header', tag('h1', title), *_what_this_is(runs, analysis)),
    _tiles(analysis),
    *section(
      'Claims of the paper, against this run', report_parts.claims(claims)
    ),
    *section('Language and preference models', *_pm_tables(analysis)),
    report_parts.grid(plots, report_text.CAPTIONS, PM_PLOTS),
    *section('Policy', *_policy_table(runs, analysis)),
    report_parts.grid(plots, report_text.CAPTIONS, POLICY_PLOTS),
    *section('Reward against √KL', *_frontier(analysis)),
    report_parts.grid(plots, report_text.CAPTIONS, ('frontier',)),
    *section('Replies before and after', *report_replies.section(runs.samples)),
    *section('Left out', report_parts.notes(analysis.notes)),
    *section('Configs and versions', *report_parts.settings(runs.settings)),
  )


def _what_this_is(runs: Runs, analysis: Analysis) -> list[Html]:
  sources = ', '.join(sorted({str(row['source']) for row in runs.pm_pairs}))
  trained = report_data.number(runs.summaries['pm'], 'train/pairs')
  pairs = '' if trained is None else f' from {trained:,.0f} comparisons'
  text = tag(
    'p',
    'One run of the pipeline of Bai et al. (2022), “Training a Helpful and '
    'Harmless Assistant with RLHF”: a language model is pretrained, a '
    f'preference model (PM) learns{pairs} which of two replies a rater '
    'prefers, and PPO trains a policy to please the PM while it stays near '
    'its start. Every number and plot is made from the JSON files of the '
    f'run. Held-out comparisons: {sources}.',
  )
  if not analysis.is_gold:
    return [text]
  return [text, report_parts.simulator_warning()]


def _tiles(analysis: Analysis) -> Html:
  numbers, tiles = analysis.numbers, []
  tiles.append(
    ('PM accuracy, held-out', report_text.interval(numbers, 'pm/accuracy'))
  )
  if 'pm/share_of_ceiling' in numbers:
    share = report_text.percent(numbers['pm/share_of_ceiling'])
    tiles.append(('of the gold ceiling’s lead over chance', share))
  for name in analysis.evaluations.scores:
    key = f'policy/{report_data.SCORES[name][0]}_gain'
    value = report_text.signed(numbers[key])
    error = numbers.get(f'{key}_se')
    tiles.append((f'gain, {name}', report_text.with_error(value, error)))
  tiles.append(('KL at the end, nats', f'{numbers["policy/kl"]:.2f}'))
  if 'training PM' in analysis.fits:
    fit = analysis.fits['training PM']
    tiles.append(('R² of reward in √KL', f'{fit.r_squared:.3f}'))
  return report_parts.tiles(tiles)


def _pm_tables(analysis: Analysis) -> list[Html]:
  out = []
  titles = {'pm': 'Training PM', 'heldout_pm': 'Held-out PM'}
  for pm, title in titles.items():
    if report_analysis.pair_sets(analysis.numbers, pm):
      table = report_parts.pm_table(analysis.numbers, pm)
      out += [tag('h3', title), table]
  return [*out, report_parts.pm_note(analysis.numbers)]


def _policy_table(runs: Runs, analysis: Analysis) -> list[Html]:
  evaluations, numbers = analysis.evaluations, analysis.numbers
  rows = []
  for name in evaluations.scores:
    short, metric = report_data.SCORES[name]
    change = report_text.with_error(
      report_text.signed(numbers[f'policy/{short}_gain']),
      numbers.get(f'policy/{short}_gain_se'),
    )
    rows.append([f'Score: {name}', *_ends(runs.ppo, metric), change])
  for metric, label in (
    ('eval/kl', 'KL to the start, nats a reply'),
    ('eval/length', 'Reply length, tokens'),
    ('eval/stop_rate', 'Share of replies that end'),
  ):
    values = report_data.curve(runs.ppo, metric)[1]
    if values.size:
      change = report_text.signed(values[-1] - values[0])
      rows.append([label, *_ends(runs.ppo, metric), change])
  first, last = (f'Iteration {evaluations.steps[i]:g}' for i in (0, -1))
  how = 'as if the evaluations were independent: cautious, they share prompts'
  if 'gain/pm_score_se' in runs.summaries['ppo']:
    how = 'paired by prompt'
  note = (
    '± is one standard error; that of the change of a score is '
    f'{how}. Same held-out prompts throughout.'
  )
  return [
    report_html.table(
      ['Mean over held-out prompts', first, last, 'Change'], rows
    ),
    tag('p', note, class_='note'),
  ]


def _frontier(analysis: Analysis) -> list[Html]:
  """Slopes and gains of the policy beside those of best of n, by score."""
  numbers, rows = analysis.numbers, []

  def value(name: str, digits: int = 2) -> str:
    if name not in numbers:
      return '–'
    text = report_text.signed(numbers[name], digits)
    return report_text.with_error(text, numbers.get(f'{name}_se'), digits)

  for name in analysis.evaluations.scores:
    short = report_data.SCORES[name][0]
    columns = (f'policy/{short}_gain', f'best_of_n/{short}_gain',
               f'best_of_n/{short}_lead')  # fmt: skip
    slope = value(f'frontier/{short}_slope', 3)
    rows.append([f'Score: {name}', slope, *map(value, columns)])
  best = 'best of n'
  if 'best_of_n/n' in numbers:
    end = report_text.plain(numbers['best_of_n/sqrt_kl'])
    best = f'best of {numbers["best_of_n/n"]:.0f} (√KL {end})'
  end = report_text.plain(analysis.evaluations.sqrt_kl[-1])
  head = ['Gain over the start', 'Slope in √KL, PPO',
          f'PPO, last (√KL {end})', best[:1].upper() + best[1:],
          'Lead of best of n at one KL']  # fmt: skip
  return [report_html.table(head, rows),
          tag('p', _frontier_note(numbers), class_='note')]  # fmt: skip


def _frontier_note(numbers: Mapping[str, float]) -> str:
  if 'best_of_n/n' not in numbers:
    return 'There is no best_of_n run to compare with.'
  where = ''
  if 'best_of_n/same_sqrt_kl' in numbers:
    root = report_text.plain(numbers['best_of_n/same_sqrt_kl'])
    where = f' The one KL is the largest that both have (√KL {root}).'
  return (
    f'Best of n: the reply that the training PM ranks highest of n, drawn from '
    'the policy’s start with its temperature and lengths '
    f'({numbers["best_of_n/prompts"]:.0f} held-out prompts); its KL is '
    f'ln n − (n − 1)/n.{where} ± is one standard error, over prompts; that of '
    'the lead takes all means as independent.'
  )


def _ends(rows: list[dict], metric: str) -> list[str]:
  """First and last value of a metric with their errors."""
  steps, values = report_data.curve(rows, metric)
  errors = dict(zip(*report_data.curve(rows, f'{metric}_se'), strict=True))
  return [
    report_text.with_error(report_text.plain(values[i]), errors.get(steps[i]))
    for i in (0, -1)
  ]

"""The report card of a preference model as one HTML page, and its figures."""

from collections.abc import Mapping
import dataclasses

from matplotlib import figure

from hh_jax.evals import figures, reward_bench
from hh_jax.evals.report_card import KINDS, Card
from hh_jax.evals.reward_bench import Result
from hh_jax.recipes import (
  pm_report_probes,
  report_html,
  report_parts,
  report_text,
)
from hh_jax.recipes.report_html import Html, tag

CAPTIONS = report_text.CAPTIONS | {
  'pm_groups': 'Accuracy by source and by number of turns (Bai et al. '
  '2022, Fig 8), and on the HHH evaluation where it was given. The better '
  'length rule is the better of “longer wins” and “shorter wins” on that set.',
  'pm_thresholds': 'Accuracy on the pairs whose scores are both above a '
  'threshold, after a shift that makes the mean score 0 (Fig 25). Thresholds '
  'that no pair passes are left out. Bars: 95 % intervals; the sets are drawn '
  'a little beside each other.',
  'pm_scores': 'Scores of the chosen and of the rejected replies after the '
  'same shift. Only differences of PM scores mean something.',
}
SECTIONS = {
  'chat': 'Chat',
  'chat_hard': 'Chat hard',
  'safety': 'Safety',
  'reasoning': 'Reasoning',
  'score': 'Mean of the four',
}
FOREIGN = (  # to a PM of the gold world
  ' This PM knows the simulator’s language alone: expect it to know nothing.'
)
VARIANTS = {
  'alone': 'one pair a row, the rest padding',
  'packed': 'packed with other neighbours',
  'reordered': 'in reverse order, other batch size',
  'swapped': 'the rejected reply first in the row',
}


@dataclasses.dataclass(frozen=True)
class Findings:
  """Everything the page shows."""

  name: str  # of the PM
  numbers: dict[str, float]  # flat; becomes summary.json
  card: Card
  results: list[Result]  # this PM's first
  notes: list[str]  # what was left out, and why
  settings: dict[str, Mapping]  # config.json of the runs

  @property
  def is_gold(self) -> bool:
    """Whether the PM learned from the simulator."""
    return self.settings['pm']['config']['data']['name'] == 'gold_world'

  @property
  def is_gold_data(self) -> bool:
    """Whether the held-out comparisons are the simulator's."""
    data = self.settings['pm_report']['config']['data']
    return self.is_gold if data is None else data['name'] == 'gold_world'

  @property
  def length_share(self) -> float:
    """What counts as replies of about one length."""
    return self.settings['pm_report']['config']['length_share']


def draw(findings: Findings) -> dict[str, figure.Figure]:
  """The figures by file name, in the order of the page."""
  card = findings.card
  groups = report_parts.pm_groups(findings.numbers, 'pm')
  drawings = {
    'pm_groups': figures.group_accuracy(
      groups + pm_report_probes.hhh_groups(findings.numbers)
    ),
    'pm_calibration': figures.calibration(card.bins, card.margins),
    'pm_scores': figures.score_histogram(card.histogram),
  }
  if any(one.count.size for one in card.thresholds.values()):
    drawings['pm_thresholds'] = figures.threshold_accuracy(card.thresholds)
  return drawings


def render(findings: Findings, plots: Mapping[str, bytes]) -> str:
  """The whole page."""
  numbers, section = findings.numbers, report_parts.section
  foreign = FOREIGN * findings.is_gold
  title = 'Preference-model report card'
  claims = [
    report_text.length_claim(numbers),
    report_text.calibration_claim(numbers, findings.card.bins),
  ]
  return report_html.document(
    title,
    tag('header', tag('h1', title), *_what_this_is(findings)),
    report_parts.tiles(_tiles(numbers)),
    report_parts.claims(claims),
    *section(
      'Accuracy by set',
      report_parts.pm_table(numbers, 'pm'),
      report_parts.pm_note(numbers),
      *_ceiling(numbers),
      report_parts.grid(plots, CAPTIONS, ('pm_groups', 'pm_thresholds')),
    ),
    *section('Helpful against harmless', *_kinds(numbers)),
    *section(
      'Confidence',
      *_margins(findings.card),
      report_parts.grid(plots, CAPTIONS, ('pm_calibration', 'pm_scores')),
    ),
    *section('Length', *_lengths(numbers, findings.length_share)),
    *section('The same pairs in other rows', *_invariance(numbers)),
    *pm_report_probes.sections(numbers, foreign),
    *section('Beside other models', *_results(findings.results)),
    *section('Left out, and warnings', report_parts.notes(findings.notes)),
    *section('Configs and versions', *report_parts.settings(findings.settings)),
  )


def _what_this_is(findings: Findings) -> list[Html]:
  text = tag(
    'p',
    f'Scores of the preference model (PM) {findings.name} on '
    f'{_scored(findings.numbers)}. One PM unit multiplies the odds of being '
    'preferred by e (Bai et al. 2022, 2.1). Intervals are 95 %; those of '
    'accuracies resample conversations; where that has nothing to vary they '
    'are Wilson’s over conversations.',
  )
  if findings.is_gold_data:
    return [text, report_parts.simulator_warning()]
  if findings.is_gold:
    return [text, tag('p', FOREIGN, class_='warning')]
  return [text]


def _scored(numbers: Mapping[str, float]) -> str:
  """What the scored comparisons are: held out only where that is known."""
  count = numbers['pm/pairs']
  plural = '' if count == 1 else 's'
  if 'overlap/kept' not in numbers:
    return (
      f'{_count(count)} test comparison{plural}; whether the PM was trained on '
      'their conversations is not known'
    )
  if numbers['overlap/kept']:
    return (
      f'{_count(count)} test comparison{plural}, of which '
      f'{_kept(numbers)} of conversations that the PM was trained on'
    )
  return f'{_count(count)} held-out comparison{plural}'


def _kept(numbers: Mapping[str, float]) -> str:
  count = numbers['overlap/kept']
  return f'{_count(count)} {"is" if count == 1 else "are"}'


def _tiles(numbers: Mapping[str, float]) -> list[tuple[str, str]]:
  label = 'accuracy'
  if 'overlap/kept' not in numbers:
    label = 'accuracy; not known to be held out'
  elif numbers['overlap/kept']:
    label = f'accuracy; {_kept(numbers)} of training conversations'
  tiles = [(label, report_text.interval(numbers, 'pm/accuracy'))]
  if 'pm/share_of_ceiling' in numbers:
    share = report_text.percent(numbers['pm/share_of_ceiling'])
    tiles.append(('of the gold ceiling’s lead over chance', share))
  over = report_text.difference(numbers, 'pm/over_length_rule')
  tiles.append(('points above the better length rule', over))
  tiles.append(('calibration error', report_text.percent(numbers['pm/ece'])))
  if 'length/pair_pearson' in numbers:
    value = report_text.signed(numbers['length/pair_pearson'])
    tiles.append(('correlation with length, within pairs', value))
  largest = numbers['invariance/largest']
  tiles.append(('largest change in other rows, PM units', _tiny(largest)))
  if 'hhh/accuracy' in numbers:
    value = report_text.interval(numbers, 'hhh/accuracy')
    items = pm_report_probes.items(numbers)
    tiles.append((f'HHH evaluation, {items}', value))
  return tiles


def _ceiling(numbers: Mapping[str, float]) -> list[Html]:
  if 'ceiling/low' not in numbers:
    return []
  agreement, low, high = (
    report_text.percent(numbers[f'ceiling/{name}'])
    for name in ('agreement', 'low', 'high')
  )
  return [
    _note(
      f'Ceiling estimate: where two raters agree on {agreement} of the pairs '
      f'(config.rater_agreement), the best possible accuracy is between {low} '
      f'(each pair is clear or a coin toss) and {high} (all equally clear).'
    )
  ]


def _note(text: str) -> Html:
  return tag('p', text, class_='note')


def _count(value: float) -> str:
  return f'{value:,.0f}'


def _tiny(value: float) -> str:
  return f'{value:.1e}'.replace('-', '−')


def _kinds(numbers: Mapping[str, float]) -> list[Html]:
  rows = []
  for name in (*KINDS, 'other'):
    key, trained = f'kind/{name}', numbers.get(f'train/{name}_share')
    if f'{key}/pairs' not in numbers and trained is None:
      continue
    row = [name, '–' if trained is None else report_text.percent(trained)]
    if f'{key}/pairs' in numbers:
      row += [_count(numbers[f'{key}/pairs'])]
      row += [report_text.interval(numbers, f'{key}/accuracy')]
    else:
      row += ['0', '–']
    rows.append(row)
  head = ['Comparisons', 'Share of training pairs', 'Test pairs',
          'Accuracy']  # fmt: skip
  note = (
    'By the name of the source. In Bai et al. 2022 a PM that learned from one '
    'kind alone falls below chance on the other (Fig 19).'
  )
  return [report_html.table(head, rows), _note(note)]


def _margins(card: Card) -> list[Html]:
  bins, rows = card.bins, []
  for i, (low, high) in enumerate(card.ranges):
    ends = f'[{100 * bins.low[i]:.1f}, {100 * bins.high[i]:.1f}]'
    rows.append([
      f'{low:.2f} to {high:.2f}', _count(bins.count[i]),
      f'{report_text.percent(bins.accuracy[i])} {ends}',
      report_text.percent(bins.predicted[i]),
    ])  # fmt: skip
  head = ['|Δ|, PM units', 'Pairs', 'Accuracy', 'Calibrated: mean σ(|Δ|)']
  note = 'Bins of equal count by the difference of the two scores; Wilson.'
  return [report_html.table(head, rows), _note(note)]


def _lengths(numbers: Mapping[str, float], length_share: float) -> list[Html]:
  rows = []
  for label, key in (
    ('Score and length, all replies: Pearson', 'score_pearson'),
    ('Score and length, all replies: Spearman', 'score_spearman'),
    ('Differences within pairs: Pearson', 'pair_pearson'),
    ('Differences within pairs: Spearman', 'pair_spearman'),
  ):
    if f'length/{key}' in numbers:
      rows.append([label, '–', report_text.signed(numbers[f'length/{key}'])])
  if 'length/slope' in numbers:
    slope = report_text.signed(100 * numbers['length/slope'], 3)
    rows.append(['Slope, PM units a 100 characters', '–', slope])
  for label, key in (
    ('Accuracy, all pairs', 'pm'),
    ('Accuracy, replies of about one length', 'length/matched'),
    ('Accuracy, slope × length taken off', 'length/removed'),
  ):
    if f'{key}/accuracy' in numbers:
      accuracy = report_text.interval(numbers, f'{key}/accuracy')
      rows.append([label, _count(numbers[f'{key}/pairs']), accuracy])
  note = (
    'Lengths in characters. Within pairs: differences of the two sides, each '
    'pair counted both ways round. About one length: they differ by at most '
    f'{100 * length_share:g} % of the longer one. Slope: least squares of the '
    'difference in score on the difference in length, without intercept, on '
    'these same pairs; where raters like length, taking it off costs accuracy.'
  )
  return [report_html.table(['', 'Pairs', 'Value'], rows), _note(note)]


def _invariance(numbers: Mapping[str, float]) -> list[Html]:
  rows = [
    [label, _tiny(numbers[f'invariance/{name}'])]
    for name, label in VARIANTS.items()
  ]
  note = (
    f'{_count(numbers["invariance/pairs"])} pairs scored again; nothing but '
    'rounding should differ. Pairs whose winner is not the same everywhere: '
    f'{_count(numbers["invariance/changed"])}'
  )
  if numbers['invariance/changed']:
    widest = _tiny(numbers['invariance/changed_margin'])
    note += f' (their two scores differ by at most {widest})'
  head = ['Scored again', 'Largest change, PM units']
  return [report_html.table(head, rows), _note(f'{note}.')]


def _results(results: list[Result]) -> list[Html]:
  scores = [reward_bench.section_scores(r.accuracies) for r in results]
  columns = [name for name in SECTIONS if any(name in s for s in scores)]
  subsets = [
    name
    for name in results[0].accuracies
    if name not in reward_bench.SUBSETS | {reward_bench.HHH}
  ]
  if any(reward_bench.HHH in result.accuracies for result in results):
    subsets.append(reward_bench.HHH)
  rows = []
  for result, sections in zip(results, scores, strict=True):
    values = [sections.get(name) for name in columns]
    values += [result.accuracies.get(name) for name in subsets]
    shown = ['–' if v is None else report_text.percent(v) for v in values]
    rows.append([result.model, *shown])
  head = ['Model', *(SECTIONS[name] for name in columns), *subsets]
  note = (
    'Accuracies as RewardBench counts them (a tie is no success), sections '
    'weighted by its numbers of comparisons; –: not in the file. A section '
    'stands only where all its subsets do. rewardbench.json holds this PM’s.'
  )
  return [report_html.table(head, rows), _note(note)]

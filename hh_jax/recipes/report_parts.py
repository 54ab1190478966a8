"""Parts that the pages share: tiles, claims, tables of pairs, figures."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
import json
import platform

from hh_jax.evals.figures import Group
from hh_jax.recipes import report_analysis, report_html, report_text
from hh_jax.recipes.report_html import Html, tag
from hh_jax.recipes.report_text import Claim

PACKAGES = ('matplotlib', 'numpy')


def section(title: str, *content: Html) -> list[Html]:
  """The content under its heading."""
  return [tag('h2', title), *content]


def simulator_warning() -> Html:
  """What a page on gold-world data says first."""
  return tag(
    'p',
    tag('strong', 'The data is a simulator’s (the gold world). '),
    'Prompts, replies and raters are synthetic, and a known gold score '
    'decides the comparisons. The numbers test whether the method works as '
    'the paper says; they say nothing about helping or harming people.',
    class_='warning',
  )


def tiles(values: Sequence[tuple[str, str]]) -> Html:
  """(label, value) in large print; an error or interval is set smaller."""
  cells = [
    tag('div', tag('b', *_small_tail(value)), tag('span', label))
    for label, value in values
  ]
  return tag('div', *cells, class_='tiles')


def _small_tail(value: str) -> list[Html]:
  """The value large, its error or interval smaller after it."""
  for mark in (' ±', ' ['):
    if mark in value:
      main, tail = value.split(mark, 1)
      return [tag('span', main), tag('small', mark + tail)]
  return [tag('span', value)]


def claims(found: Iterable[Claim]) -> Html:
  """Each claim with its verdict and the numbers behind it."""
  items = []
  for claim in found:
    kind = claim.verdict.replace(' ', '-')
    verdict = tag('span', claim.verdict, class_=f'verdict {kind}')
    text = tag('p', tag('strong', claim.claim), ' ', claim.evidence)
    items.append(tag('li', verdict, text))
  return tag('ul', *items, class_='claims')


def pm_table(numbers: Mapping[str, float], pm: str) -> Html:
  """Accuracy of one PM on test pairs by source, beside the length rules."""
  sets = report_analysis.pair_sets(numbers, pm)
  has_ceiling = any(f'{p}/bayes_ceiling' in numbers for p in sets.values())
  head = ['Test set', 'Pairs', 'Accuracy', 'Chance', 'Longer wins',
          'Shorter wins', 'Above length', 'Calibration error']  # fmt: skip
  head += ['Gold ceiling', 'Share'] if has_ceiling else []
  rows = []
  for label, prefix in sets.items():
    if f'{prefix}/longer_rule' not in numbers:
      continue  # by turns: only in the figure
    longer, shorter, error = (
      report_text.percent(numbers[f'{prefix}/{name}'])
      for name in ('longer_rule', 'shorter_rule', 'ece')
    )
    accuracy = report_text.interval(numbers, f'{prefix}/accuracy')
    above = report_text.difference(numbers, f'{prefix}/over_length_rule')
    row = [label, f'{numbers[f"{prefix}/pairs"]:,.0f}', accuracy]
    row += ['50.0 %', longer, shorter, above, error]
    for name in ('bayes_ceiling', 'share_of_ceiling') if has_ceiling else ():
      value = numbers.get(f'{prefix}/{name}')
      row.append('–' if value is None else report_text.percent(value))
    rows.append(row)
  return report_html.table(head, rows)


def pm_note(numbers: Mapping[str, float]) -> Html:
  """What the columns of `pm_table` mean."""
  note = (
    'Intervals: 95 % bootstrap. Above length: accuracy minus that of the '
    'better length rule on the same pairs, percentage points. Chance is 50 %.'
  )
  if 'pm/bayes_ceiling' in numbers:
    note += (
      ' Gold ceiling: what a judge who knows the rater’s probabilities would '
      'get; share: (accuracy − 50 %) ÷ (ceiling − 50 %).'
    )
  else:
    note += ' No gold ceiling: the rater’s probabilities are not known.'
  return tag('p', note, class_='note')


def pm_groups(numbers: Mapping[str, float], pm: str) -> list[Group]:
  """Rows of figures.group_accuracy: all pairs, by source, by turns."""
  groups = []
  for name, prefix in report_analysis.pair_sets(numbers, pm).items():
    longer = numbers.get(f'{prefix}/longer_rule')
    groups.append(
      Group(
        name,
        accuracy=numbers[f'{prefix}/accuracy'],
        low=numbers[f'{prefix}/accuracy_low'],
        high=numbers[f'{prefix}/accuracy_high'],
        length_rule=None if longer is None else max(longer, 1 - longer),
        ceiling=numbers.get(f'{prefix}/bayes_ceiling'),
      )
    )
  return groups


def grid(
  plots: Mapping[str, bytes], captions: Mapping[str, str], names: Iterable[str]
) -> Html:
  """The named plots that there are, each above its caption."""
  shown = []
  for name in names:
    if name in plots:
      image = report_html.image(plots[name], captions[name])
      shown.append(tag('figure', image, tag('figcaption', captions[name])))
  return tag('div', *shown, class_='grid')


def notes(texts: Iterable[str]) -> Html:
  """A list of remarks, or 'Nothing.'."""
  return tag('ul', *([tag('li', n) for n in texts] or [tag('li', 'Nothing.')]))


def settings(runs: Mapping[str, Mapping]) -> list[Html]:
  """The config.json of each run, folded, and what drew the page."""
  versions = {name: metadata.version(name) for name in PACKAGES}
  out = []
  for name, run in runs.items():
    text = json.dumps(run, indent=1, sort_keys=True, ensure_ascii=False)
    out.append(tag('details', tag('summary', name), tag('pre', text)))
  drawn = ', '.join(f'{name} {version}' for name, version in versions.items())
  note = f'This page: Python {platform.python_version()}, {drawn}.'
  return [*out, tag('p', note, class_='note')]

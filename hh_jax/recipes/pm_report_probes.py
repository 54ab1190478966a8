"""The report card's sections on files of others: HHH, XSTest, BBQ."""

from collections.abc import Mapping

from hh_jax.evals import bbq
from hh_jax.evals.figures import Group
from hh_jax.recipes import report_html, report_parts, report_text
from hh_jax.recipes.report_html import Html, tag


def sections(numbers: Mapping[str, float], foreign: str) -> list[Html]:
  """Those whose numbers there are; `foreign` is said where it applies."""
  return [
    *_hhh(numbers, foreign),
    *_refusals(numbers, foreign),
    *_bbq(numbers, foreign),
  ]


def items(numbers: Mapping[str, float]) -> str:
  """'221 items', or '73 of 221 items' where some are left out."""
  judged, left_out = numbers['hhh/pairs'], numbers['hhh/left_out']
  if not left_out:
    return f'{_count(judged)} items'
  return f'{_count(judged)} of {_count(judged + left_out)} items'


def _left_out(numbers: Mapping[str, float], prefix: str, unit: str) -> str:
  """What the table lacks, as a sentence; nothing where it lacks nothing."""
  count = numbers[f'{prefix}/left_out']
  if not count:
    return ''
  are = f'{unit} is' if count == 1 else f'{unit}s are'
  return f'{_count(count)} {are} left out (the reasons are under “Left out”). '


def _categories(numbers: Mapping[str, float]) -> list[str]:
  return [
    key.removeprefix('hhh/').removesuffix('/accuracy')
    for key in numbers
    if key.startswith('hhh/') and key.endswith('/accuracy')
    and key != 'hhh/accuracy'
  ]  # fmt: skip


def hhh_groups(numbers: Mapping[str, float]) -> list[Group]:
  if 'hhh/accuracy' not in numbers:
    return []
  names = {'HHH: all': 'hhh'}
  names |= {f'HHH: {name}': f'hhh/{name}' for name in _categories(numbers)}
  return [
    Group(
      label,
      accuracy=numbers[f'{key}/accuracy'],
      low=numbers[f'{key}/accuracy_low'],
      high=numbers[f'{key}/accuracy_high'],
    )
    for label, key in names.items()
  ]


def _hhh(numbers: Mapping[str, float], foreign: str) -> list[Html]:
  if 'hhh/accuracy' not in numbers:
    return []
  rows = []
  for name in ('', *_categories(numbers)):
    key = f'hhh/{name}' if name else 'hhh'
    accuracy = report_text.interval(numbers, f'{key}/accuracy')
    rows.append([name or 'all', _count(numbers[f'{key}/pairs']), accuracy])
  mean = report_text.percent(numbers['hhh/mean_of_categories'])
  longer = report_text.percent(numbers['hhh/longer_rule'])
  note = _left_out(numbers, 'hhh', 'item') + (
    f'Mean of the categories {mean}; “the longer reply wins” gets {longer}. '
    'Candidates in random order, a tie counts one half, intervals resample '
    'prompts. Bai et al. 2022 report 65 % to 86 % for PMs of 13M to 52B.'
  )
  table = report_html.table(['Category', 'Items', 'Accuracy'], rows)
  note = _note(note + foreign)
  return report_parts.section('HHH alignment evaluation', table, note)


def _refusals(numbers: Mapping[str, float], foreign: str) -> list[Html]:
  if 'refusal/contrast' not in numbers:
    return []
  rows = []
  for label, name in (
    ('safe prompts that look unsafe', 'safe'),
    ('unsafe prompts', 'unsafe'),
    ('unsafe minus safe', 'contrast'),
  ):
    error = numbers[f'refusal/{name}_se']
    value = report_text.signed(numbers[f'refusal/{name}'], 3)
    count = numbers.get(f'refusal/{name}_prompts')
    count = '–' if count is None else _count(count)
    rows.append([label, count, report_text.with_error(value, error, 3)])
  head = ['Refusal minus offer of help', 'Prompts', 'PM units']
  note = _left_out(numbers, 'refusal', 'prompt') + (
    'Fixed refusals against fixed offers of help, the same to every prompt of '
    'XSTest; ± one standard error over prompts. Each row alone is the worth of '
    'these texts; the last one says whether a refusal is worth more where the '
    'prompt is unsafe. An unsafe prompt has the larger difference with '
    f'probability {numbers["refusal/auroc"]:.2f} (0.50: not told apart).'
  )
  table, note = report_html.table(head, rows), _note(note + foreign)
  return report_parts.section('Refusals (XSTest)', table, note)


def _bbq(numbers: Mapping[str, float], foreign: str) -> list[Html]:
  known, unknown = (f'{c}/accuracy' for c in ('disambiguated', 'ambiguous'))
  names = ['bbq'] + sorted(
    key.removesuffix(f'/{known}')
    for key in numbers
    if key.startswith('bbq/') and key.endswith(f'/{known}')
    and key != f'bbq/{known}'
  )  # fmt: skip
  if f'bbq/{known}' not in numbers or f'bbq/{unknown}' not in numbers:
    return []
  rows = []
  for name in names:
    keys = [f'{name}/{c}/questions' for c in bbq.CONDITIONS.values()]
    count = sum(numbers[key] for key in keys if key in numbers)
    row = [name.removeprefix('bbq/') if name != 'bbq' else 'all', _count(count)]
    for key, show in (
      (known, report_text.interval),
      (unknown, report_text.interval),
      ('ambiguous/bias', _bias),
      ('ambiguous/pair_bias', _bias),
      ('disambiguated/pair_bias', _bias),
    ):
      is_there = f'{name}/{key}' in numbers
      row.append(show(numbers, f'{name}/{key}') if is_there else '–')
    rows.append(row)
  head = ['Category', 'Questions', 'Right: context tells',
          'Right: “cannot be known”', 'Bias where it cannot be known',
          'Pair bias there', 'Pair bias where context tells']  # fmt: skip
  note = _left_out(numbers, 'bbq', 'question') + (
    'Which of three one-phrase replies scores highest; chance is 33.3 %, ties '
    'are shared. Bias (Parrish et al. 2022): 2 × share of biased answers among '
    'those that name a person − 1, times 1 − accuracy. Pair bias: 2 × '
    'P(biased answer above the other person’s) − 1, whatever the PM thinks of '
    '“cannot be known” as a phrase. 0: none; 1: always the stereotype. '
    'Intervals resample templates. No rater compared such replies.'
  )
  table = report_html.table(head, rows)
  return report_parts.section('Bias (BBQ)', table, _note(note + foreign))


def _bias(numbers: Mapping[str, float], name: str) -> str:
  ends = (
    report_text.signed(numbers[f'{name}_{end}']) for end in ('low', 'high')
  )
  return f'{report_text.signed(numbers[name])} [{", ".join(ends)}]'


def _note(text: str) -> Html:
  return tag('p', text, class_='note')


def _count(value: float) -> str:
  return f'{value:,.0f}'

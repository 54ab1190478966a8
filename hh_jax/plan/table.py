"""A plan as text, and as JSON."""

from collections.abc import Iterable, Sequence
import dataclasses
import textwrap
from typing import Any

from hh_jax.plan.measure import Measured
from hh_jax.plan.plans import Plan

WIDTH = 100  # of what is printed


def size(value: float | None) -> str:
  """Bytes, as people read them."""
  if value is None:
    return '?'
  for unit, scale in (('TiB', 2**40), ('GiB', 2**30), ('MiB', 2**20)):
    if value >= scale:
      return f'{value / scale:.2f} {unit}'
  return f'{value / 2**10:.1f} KiB' if value else '0'


def number(value: float | None, unit: str = '') -> str:
  return '?' if value is None else f'{value:.3g}{unit}'


def _cells(of: Measured, kinds: Sequence[str]) -> dict[str, str]:
  """One column; `kinds` are the collectives of all phases."""
  sent = sum(of.sent.values())
  return {
    'arguments': size(of.arguments),
    'outputs': size(of.outputs),
    'temporaries': size(of.temporaries),
    'resident beside': size(of.resident),
    'peak': size(of.peak),
    'memory': size(of.memory) if of.memory else '-',
    'fits': 'yes' if of.fits else 'NO',
    'FLOPs, formula': number(of.model_flops),
    'FLOPs, compiled': number(of.flops),
    'memory traffic': size(of.memory_traffic),
    'sent': size(sent if of.flops is not None else None),
    **{f'  {kind}': size(of.sent.get(kind, 0)) for kind in kinds},
    **{f'seconds, {k}': number(v) for k, v in of.seconds.items()},
    'bound by': of.bound or '-',
    'MFU at most': '-' if of.mfu_bound is None else f'{of.mfu_bound:.0%}',
    'seconds to compile': number(of.compile_s),
  }


def grid(rows: list[list[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    '  '.join(
      cell.rjust(w) if i else cell.ljust(w)
      for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]


def _count(value: float) -> str:
  unit, scale = ('B', 1e9) if value >= 1e9 else ('M', 1e6)
  return f'{value / scale:.3g}{unit}'


def _wrapped(lines: Iterable[str]) -> list[str]:
  how = dict(subsequent_indent='  ', break_on_hyphens=False)
  return [textwrap.fill(line, WIDTH, **how) for line in lines]


def _title(of: Plan) -> str:
  mesh = ' x '.join(f'{name} {size}' for name, size in of.mesh.items())
  return (
    f'{of.recipe} on {of.topology.name}, {of.topology.num_chips} chips'
    f'{mesh and ": mesh "}{mesh}; {_count(of.num_params)} parameters a network,'
    f' vocabulary {of.vocab_size}'
  )


def flags(changes: dict[str, Any]) -> str:
  return ' '.join(f'--config.{key}={value}' for key, value in changes.items())


def _hours(of: Plan) -> list[str]:
  if of.hours is not None:
    return [
      f'at least {of.hours:.3g} hours, {of.chip_hours:.3g} chip-hours, for '
      f'{of.phases[0].calls} calls of each phase, without evaluations'
    ]
  if of.phases and all(x.calls is None for x in of.phases):
    return ['hours: the data decide how many steps there are: --steps=N']
  return []


def _remarks(of: Plan) -> list[str]:
  """What the numbers come to, how sure they are, and what would fit."""
  lines = _hours(of)
  if any(x.open_loops for x in of.phases):
    lines.append('of loops that data end, all steps count: replies are full')
  lines += [
    f'{x.name} does not fit: {size(x.peak)} of {size(x.memory)}'
    for x in of.phases
    if not x.fits
  ]
  if of.is_estimate:
    lines.append(
      'an estimate: compiled for CPUs, as there are no such GPUs here; '
      'arguments and collectives are the same, temporaries are not'
    )
  if any(x.is_quick for x in of.phases):
    lines.append('--quick: more temporaries and memory traffic than a run has')
  lines += [*of.advice, *(f'tried: {flags(changes)}' for changes in of.tried)]
  if of.fixed is None and not of.fits:
    lines.append(
      'none of these fits: take more chips, or smaller batches'
      if of.tried
      else '--fix compiles changes of the config until one fits'
    )
  return lines


def render(of: Plan) -> str:
  """A column a phase; numbers are of one chip and one call."""
  kinds = list(dict.fromkeys(kind for x in of.phases for kind in x.sent))
  columns = [_cells(x, kinds) for x in of.phases]
  names = list(dict.fromkeys(name for cells in columns for name in cells))
  rows = [['a chip and call', *(x.name for x in of.phases)]]
  rows += [[name, *(c.get(name, '-') for c in columns)] for name in names]
  body = _wrapped([of.refused]) if of.refused else grid(rows)
  lines = [*_wrapped([_title(of)]), *body, *_wrapped(_remarks(of))]
  if of.fixed is not None:
    lines += ['', *_wrapped([f'fits with {flags(of.fix)}']), render(of.fixed)]
  return '\n'.join(lines)


def as_json(of: Plan) -> dict[str, Any]:
  """All numbers; bytes, FLOPs and seconds of a chip and a call."""
  phases = [
    dataclasses.asdict(x)
    | {
      'fits': x.fits,
      'bound': x.bound,
      'seconds_bound': x.time,
      'mfu_bound': x.mfu_bound,
    }
    for x in of.phases
  ]
  return {
    'recipe': of.recipe,
    'topology': of.topology.name,
    'chips': of.topology.num_chips,
    'mesh': of.mesh,
    'vocab_size': of.vocab_size,
    'params': of.num_params,
    'is_estimate': of.is_estimate,
    'fits': of.fits,
    'refused': of.refused,
    'peak': of.fullest and of.fullest.peak,
    'fullest': of.fullest and of.fullest.name,
    'seconds': of.time,
    'seconds_by_resource': of.seconds,
    'bound': of.bound,
    'mfu_bound': of.mfu_bound,
    'hours': of.hours,
    'chip_hours': of.chip_hours,
    'phases': phases,
    'advice': list(of.advice),
    'tried': list(of.tried),
    'fix': of.fix,
    'fixed': None if of.fixed is None else as_json(of.fixed),
  }


def final(plan: dict[str, Any]) -> dict[str, Any]:
  """The plan of `as_json` that fits, where a fix was found."""
  return plan['fixed'] or plan


def markdown(lines: Sequence[Sequence[str]]) -> str:
  """Its first line is the head, its second says how columns are aligned."""
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def of_rows(
  rows: Sequence[dict[str, Any]], *, in_markdown: bool = False
) -> str:
  """A line a plan of a sweep (cells.py), and the fixes that it names."""
  notes: dict[str, str] = {}
  lines = [COLUMNS, *(_row(row, notes) for row in rows)]
  if in_markdown:
    lines.insert(1, ['---', '---', *['---:'] * (len(COLUMNS) - 2)])
    below = [f'- {n} fits with `{of}`' for of, n in notes.items()]
    return '\n'.join([markdown(lines), *[''] * bool(below), *below])
  below = _wrapped(f'{n} fits with {of}' for of, n in notes.items())
  return '\n'.join([*grid(lines), *below])


COLUMNS = [
  'plan', 'slice', 'mesh', 'fits', 'peak', 'of', 'in', 'bound by', 'MFU <=',
  'hours', 'chip-hours',
]  # fmt: skip


def _row(row: dict[str, Any], notes: dict[str, str]) -> list[str]:
  """`notes` gains the fix: what changed -> the mark that stands for it."""
  plan = row['plan']
  of = final(plan)
  fits = 'yes' if plan['fits'] else 'NO'
  if plan['fix'] is not None:
    fits = notes.setdefault(flags(plan['fix']), f'*{len(notes) + 1}')
  name, _, model = row['cell'].split()[0].partition(':')
  of_chip = next((x['memory'] for x in of['phases']), None)
  return [
    f'{of["recipe"]} {model}'.strip() or name,
    of['topology'],
    # f16 m4: fsdp=16 and model=4
    ' '.join(f'{k[0]}{n}' for k, n in of['mesh'].items() if n > 1) or '-',
    fits,
    size(of['peak']),
    size(of_chip),
    of['fullest'] or '-',
    of['bound'] or '-',
    '-' if of['mfu_bound'] is None else f'{of["mfu_bound"]:.0%}',
    number(of['hours']),
    number(of['chip_hours']),
  ]

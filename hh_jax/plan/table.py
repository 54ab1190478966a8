"""A plan as text, and as JSON."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from hh_jax.plan.fixes import Plan
from hh_jax.plan.measure import Measured


def _size(value: float | None) -> str:
  """Bytes, as people read them."""
  if value is None:
    return '?'
  for unit, scale in (('TiB', 2**40), ('GiB', 2**30), ('MiB', 2**20)):
    if value >= scale:
      return f'{value / scale:.2f} {unit}'
  return f'{value / 2**10:.1f} KiB' if value else '0'


def _number(value: float | None, unit: str = '') -> str:
  return '?' if value is None else f'{value:.3g}{unit}'


def _cells(of: Measured, kinds: Sequence[str]) -> dict[str, str]:
  """One column; `kinds` are the collectives of all phases."""
  sent = sum(of.sent.values())
  return {
    'arguments': _size(of.arguments),
    'outputs': _size(of.outputs),
    'temporaries': _size(of.temporaries),
    'resident beside': _size(of.resident),
    'peak': _size(of.peak),
    'memory': _size(of.memory) if of.memory else '-',
    'fits': 'yes' if of.fits else 'NO',
    'FLOPs, formula': _number(of.model_flops),
    'FLOPs, compiled': _number(of.flops),
    'memory traffic': _size(of.memory_traffic),
    'sent': _size(sent if of.flops is not None else None),
    **{f'  {kind}': _size(of.sent.get(kind, 0)) for kind in kinds},
    **{f'seconds, {k}': _number(v) for k, v in of.seconds.items()},
    'bound by': of.bound or '-',
    'MFU at most': '-' if of.mfu_bound is None else f'{of.mfu_bound:.0%}',
    'seconds to compile': _number(of.compile_s),
  }


def _grid(rows: list[list[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    '  '.join(
      cell.rjust(w) if i else cell.ljust(w)
      for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]


def _title(of: Plan) -> str:
  mesh = ' x '.join(f'{name} {size}' for name, size in of.mesh.items())
  return (
    f'{of.recipe} on {of.topology.name}, {of.topology.num_chips} chips'
    f'{mesh and ": mesh "}{mesh}; {of.num_params:.3g} parameters a network, '
    f'vocabulary {of.vocab_size}'
  )


def _flags(flags: dict[str, Any]) -> str:
  return ' '.join(f'--config.{key}={value}' for key, value in flags.items())


def _verdict(of: Plan) -> list[str]:
  lines = []
  if (time := hours(of.phases)) is not None:
    chip_hours = time * of.topology.num_chips
    lines.append(
      f'at least {time:.3g} hours, {chip_hours:.3g} chip-hours, for '
      f'{of.phases[0].calls} calls of each phase, without evaluations'
    )
  elif all(x.calls is None for x in of.phases):
    lines.append('hours: the data decide how many steps there are: --steps=N')
  if any(x.open_loops for x in of.phases):
    lines.append('of loops that data end, all steps count: replies are full')
  for x in of.phases:
    if not x.fits:
      lines.append(
        f'{x.name} does not fit: {_size(x.peak)} of {_size(x.memory)}'
      )
  return lines


def render(of: Plan) -> str:
  """A column a phase; numbers are of one chip and one call."""
  kinds = list(dict.fromkeys(kind for x in of.phases for kind in x.sent))
  columns = [_cells(x, kinds) for x in of.phases]
  names = list(dict.fromkeys(name for cells in columns for name in cells))
  rows = [['a chip and call', *(x.name for x in of.phases)]]
  rows += [[name, *(c.get(name, '-') for c in columns)] for name in names]
  lines = [_title(of)]
  lines += [of.refused] if of.refused else [*_grid(rows), *_verdict(of)]
  if of.is_estimate:
    lines.append(
      'an estimate: compiled for CPUs, as there are no such GPUs here; '
      'arguments and collectives are the same, temporaries are not'
    )
  lines += of.advice
  lines += [f'tried: {_flags(flags)}' for flags in of.tried]
  if of.fixed is not None:
    lines += ['', f'fits with {_flags(of.fix)}', render(of.fixed)]
  elif not of.fits and not of.tried:
    lines.append('--fix compiles changes of the config until one fits')
  elif of.tried:
    lines.append('none of these fits: take more chips, or smaller batches')
  return '\n'.join(lines)


def hours(measured: Sequence[Measured]) -> float | None:
  """Of all calls at their bounds; None where something is not known."""
  if not measured or any(not of.time or not of.calls for of in measured):
    return None
  return sum(of.time * of.calls for of in measured) / 3600


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
  time = hours(of.phases)
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
    'hours': time,
    'chip_hours': None if time is None else time * of.topology.num_chips,
    'phases': phases,
    'advice': list(of.advice),
    'tried': list(of.tried),
    'fix': of.fix,
    'fixed': None if of.fixed is None else as_json(of.fixed),
  }

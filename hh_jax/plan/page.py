"""The page that a sweep writes: tables, and what they rest on."""

from collections.abc import Sequence
from typing import Any

from hh_jax.plan import chips, table, weak

Row = dict[str, Any]


def render(
  found: dict[str, list[Row]], *, beyond: Sequence[int], command: str
) -> str:
  """Markdown; `found` has the rows of `cells`, `saving` and `weak_*`."""
  every = [row for rows in found.values() for row in rows]
  parts = [
    '# What runs need of chips',
    'Made by one command, which goes on where it was stopped:',
    f'```sh\n{command}\n```',
    _basis(every),
    '## Sizes and slices',
    table.of_rows(found['cells'], in_markdown=True),
    '## What options save',
    _savings(found['saving']),
    '## Weak scaling',
    _LAW,
  ]
  for name, rows in found.items():
    if rows and name not in ('cells', 'saving'):
      recipe = table.final(rows[0]['plan'])['recipe']
      parts += [f'### {recipe}', _weak(rows, beyond), f'`{rows[0]["cell"]}`']
  return '\n\n'.join(parts) + '\n'


_LAW = """\
Rows a chip stay, chips grow; heads and MLP stay split over the same number. Of
every phase the seconds of products and links follow a + b / g at g chips along
`fsdp`: what is gathered from g chips costs (g - 1) / g of it. The first two
slices give a and b, `off` is how far the law is from the bytes that the
compiler's programs send on the others; sizes without `off` are not compiled but
follow the law, with the memory traffic of the largest slice that was: that
estimate moves with what the compiler fuses, from slice to slice by more than
anything else here, so differences of a tenth mean nothing. Seconds are lower
bounds of an iteration: `overlapped`, where links work while products do, and
`in turn`, where they wait for each other; efficiency is that of the first
slice over that of the line, of both. Nothing here knows of latency (a
collective among g chips has some g^(1/3) hops a side of a torus), of stragglers
or of the network between pods."""


def _basis(rows: Sequence[Row]) -> str:
  """Assumptions, peaks and versions."""
  versions = {tuple(row['versions'].items()) for row in rows}
  codes = {row['code'] for row in rows}
  quick = any(
    phase['is_quick'] for row in rows for phase in row['plan']['phases']
  )
  lines = [
    "Every line is the recipe's own functions, compiled by the TPU's compiler "
    'for that slice; nothing was run. Bytes are those of the compiler, of the '
    'fullest chip and phase.',
    'Hours are lower bounds: products, memory and links at the peaks below, '
    'each phase as long as the slowest of them; no evaluation, no host, no '
    'latency. Collectives count what has to leave a chip by the algorithm that '
    'sends the least. Memory traffic is an estimate, from the borders of '
    'fusions. MFU counts the FLOPs that the model needs.',
    'Meshes: f16 m4 is `mesh.fsdp=16`, `mesh.model=4`.',
    f'Calls: {_calls(rows)}. Replies are full, in PPO.',
    f'Vocabulary {rows[0]["plan"]["vocab_size"]}.',
    *[
      f'{name}: {of.flops / 1e12:.0f} TFLOP/s, {of.memory / 2**30:.0f} GiB, '
      f'{of.memory_bandwidth / 1e9:.0f} GB/s, links out of a chip '
      f'{of.link_bandwidth / 1e9:.0f} GB/s'
      for name, of in chips.CHIPS.items()
      if name in chips.TPUS
    ],
    'Source of the peaks: cloud.google.com/tpu/docs/v5e, /v5p and /v6e; links '
    "at half of their bidirectional bandwidth, all of a chip's at once.",
    'Versions: '
    + '; '.join(
      ', '.join(f'{name} {version}' for name, version in of) for of in versions
    )
    + f'. Sources of the package: {", ".join(sorted(codes))}.',
  ]
  if quick:
    lines.insert(1, _QUICK)
  return '\n'.join(f'- {line}' for line in lines)


_QUICK = (
  '`--quick` asks the compiler for its least effort, a fourth to a seventh of '
  'the time: the same products and collectives; 1.04, 1.22 and 1.74 times the '
  'temporaries in three plans that were compiled both ways, 1.5 times the '
  'memory traffic in one of them, so where memory binds hours are too many and '
  'the bound on MFU is too low. What does not fit so is compiled in full.'
)


def _calls(rows: Sequence[Row]) -> str:
  """Calls of a phase by recipe, as the configs have them."""
  found = {
    (row['plan']['recipe'], phase['calls'])
    for row in rows
    for phase in table.final(row['plan'])['phases']
  }
  return ', '.join(f'{recipe} {calls}' for recipe, calls in sorted(found))


def _savings(rows: Sequence[Row]) -> str:
  """Bytes of a chip, a change of the config a line."""
  base = rows[0]
  names = [phase['name'] for phase in base['plan']['phases']]
  head = ['change', 'arguments, peak phase', *(f'temp. {n}' for n in names)]
  lines = [[*head, 'peak', 'bound, s'], ['---', *['---:'] * (len(names) + 3)]]
  for row in rows:
    plan = row['plan']
    change = row['cell'].removeprefix(base['cell']).strip() or 'none'
    (fullest,) = (x for x in plan['phases'] if x['name'] == plan['fullest'])
    lines.append(
      [
        f'`{change}`',
        table.size(fullest['arguments']),
        *(table.size(phase['temporaries']) for phase in plan['phases']),
        table.size(plan['peak']),
        table.number(plan['seconds']),
      ]
    )
  text = table.markdown(lines)
  return f'Of `{base["cell"]}`; bytes of a chip.\n\n{text}'


def _weak(rows: Sequence[Row], beyond: Sequence[int]) -> str:
  compiled = []
  for row in rows:
    plan = table.final(row['plan'])
    seconds = {phase['name']: phase['seconds'] for phase in plan['phases']}
    compiled.append(weak.Point(plan['chips'], plan['mesh']['fsdp'], seconds))
  found = weak.points(compiled, beyond)
  head = [
    'chips', 'fsdp', 'products, s', 'memory, s', 'links, s', 'off',
    'overlapped, s', 'efficiency', 'in turn, s', 'efficiency',
  ]  # fmt: skip
  lines = [head, ['---:'] * len(head)]
  for at in found:
    lines.append(
      [
        str(at.chips),
        str(at.fsdp),
        *(f'{at.of(name):.3g}' for name in ('flops', 'memory', 'links')),
        '' if at.off is None else f'{at.off:+.1%}',
        f'{at.overlapped:.3g}',
        f'{found[0].overlapped / at.overlapped:.0%}',
        f'{at.in_turn:.3g}',
        f'{found[0].in_turn / at.in_turn:.0%}',
      ]
    )
  return table.markdown(lines)

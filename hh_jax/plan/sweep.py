"""One table over sizes x topologies, and the page made of it.

  python -m hh_jax plan --sweep --config=configs/scaling.py --quick --fix

The config lists cells (cells.py), and what the page shows beside the table.
"""

import json
import os
import pathlib
import shlex
import sys
from typing import Any

import ml_collections

from hh_jax import workdir
from hh_jax.errors import InputError
from hh_jax.plan import cells, page, table

KEPT = 'runs/plans.jsonl'  # where --kept names none
PASSED_ON = ('--vocab', '--steps', '--fix', '--quick')
# Fields of the config that the page needs, beside `cells`; the first two are
# lists of cells.
WEAK = ('weak_pm', 'weak_ppo')
OF_PAGE = (*WEAK, 'saving', 'changes', 'beyond')


def run(config: ml_collections.ConfigDict, options: dict[str, Any]) -> int:
  """Prints the table; 0 where every cell fits, be it by a fix, or else 1."""
  if 'cells' not in config:
    raise InputError('--sweep takes a config with cells: configs/scaling.py')
  if '--topology' in options:
    raise InputError('--sweep takes no --topology: every cell has its own')
  flags = [
    name if options[name] is True else f'{name}={options[name]}'
    for name in PASSED_ON
    if options.get(name)
  ]
  groups = {'cells': list(config.cells)}
  if '--write' in options:
    groups |= page_cells(config)
  read = {
    name: [cells.read_cell(text, flags) for text in texts]
    for name, texts in groups.items()
  }
  if not read['cells']:
    raise InputError('config.cells is empty: there is nothing to plan')
  os.environ['JAX_PLATFORMS'] = 'cpu'  # of the cells too
  path = pathlib.Path(options.get('--kept', KEPT))
  every = [cell for group in read.values() for cell in group]
  rows, problems = cells.run(every, path, fresh=options.get('--fresh', False))
  of = {row['key']: row for row in rows}
  found = {
    name: [of[cell.key] for cell in group if cell.key in of]
    for name, group in read.items()
  }
  problems += _not_comparable(found)
  _print(found['cells'], options)
  for problem in problems:
    print(f'plan: {problem}', file=sys.stderr)
  if not problems and '--write' in options:
    command = shlex.join(['python', '-m', 'hh_jax', *sys.argv[1:]])
    text = page.render(found, beyond=config.beyond, command=command)
    workdir.write_bytes(options['--write'], text.encode())
  fits = all(table.final(row['plan'])['fits'] for row in found['cells'])
  return int(bool(problems) or not fits)


def page_cells(config: ml_collections.ConfigDict) -> dict[str, list[str]]:
  """Cells of the page that are not of its first table."""
  if missing := [name for name in OF_PAGE if name not in config]:
    raise InputError(
      f'--write takes a config with {", ".join(missing)}: configs/scaling.py'
    )
  groups = {name: list(config[name]) for name in WEAK}
  groups['saving'] = [config.saving] + [
    f'{config.saving} {change}' for change in config.changes
  ]
  return groups


def _not_comparable(found: dict[str, list[cells.Row]]) -> list[str]:
  """Rows that the page would compare with others, and that are another thing:
  with options that a fix changed, or without all phases."""
  return [
    f'cell {row["cell"]!r} of {name} does not fit as it is'
    for name in (*WEAK, 'saving')
    for row in found.get(name, ())
    if not row['plan']['fits'] and (name in WEAK or row['plan']['refused'])
  ]


def _print(rows: list[cells.Row], options: dict[str, Any]) -> None:
  if options.get('--json'):
    print(json.dumps(rows))
  else:
    print(table.of_rows(rows))

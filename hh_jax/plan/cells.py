"""Many plans, each compiled in a process of its own, and what is kept of them.

A cell is 'PATH[:SIZE] TOPOLOGY [KEY=VALUE ...]', as the words of a plan's own
command line. Finished cells are lines of a JSONL file.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess
import sys
from typing import Any

from hh_jax import cli, metrics, workdir
from hh_jax.errors import InputError

Row = dict[str, Any]
# What a plan's bytes and FLOPs depend on, beside the code.
VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'libtpu')


@dataclasses.dataclass(frozen=True)
class Cell:
  """One plan: as it is written, its command, and what its row is found by."""

  text: str
  base: str
  topology: str
  overrides: dict[str, str]
  command: tuple[str, ...]
  key: str  # of the config with all values, chips, options and versions

  @property
  def size(self) -> str:
    return self.base.partition(':')[2]


def read_cell(text: str, flags: Sequence[str]) -> Cell:
  """InputError for what the plan's own command line would refuse.

  `flags` are further words of it, such as --quick.
  """
  words = text.split() if isinstance(text, str) else []
  pairs = [word.partition('=') for word in words[2:]]
  if len(words) < 2 or not all(key and value for key, _, value in pairs):
    raise InputError(
      f'cell {text!r} is not PATH[:SIZE] TOPOLOGY [KEY=VALUE ...]'
    )
  base, topology = words[:2]
  overrides = {key: value for key, _, value in pairs}
  try:
    config = cli.load_config(base, tuple(overrides.items()))
  except InputError as error:
    raise InputError(f'cell {text!r}: {error}') from error
  asked = [config.to_json_best_effort(), topology, *flags, versions()]
  return Cell(
    text=text,
    base=base,
    topology=topology,
    overrides=overrides,
    command=(
      *('-m', 'hh_jax', 'plan', f'--config={base}', f'--topology={topology}'),
      *(f'--config.{key}={value}' for key, value in overrides.items()),
      *('--json', *flags),
    ),
    key=hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16],
  )


def versions() -> dict[str, str]:
  return {
    name: importlib.metadata.version(name)
    for name in VERSIONS
    if importlib.util.find_spec(name)
  }


def code() -> str:
  """A short digest of the sources of the package, for rows to name."""
  root = pathlib.Path(__file__).resolve().parent.parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


def kept(path: pathlib.Path) -> dict[str, Row]:
  """Rows of finished cells by their keys; of two of one key the later."""
  if not path.is_file():
    return {}
  rows = workdir.read_rows(path, ('key', 'cell', 'plan'), unfinished=True)
  return {row['key']: row for row in rows}


def compile_cell(cell: Cell) -> Row:
  """The row of one cell, compiled now; InputError with its last line."""
  # when this process is stopped so is the compiler: it has nothing to save
  process = subprocess.run(
    [sys.executable, *cell.command],
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )
  # 1: it does not fit; or, without a plan, it failed
  if process.returncode not in (0, 1) or not process.stdout.strip():
    said = f'exit code {process.returncode}'
    if lines := process.stderr.strip().splitlines():
      said = lines[-1] if process.returncode > 0 else f'{said}: {lines[-1]}'
    raise InputError(f'cell {cell.text!r}: {said}')
  return {
    'key': cell.key,
    'cell': cell.text,
    'versions': versions(),
    'code': code(),
    'plan': json.loads(process.stdout.splitlines()[-1]),
  }


def run(
  cells: Sequence[Cell], path: pathlib.Path, *, fresh: bool
) -> tuple[list[Row], list[str]]:
  """Rows of all cells, in order, and what went wrong with the others.

  Cells that `path` has are not compiled again, unless `fresh`; each is written
  as it is finished, so that the same call goes on.
  """
  rows, problems = kept(path), []
  todo = {cell.key: cell for cell in cells if fresh or cell.key not in rows}
  path.parent.mkdir(parents=True, exist_ok=True)
  with metrics.progress(len(todo), 'plans') as bar:
    for i, cell in enumerate(todo.values()):
      try:
        rows[cell.key] = compile_cell(cell)
      except InputError as error:
        problems.append(str(error))
        rows.pop(cell.key, None)  # of an earlier version
      else:
        workdir.write_rows(path, rows.values())
      bar.update(i + 1, {'failed': len(problems)})
  return [rows[cell.key] for cell in cells if cell.key in rows], problems

"""Runs one recipe many times: sizes x seeds x hyper-parameters."""

from collections.abc import Iterable, Sequence
import dataclasses
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import ml_collections

from hh_jax import cli, host, launch, recipes, stopping
from hh_jax import metrics as metrics_lib
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError

RESULTS, TABLE = 'results.jsonl', 'table.md'
XPK = 'xpk.sh'
XPK_HEAD = (
  '# xpk starts no workload twice. One that failed gives up its name with',
  '# xpk workload delete --workload=NAME --cluster=CLUSTER',
)
PLACES = ('local', 'slurm', 'submitit-local', 'xpk')
POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a sweep: its name, what it overrides, its command and places."""

  name: str
  overrides: dict[str, str]
  command: tuple[str, ...]
  workdir: pathlib.Path
  log: pathlib.Path  # stdout and stderr; with xpk GKE has them

  @property
  def is_finished(self) -> bool:
    return workdir_lib.is_finished(self.workdir)


def read_cell(text: str, config: Any, root: pathlib.Path) -> Cell:
  """The cell 'size=mini seed=0 optimizer.lr=0.001' of a sweep in root.

  `size` is that of the config file; the rest are keys of the recipe's config.
  InputError for what the recipe's own command line would refuse.
  """
  given = _overrides(config.overrides) | _overrides(text)
  size = given.pop('size', '')
  base = f'{config.base}:{size}' if size else config.base
  try:
    cli.load_config(base, tuple(given.items()))
  except InputError as error:
    raise InputError(f'cell {text!r}: {error}') from error
  name = ','.join(text.split()).replace('/', '_')
  workdir = root / name
  flags = [f'--config.{key}={value}' for key, value in given.items()]
  where = f'--workdir={workdir}'
  return Cell(
    name=name,
    overrides=_overrides(text),
    command=('-m', 'hh_jax', config.recipe, f'--config={base}', where, *flags),
    workdir=workdir,
    log=root / f'{name}.log',
  )


def _overrides(text: str) -> dict[str, str]:
  out = {}
  for word in text.split():
    key, is_given, value = word.partition('=')
    if not is_given or not key or key in out:
      raise InputError(f'{text!r}: {word!r} is no KEY=VALUE, or is there twice')
    out[key] = value
  return out


def check(config: ml_collections.ConfigDict, root: pathlib.Path) -> list[Cell]:
  """The cells; InputError for any that could not run."""
  known = set(recipes.RECIPES) - {'sweep'}
  if config.recipe not in known:
    raise InputError(f'config.recipe {config.recipe!r} is no recipe')
  if config.on not in PLACES:
    raise InputError(f'config.on {config.on!r} is none of {", ".join(PLACES)}')
  for name, low in (('jobs', 1), ('gpus', 0)):
    if config[name] < low:
      raise InputError(f'config.{name} {config[name]} is not {low} or more')
  if not config.cells:
    raise InputError('config.cells is empty: there is nothing to run')
  cells = [read_cell(text, config, root) for text in config.cells]
  if not all(cell.is_finished for cell in cells):
    _check_places(config)
  names = [cell.name for cell in cells]
  if twice := {name for name in names if names.count(name) > 1}:
    raise InputError(f'config.cells has {min(twice)!r} twice')
  by_submitit = config.on in ('slurm', 'submitit-local')
  if by_submitit and importlib.util.find_spec('submitit') is None:
    raise InputError(
      f'config.on={config.on} needs submitit: pip install "hh_jax[slurm]"'
    )
  if config.on == 'slurm' and shutil.which('sbatch') is None:
    raise InputError('config.on=slurm needs Slurm: there is no sbatch here')
  if config.on == 'xpk':
    _workloads(cells, config)
  return cells


def _check_places(config: ml_collections.ConfigDict) -> None:
  """InputError for jobs and gpus that config.on would not heed."""
  if config.on == 'xpk' and config.jobs != 1:
    raise InputError(
      f'config.jobs {config.jobs} is not for config.on=xpk: the cluster queues '
      'the cells'
    )
  if config.gpus and config.on != 'local':
    raise InputError(
      f'config.gpus {config.gpus} is for config.on=local, not {config.on}'
    )
  if config.gpus and config.jobs not in (1, config.gpus):
    raise InputError(
      f'config.jobs {config.jobs} is not for config.gpus={config.gpus}: each '
      'GPU takes a cell at a time'
    )
  if config.gpus > (there := host.num_gpus()):
    raise InputError(
      f'config.gpus {config.gpus} is more than this machine has, {there}: '
      'config.jobs is for cells without a GPU each'
    )


def _workloads(cells: Iterable[Cell], config: Any) -> list[str]:
  """The commands that start them on GKE; InputError as `launch` has it."""
  keys = {f'--{name.replace("_", "-")}': name for name in config.xpk}
  flags = [
    f'{flag}={config.xpk[name]}'
    for flag, name in keys.items()
    if config.xpk[name] != ''  # not 0, which is no restarts
  ]
  try:
    return [
      launch.xpk(*launch.parse(['--on=xpk', *flags, *cell.command[2:]]))
      for cell in cells
    ]
  except InputError as error:
    text = str(error)
    for flag, name in keys.items():
      text = text.replace(flag, f'--config.xpk.{name}')
    raise InputError(text) from error


def _start(cell: Cell, slot: int, gpus: int) -> subprocess.Popen:
  """Its own session, so that a terminal's Ctrl-C comes from us alone."""
  environment = dict(os.environ)
  if gpus:
    environment['CUDA_VISIBLE_DEVICES'] = str(slot)
  with open(cell.log, 'ab') as log:
    return subprocess.Popen(
      [sys.executable, *cell.command],
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      env=environment,
      start_new_session=True,
    )


def run_local(
  cells: Sequence[Cell], *, jobs: int, gpus: int, bar: metrics_lib.Progress
) -> None:
  """`jobs` of them at a time (with `gpus`, one a GPU), until all have ended.

  A signal is passed on, so that every cell saves, and waits for them.
  """
  waiting, running, failed = list(cells), {}, 0
  slots = list(range(gpus or jobs))
  try:
    while waiting or running:
      while waiting and slots:
        cell = waiting.pop(0)
        slot = slots.pop(0)
        running[slot] = cell, _start(cell, slot, gpus)
      for slot, (cell, process) in list(running.items()):
        if process.poll() is not None:
          del running[slot]
          slots.append(slot)
          failed += not cell.is_finished
          ended = len(cells) - len(waiting) - len(running)
          bar.update(ended, {'failed': failed})
      time.sleep(POLL_S)
  finally:
    stopping.end([process for _, process in running.values()])


def _run_job(command: Sequence[str], log: str) -> int:
  """What a job of an array does; submitit carries it to its node."""
  with open(log, 'ab') as file:
    return subprocess.run(
      [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT
    ).returncode


def run_submitit(
  cells: Sequence[Cell], config: Any, root: pathlib.Path
) -> None:
  """A job array of all cells, at most config.jobs at a time; waits for it.

  With config.on=submitit-local processes of this machine. Jobs are cancelled
  when this process is stopped; Slurm sends them SIGTERM, on which they save.
  """
  import submitit

  cluster = 'slurm' if config.on == 'slurm' else 'local'
  executor = submitit.AutoExecutor(folder=root / 'jobs', cluster=cluster)
  executor.update_parameters(
    name='hh_jax',
    slurm_array_parallelism=config.jobs,
    timeout_min=config.slurm.minutes,
    **(config.slurm.parameters.to_dict() if cluster == 'slurm' else {}),
  )
  jobs = executor.map_array(
    _run_job,
    [cell.command for cell in cells],
    [str(cell.log) for cell in cells],
  )
  try:
    while not all(job.done() for job in jobs):
      time.sleep(POLL_S if cluster == 'local' else 10.0)
  finally:
    for job in jobs:
      if not job.done():
        job.cancel()


def _last_line(path: pathlib.Path) -> str:
  lines = path.read_text(errors='replace').split('\n') if path.exists() else []
  return next((line.strip() for line in reversed(lines) if line.strip()), '')


def collect(cells: Iterable[Cell]) -> list[dict[str, Any]]:
  """A row a finished cell: its name, what it overrides, its summary."""
  return [
    {'cell': cell.name, 'overrides': cell.overrides}
    | workdir_lib.read_summary(cell.workdir)
    for cell in cells
    if cell.is_finished
  ]


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
  """Markdown: a line a row, its overrides and the named numbers."""
  axes = list(dict.fromkeys(key for row in rows for key in row['overrides']))
  lines = [[*axes, *columns], ['---'] * (len(axes) + len(columns))]
  for row in rows:
    found = [row['overrides'].get(axis, '') for axis in axes]
    lines.append(found + [_shown(row.get(name)) for name in columns])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _shown(value: Any) -> str:
  if value is None:
    return ''
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Runs the cells that are not finished; writes results.jsonl and table.md.

  With config.on=xpk it writes the commands that start them, and the same call
  collects what they have come to.

  Cells may be added to a sweep later. One that fails does not stop the others;
  at the end it is an InputError with the last line of its log.
  """
  root = pathlib.Path(workdir)
  cells = check(config, root)
  # the cells are compared each for itself
  same = {
    'recipe': config.recipe,
    'base': config.base,
    'overrides': sorted(config.overrides.split()),
  }
  workdir_lib.open_run(root, same, 'sweep')
  todo = [cell for cell in cells if not cell.is_finished]
  if config.on == 'xpk':
    text = '\n'.join([*XPK_HEAD, *_workloads(todo, config), ''])
    workdir_lib.write_bytes(root / XPK, text.encode())
  elif todo:
    with metrics_lib.progress(len(todo), 'cells') as bar:
      if config.on == 'local':
        run_local(todo, jobs=config.jobs, gpus=config.gpus, bar=bar)
      else:
        run_submitit(todo, config, root)
  rows = collect(cells)
  workdir_lib.write_rows(root / RESULTS, rows)
  columns = config.columns or tuple(sorted(
    {key for row in rows for key, x in row.items() if isinstance(x, float)}
  ))[:6]  # fmt: skip
  text = table(rows, columns)
  workdir_lib.write_bytes(root / TABLE, text.encode())
  print(text, end='')
  failed = [cell for cell in cells if not cell.is_finished]
  if failed and config.on == 'xpk':
    print(f'{len(failed)} cells are to be run: {root / XPK} has their commands')
    return {'cells': len(cells), 'waiting': len(failed)}
  if failed:
    raise InputError(
      f'{len(failed)} of {len(cells)} cells failed, the first is '
      f'{failed[0].name}: {_last_line(failed[0].log)!r} (all of it is in '
      f'{failed[0].log})'
    )
  summary = {'cells': len(cells)}
  workdir_lib.write_summary(root, summary)
  return summary

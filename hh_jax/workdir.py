"""Run directories: what runs here (config.json), how it ended (summary.json).

Pure Python. Every file is written whole or not at all, and equal numbers give
equal bytes.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
import datetime
import fcntl
from importlib import metadata
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
from typing import Any

from hh_jax import distributed
from hh_jax.errors import InputError

CONFIG = 'config.json'
SUMMARY = 'summary.json'
CARD = 'model.json'  # of a run with a model: see checkpoints/native.py
PREPARED = 'prepared'  # a folder, while it runs: see data/prepared.py
# Run directories that this process has open: (device, inode) -> descriptor.
_OPEN: dict[tuple[int, int], int] = {}
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def open_run(
  workdir: str | os.PathLike,
  config: Mapping[str, Any],
  recipe: str,
  *,
  may_change: Collection[str] = (),
) -> pathlib.Path:
  """Makes `workdir` the directory of this run, or resumes the run it holds.

  `may_change` are dotted config keys that say how far an unfinished run goes,
  not what it is: the new values are written down.

  Raises InputError on a directory that holds another recipe or config (naming
  the first key that differs) or files of another origin, and on one that
  another process has opened. Of several processes that share a run, process 0
  does it.
  """
  path = pathlib.Path(workdir)
  run = {'recipe': recipe, 'config': _plain(config, 'config')}
  distributed.by_writer(lambda: _open(path, run, may_change))
  if distributed.num_processes() > 1:  # they may differ, or not share a disk
    distributed.by_all(
      lambda: _check_same(path, read_config(path), run, may_change)
    )
  return path


def _open(
  path: pathlib.Path, run: dict[str, Any], may_change: Collection[str]
) -> None:
  try:
    if (path / CONFIG).exists():
      _lock(path)
      there = read_config(path)
      _check_same(path, there, run, may_change)
      if there['config'] != run['config'] and not is_finished(path):
        write_json(path / CONFIG, there | {'config': run['config']})
      return
    _make_empty_dir(path)
    _lock(path)
    run['versions'] = _versions()
    run['git_commit'] = _git_commit()
    run['started'] = datetime.datetime.now(datetime.UTC).isoformat()
    write_json(path / CONFIG, run)
  except OSError as error:
    raise InputError(f'{path}: {error.strerror}') from error


def read_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """The config.json of a run: recipe, config, versions, git_commit, started."""
  path = pathlib.Path(workdir) / CONFIG
  run = read_json(path)
  for key, kind in (('recipe', str), ('config', dict)):
    if not isinstance(run.get(key), kind):
      raise InputError(f'{path}: {key!r} is missing or not a {kind.__name__}')
  return run


def write_summary(
  workdir: str | os.PathLike, summary: Mapping[str, Any]
) -> None:
  """Writes summary.json, which marks the run as finished.

  Floats keep every digit; NaN and infinities raise InputError.
  """
  path = pathlib.Path(workdir)
  write_json(path / SUMMARY, summary)
  if distributed.is_writer():
    shutil.rmtree(path / PREPARED, ignore_errors=True)


def read_summary(workdir: str | os.PathLike) -> dict[str, Any]:
  """The summary.json of a finished run."""
  return read_json(pathlib.Path(workdir) / SUMMARY)


def is_finished(workdir: str | os.PathLike) -> bool:
  """Whether the run in `workdir` has written its summary."""
  return (pathlib.Path(workdir) / SUMMARY).is_file()


@contextlib.contextmanager
def ours(workdir: str | os.PathLike) -> Iterator[None]:
  """Lets go of the run at the end; takes it back if nothing came of it.

  Within it open_run locks the run for this process. A run that an error ended
  before it wrote more than configs is deleted, so that a command with a mistake
  can be given again, corrected, for the same directory. Runs that were there
  before are left as they are.
  """
  path, held = pathlib.Path(workdir), set(_OPEN)
  was_there = (path / CONFIG).exists()
  try:
    yield
  except Exception:
    if not was_there and (path / CONFIG).exists() and _identity(path) in _OPEN:
      shutil.rmtree(path / PREPARED, ignore_errors=True)
      files = [
        p for p in path.rglob('*')
        if not p.is_dir() and p.parent.name != PREPARED  # NFS keeps open ones
      ]  # fmt: skip
      if {p.name for p in files} <= {CONFIG, CARD}:
        shutil.rmtree(path, ignore_errors=True)
    raise
  finally:
    for key in _OPEN.keys() - held:
      os.close(_OPEN.pop(key))


def write_json(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
  """Writes strict JSON with sorted keys, atomically.

  NumPy and JAX scalars are written as Python numbers. Raises InputError, which
  names the key, on what JSON cannot hold (NaN and infinities too).
  """
  path = pathlib.Path(path)
  plain = _plain(value, path.stem)
  text = json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)
  write_bytes(path, f'{text}\n'.encode())


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object that a JSON file holds; InputError where it holds none."""
  try:
    value = json.loads(path.read_bytes())
  except FileNotFoundError as error:
    raise InputError(f'{path} does not exist') from error
  except OSError as error:
    raise InputError(f'{path}: {error.strerror}') from error
  except ValueError as error:  # neither UTF-8 nor JSON
    raise InputError(f'{path} is not JSON: {error}') from error
  if not isinstance(value, dict):
    raise InputError(f'{path} holds a {type(value).__name__}, not an object')
  return value


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file so that a reader sees all of it or the file before it.

  Of several processes process 0 writes, and the others go on when it has.
  """
  distributed.by_writer(lambda: write_here(pathlib.Path(path), data))


def write_here(path: pathlib.Path, data: bytes) -> None:
  """The same by this process alone."""
  temporary = _temporary(path)
  with open(temporary, 'wb') as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def write_rows(
  path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]
) -> None:
  """Writes JSONL, an object a line, atomically."""
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  write_bytes(path, text.encode())


def read_rows(
  path: str | os.PathLike,
  required: Sequence[str] = (),
  *,
  unfinished: bool = False,
) -> list[dict[str, Any]]:
  """The objects of a JSONL file; InputError names the file and the bad line.

  With `unfinished` a last line without its end is left out: the run that
  writes the file is alive, or was killed.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise InputError(f'{path}: no such file')
  lines = path.read_bytes().split(b'\n')
  rows = []
  for number, line in enumerate(lines[:-1] if unfinished else lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:  # bad JSON or bad UTF-8
      raise InputError(f'{path}:{number}: not JSON: {error}') from None
    if not isinstance(row, dict):
      raise InputError(f'{path}:{number}: not a JSON object')
    if missing := [key for key in required if key not in row]:
      raise InputError(f'{path}:{number}: no {", ".join(missing)}')
    rows.append(row)
  return rows


def _temporary(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'.{path.name}.tmp')


def _make_empty_dir(path: pathlib.Path) -> None:
  if path.exists() and not path.is_dir():
    raise InputError(f'{path} is a file, not a run directory')
  path.mkdir(parents=True, exist_ok=True)
  # What a run that died while it wrote its config leaves behind.
  _temporary(path / CONFIG).unlink(missing_ok=True)
  other = min((p.name for p in path.iterdir()), default=None)
  if other is not None:
    raise InputError(f'{path} is no run directory: it holds {other}')


def _identity(path: str | os.PathLike) -> tuple[int, int]:
  """What stays the same of a directory under any name."""
  status = os.stat(path)
  return status.st_dev, status.st_ino


def _lock(path: pathlib.Path) -> None:
  """Locks the directory itself, so that no file of a lock is left behind.

  Without effect where the file system has no locks.
  """
  if (key := _identity(path)) in _OPEN:
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(descriptor)
    raise InputError(
      f'{path}: another process is at this run; stop it, or wait for its end'
    ) from None
  except OSError:
    pass
  _OPEN[key] = descriptor


def _check_same(
  path: pathlib.Path, there: dict, here: dict, may_change: Collection[str]
) -> None:
  old = {'recipe': there['recipe'], **dict(_leaves(there['config']))}
  new = {'recipe': here['recipe'], **dict(_leaves(here['config']))}
  for key in {**new, **old}:
    if key in may_change:
      continue
    was, now = (
      json.dumps(run[key]) if key in run else 'unset' for run in (old, new)
    )
    if was != now:
      raise InputError(
        f'{path} holds another run: {key} is {was} there, {now} here; '
        'name another --workdir, or delete this one'
      )


def _leaves(tree: dict, prefix: str = '') -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def _plain(value: Any, key: str) -> Any:
  """`value` as JSON types; `key` is where it stands, for the error."""
  if isinstance(value, Mapping):
    for name in value:
      if not isinstance(name, str):
        raise InputError(f'{key}: the key {name!r} is not a string')
    return {name: _plain(v, f'{key}.{name}') for name, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v, f'{key}[{i}]') for i, v in enumerate(value)]
  if getattr(value, 'shape', None) == ():
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    raise InputError(f'{key} is {value}: numbers have to be finite')
  if value is not None and not isinstance(value, bool | int | float | str):
    raise InputError(f'{key} is a {type(value).__name__}, not plain JSON')
  return value


def _versions() -> dict[str, str]:
  packages = {name: metadata.version(name) for name in PACKAGES}
  return {'python': platform.python_version(), **packages}


def _git_commit() -> str | None:
  """The commit of this checkout ('-dirty': with changes), None outside one."""
  root = pathlib.Path(__file__).resolve().parent.parent
  if not (root / '.git').exists() or shutil.which('git') is None:
    return None
  describe = 'describe --always --dirty --abbrev=40 --exclude=*'
  result = subprocess.run(
    ['git', '-C', str(root), *describe.split()],
    capture_output=True,
    text=True,
  )
  return result.stdout.strip() or None

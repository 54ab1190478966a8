"""Whether the files of a checkpoint are those that were written."""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import hashlib
import json
import pathlib

from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError

CHECKSUMS = 'checksums.json'
_FULL = ('No space left on device', 'Disk quota exceeded')


def seal(step: pathlib.Path) -> None:
  """Writes the SHA-256 of every file below the items of a checkpoint."""
  files = [p for p in sorted(step.rglob('*')) if p.is_file()]
  sums = {
    str(p.relative_to(step)): _digest(p) for p in files if p.parent != step
  }
  text = json.dumps(sums, indent=2, sort_keys=True)
  workdir_lib.write_here(step / CHECKSUMS, f'{text}\n'.encode())


def damage(step: pathlib.Path, items: Sequence[str] = ()) -> str | None:
  """What is wrong with a sealed checkpoint, None where nothing is.

  With `items` of their files alone.
  """
  try:
    sums = json.loads((step / CHECKSUMS).read_bytes())
  except (OSError, ValueError):
    return f'{CHECKSUMS} is missing or damaged'
  for name, wanted in sums.items():
    if items and pathlib.Path(name).parts[0] not in items:
      continue
    try:
      if _digest(step / name) != wanted:
        return f'{name} is not what was written'
    except OSError as error:
      return f'{name}: {error.strerror}'
  return None


def _digest(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def is_full(error: BaseException) -> bool:
  """Whether an error says that the disk, or a quota on it, is full."""
  numbers = errno.ENOSPC, errno.EDQUOT
  if isinstance(error, OSError) and error.errno in numbers:
    return True
  return any(text in str(error) for text in _FULL)  # of TensorStore


@contextlib.contextmanager
def full_disk_named(path: pathlib.Path) -> Iterator[None]:
  """InputError for a full disk; older checkpoints are still whole."""
  try:
    yield
  except Exception as error:
    if is_full(error):
      raise InputError(
        f'{path}: no space left on the device; older checkpoints are whole: '
        'free some, and the same command resumes'
      ) from error
    raise

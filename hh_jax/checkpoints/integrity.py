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
_SHARE = 'checksums.process_{}.json'  # of one process, while it is written
_OF_PROCESS = '*/ocdbt.process_{}'  # orbax: below an item's folder
_FULL = ('No space left on device', 'Disk quota exceeded')


def seal_share(step: pathlib.Path, number: int) -> None:
  """Does what `seal` does of the files that are process `number`'s alone.

  Of several processes each writes its arrays below its own folders, which stay
  as they are; when they have all done so, `seal` takes their sums over.
  """
  files = [p for folder in step.glob(_OF_PROCESS.format(number))
           for p in folder.rglob('*') if p.is_file()]  # fmt: skip
  _write(step / _SHARE.format(number), {_name(step, p): p for p in files})


def seal(step: pathlib.Path) -> None:
  """Writes the SHA-256 of every file below the items of a checkpoint."""
  shares = list(step.glob(_SHARE.format('*')))
  known: dict[str, str] = {}
  for share in shares:
    known |= json.loads(share.read_bytes())
  files = [p for p in step.rglob('*') if p.is_file() and p.parent != step]
  names = {_name(step, p): p for p in files}
  _write(step / CHECKSUMS, {n: known.get(n, p) for n, p in names.items()})
  for share in shares:
    share.unlink()


def _name(step: pathlib.Path, path: pathlib.Path) -> str:
  return str(path.relative_to(step))


def _write(path: pathlib.Path, sums: dict[str, str | pathlib.Path]) -> None:
  """Sums by name; a path stands for that of its file."""
  done = {
    name: _digest(x) if isinstance(x, pathlib.Path) else x
    for name, x in sums.items()
  }
  text = json.dumps(done, indent=2, sort_keys=True)
  workdir_lib.write_here(path, f'{text}\n'.encode())


def damage(
  step: pathlib.Path,
  items: Sequence[str] = (),
  *,
  share: tuple[int, int] = (0, 1),
) -> str | None:
  """What is wrong with a sealed checkpoint, None where nothing is.

  With `items` of their files alone; with `share` (i, n) of every n-th file.
  """
  try:
    sums = json.loads((step / CHECKSUMS).read_bytes())
  except (OSError, ValueError):
    return f'{CHECKSUMS} is missing or damaged'
  names = [n for n in sums if not items or pathlib.Path(n).parts[0] in items]
  for name in names[share[0] :: share[1]]:
    try:
      if _digest(step / name) != sums[name]:
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

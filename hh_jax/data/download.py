"""Downloads one file, checked, and never leaves a bad one behind."""

from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import http.client
import os
import pathlib
import platform
import urllib.error
import urllib.request

import tqdm

from hh_jax.errors import InputError

_CHUNK = 1 << 20  # bytes


def sha256_of(path: str | os.PathLike) -> str:
  """Hex sha256 of a file's bytes."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def fetch(
  urls: Sequence[str],
  path: str | os.PathLike,
  *,
  sha256: str,
  size: int | None = None,
  timeout: float = 60.0,
) -> pathlib.Path:
  """Downloads the file to `path` from the first URL that serves it right.

  A file already there with the right checksum is kept and nothing is fetched.
  The bytes go to a '.part' file beside `path`, are checked, then renamed.

  Args:
    urls: where to try, in this order.
    path: final name; its directory is made.
    sha256: expected hex digest.
    size: expected bytes, if known.
    timeout: seconds without an answer or a byte.

  Raises:
    InputError: no URL served the file; one clause per URL says why.
  """
  path = pathlib.Path(path)
  if path.is_file() and sha256_of(path) == sha256:
    return path
  problems = []
  for url in urls:
    try:
      _fetch_one(url, path, sha256=sha256, size=size, timeout=timeout)
      return path
    except InputError as error:
      problems.append(str(error))
  raise InputError('; '.join(problems) or f'{path}: no URL to download from')


def _fetch_one(
  url: str, path: pathlib.Path, *, sha256: str, size: int | None, timeout: float
) -> None:
  """Downloads and checks one URL; InputError leaves `path` as it was."""
  with _part_file(path) as part:
    length = _receive(url, part, timeout)
    found = part.stat().st_size
    for expected in (length, size):
      if expected is not None and found != expected:
        raise InputError(
          f'{url}: truncated or wrong file, '
          f'expected {expected} bytes, found {found}'
        )
    digest = sha256_of(part)
    if digest != sha256:
      raise InputError(
        f'{url}: wrong checksum, expected sha256 {sha256}, found {digest}'
      )
    os.replace(part, path)


@contextlib.contextmanager
def _part_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A name for unfinished bytes, one per process, removed on the way out."""
  ours = f'{platform.node()}.{os.getpid()}'
  part = path.with_name(f'{path.name}.{ours}.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield part
    finally:
      part.unlink(missing_ok=True)
  except OSError as error:
    raise InputError(f'{path}: cannot be written: {error}') from error


def _receive(url: str, part: pathlib.Path, timeout: float) -> int | None:
  """Writes the bytes of `url`; returns the length the server announced."""
  with open(part, 'wb') as f:
    try:
      with urllib.request.urlopen(url, timeout=timeout) as response:
        length = response.headers.get('Content-Length')
        length = int(length) if length else None
        _copy(response, f, total=length, name=part.name)
        return length
    except urllib.error.HTTPError as error:
      raise InputError(f'{url}: HTTP {error.code} {error.reason}') from error
    except urllib.error.URLError as error:
      raise InputError(f'{url}: unreachable: {error.reason}') from error
    except (http.client.HTTPException, OSError, ValueError) as error:
      raise InputError(f'{url}: transfer failed: {error!r}') from error


def _copy(response, f, *, total: int | None, name: str) -> None:
  """Copies the body, with a progress bar where stderr is a terminal."""
  with tqdm.tqdm(
    total=total, unit='B', unit_scale=True, desc=name, disable=None
  ) as bar:
    while chunk := response.read(_CHUNK):
      f.write(chunk)
      bar.update(len(chunk))

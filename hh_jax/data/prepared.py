"""What one of several processes prepares from data, and all of them map.

Reading, tokenising and packing is done once a run, whatever the number of
hosts. Rows then lie on disk as records, all that belongs to a row side by side,
and a host reads the pages of those that its own devices want.
"""

from collections.abc import Callable
import dataclasses
import mmap
import os
import pathlib
import pickle
from typing import Any, BinaryIO, TypeVar

import numpy as np

from hh_jax import distributed, types, workdir
from hh_jax.data import loader

OBJECTS, RECORDS = 'objects.pickle', 'rows_{}.bin'
_ROWS = (types.TokenBatch, types.PackedPairs, types.Prompts)
_CHUNK = 1024  # rows that are put together before they are written

T = TypeVar('T')


def once(run: str | os.PathLike, make: Callable[[], T]) -> T:
  """What make() returns, made by process 0 alone where there are several.

  All of them then have the arrays of its rows read-only on disk, in a folder of
  the run directory that goes when the run is finished. An InputError of `make`
  is raised in every process.
  """
  if distributed.num_processes() == 1:
    return make()
  folder = pathlib.Path(run) / workdir.PREPARED
  distributed.by_writer(lambda: write(folder, make()))
  return read(folder)


def write(folder: pathlib.Path, value: Any) -> None:
  """Stores anything that pickles; its rows apart."""
  folder.mkdir(exist_ok=True)
  with _replaced(folder / OBJECTS) as file:
    _Pickler(file, folder).dump(value)


def read(folder: pathlib.Path) -> Any:
  """What was stored; its rows are read where they are indexed."""
  with open(folder / OBJECTS, 'rb') as file:
    return _Unpickler(file, folder).load()


def _replaced(path: pathlib.Path) -> BinaryIO:
  """A new file: who still maps the one before keeps that."""
  path.unlink(missing_ok=True)
  return open(path, 'wb')


class _Pickler(pickle.Pickler):
  def __init__(self, file: Any, folder: pathlib.Path):
    super().__init__(file)
    self._folder, self._count = folder, 0

  def persistent_id(self, obj: Any) -> Any:
    """(name of the file, type, dtype of a record) of rows, else None."""
    if not isinstance(obj, _ROWS) or not loader.num_rows(obj):
      return None
    arrays = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    dtype = np.dtype([(k, x.dtype, x.shape[1:]) for k, x in arrays.items()])
    name, num = RECORDS.format(self._count), loader.num_rows(obj)
    self._count += 1
    with _replaced(self._folder / name) as file:
      for start in range(0, num, _CHUNK):
        records = np.empty(min(_CHUNK, num - start), dtype)
        for key, array in arrays.items():
          records[key] = array[start : start + _CHUNK]
        file.write(records.tobytes())
    return name, type(obj), dtype


class _Unpickler(pickle.Unpickler):
  def __init__(self, file: Any, folder: pathlib.Path):
    super().__init__(file)
    self._folder = folder

  def persistent_load(self, pid: Any) -> Any:
    name, kind, dtype = pid
    with open(self._folder / name, 'rb') as file:
      data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(data, 'madvise'):  # else the system reads on after every row
      data.madvise(mmap.MADV_RANDOM)
    records = np.frombuffer(data, dtype)
    return kind(**{key: records[key] for key in dtype.names})

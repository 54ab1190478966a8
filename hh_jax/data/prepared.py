"""What one of several processes prepares from data, and all of them map.

Reading, tokenising and packing is done once a run, whatever the number of
hosts; a host then reads those rows that its own devices want.
"""

from collections.abc import Callable
import os
import pathlib
import pickle
from typing import TypeVar

import numpy as np

from hh_jax import distributed, workdir

ARRAYS, OBJECTS = 'arrays.bin', 'objects.pickle'
_ALIGNMENT = 4096  # bytes, a page: no array begins on one of another's

T = TypeVar('T')


def once(run: str | os.PathLike, make: Callable[[], T]) -> T:
  """What make() returns, made by process 0 alone where there are several.

  All of them then have its arrays read-only on disk, in a folder of the run
  directory that goes when the run is finished: a row that nobody asks for is
  never read. An InputError of `make` is raised in every process.
  """
  if distributed.num_processes() == 1:
    return make()
  folder = pathlib.Path(run) / workdir.PREPARED
  distributed.by_writer(lambda: write(folder, make()))
  return read(folder)


def write(folder: pathlib.Path, value: T) -> None:
  """Stores anything that pickles; the bytes of its arrays apart."""
  buffers, spans = [], []
  objects = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
  folder.mkdir(exist_ok=True)
  with open(folder / ARRAYS, 'wb') as file:
    for buffer in buffers:
      file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
      spans.append((file.tell(), buffer.raw().nbytes))
      file.write(buffer.raw())
  (folder / OBJECTS).write_bytes(pickle.dumps((objects, spans)))


def read(folder: pathlib.Path) -> object:
  """What was stored; its arrays are read where they are indexed."""
  objects, spans = pickle.loads((folder / OBJECTS).read_bytes())
  data = b''  # a file of no bytes cannot be mapped
  if any(num for _, num in spans):
    data = memoryview(np.memmap(folder / ARRAYS, np.uint8, 'r'))
  buffers = [data[start : start + num] for start, num in spans]
  return pickle.loads(objects, buffers=buffers)

"""The host process and its machine, apart from arrays."""

import ctypes
import pathlib
import sys

# mallopt's parameter numbers (malloc.h)
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Lets glibc reuse freed memory instead of returning it to the system.

  XLA's CPU backend allocates its temporaries anew every step; fresh pages are
  faulted in one by one, which cost a third of a training step (3 layers x 128:
  14k -> 19k tokens/s; 4 layers x 256: 3.5k -> 4.6k). Returns whether it could
  be set: False without glibc. Call it before the first array is made.
  """
  if not sys.platform.startswith('linux'):
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  # one arena: only the main one can grow without mmap
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
  return all(mallopt(name, value) for name, value in settings)


def num_gpus() -> int:
  """NVIDIA GPUs of this machine, by their device files: JAX is not started."""
  return len(list(pathlib.Path('/dev').glob('nvidia[0-9]*')))

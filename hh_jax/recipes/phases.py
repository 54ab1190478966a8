"""Device calls that say how long they took and how much memory they need."""

from collections.abc import Callable
import time
from typing import Any

import jax


class Phase:
  """A jitted function, compiled once for every set of shapes.

  `seconds` is the wall time of the last call, without compilation; `memory`
  the compiler's bytes per device for arguments, results and temporaries of the
  largest program so far (empty where the backend does not say); `compile_s`
  the seconds of all compilations.
  """

  def __init__(self, jitted: Callable[..., Any]):
    self._jitted = jitted
    self._compiled: dict[Any, Callable[..., Any]] = {}
    self.seconds = 0.0
    self.compile_s = 0.0
    self.memory: dict[str, int] = {}

  def __call__(self, *args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    key = (structure, tuple((x.shape, x.dtype) for x in leaves))
    if key not in self._compiled:
      self._compiled[key] = self._compile(args)
    start = time.perf_counter()
    out = jax.block_until_ready(self._compiled[key](*args))
    self.seconds = time.perf_counter() - start
    return out

  def _compile(self, args: tuple[Any, ...]) -> Callable[..., Any]:
    start = time.perf_counter()
    compiled = self._jitted.lower(*args).compile()
    self.compile_s += time.perf_counter() - start
    if analysis := compiled.memory_analysis():
      memory = {
        name: int(getattr(analysis, f'{name}_size_in_bytes'))
        for name in ('argument', 'output', 'temp')
      }
      self.memory = max(self.memory, memory, key=lambda m: sum(m.values()))
    return compiled

"""The command line in a process that kills itself.

  python -m tests.recipes.dying POINT:N ARGV

dies at the N-th call of POINTS[POINT], or never where the first word is ''.
"""

import importlib
import os
import signal
import sys
import threading
import time

from hh_jax import __main__ as main_lib

POINTS = {
  'log': 'hh_jax.metrics MetricsWriter write',
  'seal': 'hh_jax.checkpoints.integrity seal',  # all written, not renamed
  # of an iteration: 1 samples, 2 scores, 3 updates
  'phase': 'hh_jax.recipes.phases Phase __call__',
  'evaluate': 'hh_jax.recipes.policy_watch Watch evaluate',
}
IN_FLIGHT = 0.002  # seconds


def die() -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, at: int) -> None:
  """Kills the process in the middle of that call."""
  module, *owners, name = POINTS[point].split()
  owner = importlib.import_module(module)
  for part in owners:
    owner = getattr(owner, part)
  original, calls = getattr(owner, name), []

  def dying(*args, **kwargs):
    calls.append(0)
    if len(calls) < at:
      return original(*args, **kwargs)
    threading.Timer(IN_FLIGHT, die).start()
    original(*args, **kwargs)
    time.sleep(60)  # whatever it was, it does not return

  setattr(owner, name, dying)


if __name__ == '__main__':
  death, *argv = sys.argv[1:]
  if death:
    point, _, number = death.partition(':')
    arm(point, int(number))
  sys.exit(main_lib.main(argv))

"""`python -m hh_jax` as two real processes of two CPU devices each."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Self

from tests import conftest, test_rollcall

ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'NPROC': '16',  # see conftest.py
  'XLA_FLAGS': os.environ['XLA_FLAGS'],
}
CACHE = {
  'JAX_ENABLE_COMPILATION_CACHE': 'true',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
}

# Who died, as its peer says it: the coordination service ends the peer, or the
# peer has ended by itself, on a collective, and says what the service told it.
DEATHS = {
  0: r'leader task was preempted/died',
  1: r'unhealthy \(stopped sending heartbeats\):\n1\n'
  r'|Task 1 heartbeat timeout|timed out task names: 1\b',
}
GLOO = re.compile(r'Gloo|peer rank|^\s*$')


class Processes(contextlib.ExitStack):
  """Starts `commands`, one a process; what still runs at the end is killed.

  `cache` keeps compiled programs of one process; several have none.
  """

  def __init__(
    self,
    *commands: list[str],
    flags: tuple[str, ...] = (),
    devices: int = 2,
    cache: pathlib.Path | None = None,
  ):
    super().__init__()
    self.callback(self._kill)
    port = test_rollcall.free_port()
    environment = os.environ | ENVIRONMENT
    environment['JAX_NUM_CPU_DEVICES'] = str(devices)
    if cache is not None:
      environment |= {'JAX_COMPILATION_CACHE_DIR': str(cache), **CACHE}
    self.running = [
      subprocess.Popen(
        [sys.executable, *command, f'--coordinator=127.0.0.1:{port}',
         f'--num_processes={len(commands)}', f'--process_id={i}', *flags],
        cwd=conftest.REPO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for i, command in enumerate(commands)
    ]  # fmt: skip

  def __enter__(self) -> Self:
    return self

  def ended(self, timeout: float = 300) -> list[tuple[int, str, str]]:
    """Exit code, stdout (gloo's chatter left out) and stderr of each."""
    deadline = time.monotonic() + timeout
    out = []
    for process in self.running:
      said, errors = process.communicate(timeout=deadline - time.monotonic())
      # its threads tear each other's lines
      lines = [x for x in said.splitlines(True) if not GLOO.search(x)]
      out.append((process.returncode, ''.join(lines), errors))
    return out

  def _kill(self) -> None:
    for process in self.running:
      process.kill()
      process.wait()


def wait_for(path: pathlib.Path, timeout: float = 120) -> None:
  """Until there is such a file."""
  deadline = time.monotonic() + timeout
  while not path.exists():
    assert time.monotonic() < deadline, f'no {path} after {timeout} s'
    time.sleep(0.1)

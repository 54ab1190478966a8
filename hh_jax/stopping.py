"""SIGTERM and SIGINT: what is learnt is saved before a run stops."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import signal
import subprocess
import threading
from types import FrameType

from hh_jax import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
  """A signal ended the run; `signum` says which one."""

  def __init__(self, signum: int):
    super().__init__(signum)
    self.signum = signum

  def __str__(self) -> str:
    return 'terminated' if self.signum == signal.SIGTERM else 'interrupted'


def _raise(signum: int, frame: FrameType | None) -> None:
  raise Stopped(signum)


@contextlib.contextmanager
def _handled(
  handler: Callable[[int, FrameType | None], None],
) -> Iterator[None]:
  """The handler of both signals; Python has them in its main thread alone."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {s: signal.signal(s, handler) for s in SIGNALS}
  try:
    yield
  finally:
    for signum, old in before.items():
      signal.signal(signum, old)


def at_once() -> contextlib.AbstractContextManager[None]:
  """Within it both signals raise Stopped where the program is."""
  return _handled(_raise)


@contextlib.contextmanager
def after_a_step() -> Iterator[Callable[[], int]]:
  """Within it signals wait for the step; but for a second Ctrl-C.

  Yields a function: the signal that waits, or 0. A loop that sees one saves and
  ends; then the block raises Stopped. Of several processes a signal to one
  stops all: each has to call the function as often.
  """
  waiting = 0

  def note(signum: int, frame: FrameType | None) -> None:
    nonlocal waiting
    if waiting and signum == signal.SIGINT:
      raise Stopped(signum)
    waiting = waiting or signum

  with _handled(note):
    yield lambda: distributed.largest(waiting)
  if signum := distributed.largest(waiting):
    raise Stopped(signum)


def end(processes: Sequence[subprocess.Popen]) -> None:
  """Passes SIGTERM on to those that run, and waits; Ctrl-C kills them."""

  def of_wait(signum: int, frame: FrameType | None) -> None:
    if signum == signal.SIGINT:
      raise Stopped(signum)

  running = [process for process in processes if process.poll() is None]
  with _handled(of_wait):
    try:
      for process in running:
        process.terminate()
      for process in running:
        process.wait()
    except Stopped:
      for process in running:
        process.kill()
      raise

"""Processes meet before JAX connects them, so that a missing one has a name.

jax.distributed waits as well, but at its time-out it aborts without saying for
whom it waited. Process 0 listens where JAX's coordinator is about to, the
others tell it their number, and it tells them all how it went: a line each.
"""

import contextlib
import dataclasses
import socket
import time

from hh_jax.errors import InputError

_HELLO, _GO, _STOP = 'hh_jax process', 'hh_jax go', 'hh_jax stop'
_PATIENCE = 5.0  # seconds for a line of a peer that has connected
_RETRY = 0.2
_GRACE = 2.0  # seconds in which those that still come hear of trouble


@dataclasses.dataclass(frozen=True)
class Place:
  """One process of several."""

  coordinator: str  # HOST:PORT of process 0, free until JAX takes it
  num_processes: int
  process_id: int
  local_devices: list[int] | None = None  # None: all that it sees

  def __post_init__(self):
    host, _, port = self.coordinator.rpartition(':')
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
      raise InputError(f'coordinator {self.coordinator!r} is no HOST:PORT')
    if not 0 <= self.process_id < self.num_processes:
      raise InputError(
        f'process_id {self.process_id} is not in 0 .. {self.num_processes - 1}'
      )

  @property
  def address(self) -> tuple[str, int]:
    host, _, port = self.coordinator.rpartition(':')
    return host.strip('[]'), int(port)


def meet(place: Place, *, timeout: float) -> None:
  """Returns when all processes are there; `timeout` in seconds.

  Raises InputError, which names those that are missing, when process 0 has
  waited that long, and when two processes have one number.
  """
  if place.process_id:
    _answer(place, timeout)
  else:
    _call(place, timeout)


def _call(place: Place, timeout: float) -> None:
  """Process 0: waits for the others, and tells them the outcome."""
  with contextlib.ExitStack() as stack:
    present: dict[int, socket.socket] = {}
    trouble = _gather(place, timeout, present, stack)
    # the listener is closed: JAX's coordinator takes the port
    for peer in present.values():
      with contextlib.suppress(OSError):
        peer.sendall(_line(f'{_STOP} {trouble}' if trouble else _GO))
  if trouble:
    raise InputError(trouble)


def _gather(
  place: Place,
  timeout: float,
  present: dict[int, socket.socket],
  stack: contextlib.ExitStack,
) -> str:
  """Fills `present`; what is wrong in the end, or ''."""
  deadline, trouble = time.monotonic() + timeout, ''
  numbers = range(1, place.num_processes)
  try:
    listener = _listen(place.address[1])
  except OSError as error:
    raise InputError(
      f'process 0 cannot listen at {place.coordinator}: {error.strerror}'
    ) from error
  with listener:
    while missing := [str(i) for i in numbers if i not in present]:
      listener.settimeout(max(deadline - time.monotonic(), 0.01))
      try:
        peer = stack.enter_context(listener.accept()[0])
      except TimeoutError:
        return trouble or (
          f'{len(missing)} of {place.num_processes} processes did not come to '
          f'{place.coordinator} in {timeout:g} s: process_id '
          f'{", ".join(missing)}'
        )
      peer.settimeout(min(_PATIENCE, timeout))
      said = _read(peer).removeprefix(_HELLO).split()
      if not (len(said) == 2 and all(word.isdecimal() for word in said)):
        continue  # a port scanner, or a health check
      number, count = map(int, said)
      if count != place.num_processes or number in present or not number:
        present[-1 - len(present)] = peer  # a number of no one
        deadline = min(deadline, time.monotonic() + _GRACE)
        trouble = (
          f'process_id {number} of {count} came to {place.coordinator}, where '
          f'{place.num_processes} with different numbers were expected'
        )
        continue
      present[number] = peer
  return trouble


def _answer(place: Place, timeout: float) -> None:
  """Another process: finds process 0 and waits for its word."""
  deadline = time.monotonic() + timeout
  hello = f'{_HELLO} {place.process_id} {place.num_processes}'
  while time.monotonic() < deadline:
    try:
      with socket.create_connection(place.address, _PATIENCE) as peer:
        peer.sendall(_line(hello))
        # process 0 may have begun to wait only now
        peer.settimeout(timeout + _PATIENCE)
        said = _read(peer)
    except OSError:  # not there yet
      said = ''
    if said == _GO:
      return
    if said.startswith(_STOP):
      raise InputError(said.removeprefix(_STOP).strip())
    time.sleep(_RETRY)
  raise InputError(
    f'process_id {place.process_id} waited {timeout:g} s for process_id 0 at '
    f'{place.coordinator}: it did not come, or cannot be reached'
  )


def _listen(port: int) -> socket.socket:
  """At all addresses, as JAX's coordinator."""
  if socket.has_dualstack_ipv6():
    return socket.create_server(
      ('', port), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True
    )
  return socket.create_server(('', port), backlog=4096)


def _line(text: str) -> bytes:
  return f'{text}\n'.encode()


def _read(peer: socket.socket) -> str:
  """A line of at most 64 KiB without its end; '' where none comes."""
  with contextlib.suppress(OSError, ValueError):
    with peer.makefile('rb') as file:
      line = file.readline(2**16)
    if line.endswith(b'\n'):
      return line.decode().strip()
  return ''

"""Several processes, one program: start-up, who writes, and how it ends.

Every process runs the same recipe on the same config, sees the same batches and
takes the same decisions; process 0 alone writes files and displays. Finding the
processes of a cluster is JAX's own (Slurm, GKE, Cloud TPU, Open MPI). JAX is
imported only where several processes are, or may be.
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import os
import signal
import sys
import threading

from hh_jax import rollcall
from hh_jax.errors import InputError

# Of jax.distributed; each is asked for where no flag says it.
ENVIRONMENT = {
  'coordinator': 'JAX_COORDINATOR_ADDRESS',
  'num_processes': 'JAX_NUM_PROCESSES',
  'process_id': 'JAX_PROCESS_ID',
}
LEAVING_SECONDS = 10  # that a process which failed waits for others to fail
WORKING_SECONDS = 10**6  # that others wait for one: its heartbeats tell enough
POLL_SECONDS = 0.2  # after which a signal is seen
PEER_DIED = 134  # exit code, as of the abort by JAX's coordination service
_MESSAGE_BYTES = 1024  # of an error that a process tells the others


@dataclasses.dataclass(frozen=True)
class Asked:
  """What the command line says of the processes; None: not said."""

  coordinator: str | None = None  # HOST:PORT of process 0
  num_processes: int | None = None
  process_id: int | None = None
  startup_timeout: int = 300  # seconds until all processes have to be there
  heartbeat_timeout: int = 100  # seconds until a silent one counts as dead


@dataclasses.dataclass
class _Here:
  """This process among its peers, as `session` found it."""

  index: int = 0
  count: int = 1
  is_apart: bool = False  # at something that the others do not take part in
  meetings: int = 0


_here = _Here()


def is_writer() -> bool:
  """Whether this process writes files, logs and displays: it is process 0."""
  return _here.index == 0


def num_processes() -> int:
  """1 outside a session of several."""
  return _here.count


def say(text: str) -> None:
  """A line on stderr, of process 0."""
  if is_writer():
    print(f'hh_jax: {text}', file=sys.stderr)


def needs_unrolled() -> bool:
  """Whether programs with two independent loops of collectives may die.

  Gloo pairs collectives by the order in which each process starts them. XLA's
  CPU runtime starts those of one computation in one order, but a loop has
  started with its first: of two loops that do not depend on each other, such as
  scans over the layers of two networks, the later ones may come in any order.
  """
  if _here.count == 1:
    return False
  import jax

  return jax.default_backend() == 'cpu'


def by_writer(do: Callable[[], object]) -> None:
  """Process 0 does it, and the others go on when it is done.

  All processes have to call it, in the same order; within `do` it is only a
  call. An InputError of process 0 is raised in every process.
  """
  by_all(do if is_writer() else lambda: None)


def by_all(do: Callable[[], object]) -> None:
  """Every process does it; an InputError of one is raised in every process.

  They may take as long as they want: only then do they talk in collectives,
  which would give up on one that is late (gloo's first after 30 s).
  """
  if _here.count == 1 or _here.is_apart:
    do()
    return
  error = None
  _here.is_apart = True
  try:
    do()
  except InputError as e:
    error = e
  finally:
    _here.is_apart = False
  _here.meetings += 1
  _meet(f'hh_jax {_here.meetings}', WORKING_SECONDS)
  told = first_said(str(error) if error else '')
  if error or told:
    raise error or InputError(told)


def _meet(key: str, seconds: int) -> None:
  """Waits for all processes; JaxRuntimeError where one dies, or is too late.

  In a thread: in C++ the main one would not see a signal.
  """
  failed = []

  def wait() -> None:
    try:
      _barrier(key, seconds)
    except Exception as error:
      failed.append(error)

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  while thread.is_alive():
    thread.join(POLL_SECONDS)
  if failed:
    raise failed[0]


def _barrier(key: str, seconds: int) -> None:
  from orbax.checkpoint import multihost

  multihost.get_barrier_sync_fn()(key=key, timeout_ms=seconds * 1000)


def largest(number: int) -> int:
  """The largest of every process's number; all have to call it."""
  if _here.count == 1:
    return number
  from jax.experimental import multihost_utils
  import numpy as np

  return int(multihost_utils.process_allgather(np.int32(number)).max())


def wait_for_writer() -> None:
  """Until process 0 is here: what it wrote before can be read."""
  by_writer(lambda: None)


def share() -> tuple[int, int]:
  """(i, n) of work that all processes split: this one does every n-th part."""
  return (0, 1) if _here.is_apart else (_here.index, _here.count)


def first_said(text: str) -> str:
  """The first text that is not empty, of the process with the lowest id.

  All have to call it; it is cut at 1 KiB.
  """
  if _here.count == 1 or _here.is_apart:
    return text
  from jax.experimental import multihost_utils
  import numpy as np

  data = text.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b'\0')
  rows = multihost_utils.process_allgather(np.frombuffer(data, np.uint8))
  texts = [row.tobytes().rstrip(b'\0').decode(errors='ignore') for row in rows]
  return next(filter(None, texts), '')


@contextlib.contextmanager
def session(asked: Asked) -> Iterator[None]:
  """Within it this process is one of those that were asked for, or found.

  A process that fails within it ends without waiting for the others, which may
  wait for it: they end when its heartbeats stay away, at once if it is
  process 0. Raises InputError when they do not come together in time.
  """
  place = _find(asked)
  if place is None:
    yield
    return
  _start(place, asked)
  try:
    with _quiet():
      yield
  except BaseException as error:
    atexit.register(
      _leave, _exit_code(error), asks_who_died=_may_be_of_a_death(error)
    )
    raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Only process 0 prints on stdout; errors go to stderr, of all."""
  if is_writer():
    yield
    return
  with open(os.devnull, 'w') as nothing, contextlib.redirect_stdout(nothing):
    yield


def _find(asked: Asked) -> rollcall.Place | None:
  """Where this process belongs; None where there is only one process.

  Flags come first, then JAX's environment variables, then the cluster that JAX
  detects. InputError where they do not make a whole. Under Slurm JAX gives a
  process one device, by its number on the node; here one that has a node for
  itself has all of them.
  """
  said = {
    name: getattr(asked, name)
    if getattr(asked, name) is not None
    else os.environ.get(variable)
    for name, variable in ENVIRONMENT.items()
  }
  devices = None
  if None in said.values():
    # what jax.distributed.initialize itself asks, and says nothing of
    from jax._src import clusters

    try:
      *found, devices = (
        clusters.ClusterEnv.auto_detect_unset_distributed_params(
          *said.values(), None, None, asked.startup_timeout
        )
      )
    except RuntimeError as error:
      raise InputError(f'the cluster that JAX detects: {error}') from error
    said = dict(zip(said, found, strict=True))
    if str(said['num_processes']) == os.environ.get('SLURM_STEP_NUM_NODES'):
      devices = None
  missing = [name for name, value in said.items() if value is None]
  if len(missing) == len(said):
    return None
  if missing:
    raise InputError(
      f'--{" and --".join(missing)} missing: several processes need '
      f'--{", --".join(said)}, or a cluster that JAX detects'
    )
  place = rollcall.Place(
    said['coordinator'], _count(said, 'num_processes'),
    _count(said, 'process_id'), devices,
  )  # fmt: skip
  return place if place.num_processes > 1 else None


def _count(said: dict[str, str | int], name: str) -> int:
  try:
    return int(said[name])
  except ValueError:
    raise InputError(f'{name} {said[name]!r} is not an integer') from None


def _start(place: rollcall.Place, asked: Asked) -> None:
  rollcall.meet(place, timeout=asked.startup_timeout)
  import jax
  from orbax.checkpoint import multihost  # noqa: F401, cannot be at exit

  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # Programs in flight on the devices of one CPU can starve each other.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  # It would take SIGTERM away from Python.
  jax.config.update('jax_enable_preemption_service', False)
  jax.distributed.initialize(
    place.coordinator,
    place.num_processes,
    place.process_id,
    place.local_devices,
    cluster_detection_method='deactivate',
    initialization_timeout=asked.startup_timeout,
    heartbeat_timeout_seconds=asked.heartbeat_timeout,
  )
  if jax.default_backend() == 'cpu':
    # A program read from the cache has lost the order of its collectives (each
    # gets a resource of its own): in jaxlib 0.10.2 half of such runs of `ppo`
    # ended in a mismatch of gloo's. See also needs_unrolled.
    jax.config.update('jax_enable_compilation_cache', False)
  _here.index, _here.count = place.process_id, place.num_processes


def _may_be_of_a_death(error: BaseException) -> bool:
  """A collective that fails is how most hear of it; memory is one's own."""
  import jax

  is_jax = isinstance(error, jax.errors.JaxRuntimeError)
  return is_jax and 'RESOURCE_EXHAUSTED' not in str(error)


def _exit_code(error: BaseException) -> int:
  if isinstance(error, SystemExit) and isinstance(error.code, int):
    return error.code
  if isinstance(error, KeyboardInterrupt):
    return 128 + getattr(error, 'signum', 2)  # SIGINT
  return 2 if isinstance(error, InputError) else 1


def _leave(code: int, *, asks_who_died: bool) -> None:
  """At exit, before JAX's own shutdown, which would wait for the others.

  Where all fail alike they leave together. Python starts no threads any more.
  """
  import jax

  signal.signal(signal.SIGINT, signal.SIG_IGN)  # or os._exit is never reached
  sys.stdout.flush()
  sys.stderr.flush()
  try:
    _barrier('hh_jax leaves', LEAVING_SECONDS)
  except jax.errors.JaxRuntimeError as error:  # the others are not coming
    if asks_who_died:
      why = ' '.join(str(error).partition('RPC:')[0].split())
      print(
        f'hh_jax: another process died before this one: {why}',
        file=sys.stderr,
        flush=True,
      )
      code = PEER_DIED
    os._exit(code)

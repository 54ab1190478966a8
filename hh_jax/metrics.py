"""What a run measured: a JSON line for each step, and a progress display.

metrics.jsonl is the truth, strict JSON; TensorBoard and W&B get copies. Of
several processes process 0 alone writes and displays.
"""

from collections.abc import Callable, Mapping
import contextlib
import importlib
import importlib.util
import json
import math
import os
import pathlib
import sys
import time
from types import ModuleType
from typing import Protocol, Self, SupportsFloat

import tqdm

from hh_jax import distributed
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError

METRICS = 'metrics.jsonl'
SECONDS_PER_LINE = 10.0  # of a progress display that is no terminal

Metrics = Mapping[str, SupportsFloat]


class MetricsWriter(contextlib.ExitStack):
  """Appends `{"step": n, "time": seconds, "group/name": x, ...}` lines."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    resume_step: int | None = None,
    tensorboard: bool = False,
    wandb: bool = False,
  ):
    """Opens workdir/metrics.jsonl as it was after step `resume_step`.

    Later lines of an interrupted run are dropped, with None all lines; the
    times of new lines go on from the last one kept. Raises InputError on a
    broken line and on a tracker that is not installed.
    """
    super().__init__()
    workdir = pathlib.Path(workdir)
    path = workdir / METRICS
    kept = []
    if resume_step is not None and path.exists():
      kept = [m for m in _read(path) if m['step'] <= resume_step]
    self._copies: list[Callable[[int, dict[str, float]], None]] = []
    is_writer = distributed.is_writer()
    if tensorboard and is_writer:
      self._copies.append(self._open_tensorboard(workdir, resume_step))
    if wandb and is_writer:
      self._copies.append(self._open_wandb(workdir))
    workdir_lib.write_bytes(path, b''.join(map(_line, kept)))
    path = path if is_writer else os.devnull
    self._file = self.enter_context(open(path, 'ab'))
    self._start = time.monotonic() - (kept[-1]['time'] if kept else 0.0)
    # An interrupted run may have written this step's evaluation already.
    self._written = {(m['step'], frozenset(m)) for m in kept}

  def write(self, step: int, metrics: Metrics) -> None:
    """Writes one line and flushes it; NaN and infinities become null.

    A line kept from the interrupted run (same step, same names) stays as it
    is. Raises ValueError on what is not a scalar and on the names step, time.
    """
    if taken := {'step', 'time'} & metrics.keys():
      raise ValueError(f'metrics cannot be named {sorted(taken)}')
    values = {name: _scalar(name, x) for name, x in metrics.items()}
    seconds = round(time.monotonic() - self._start, 3)
    line = {'step': int(step), 'time': seconds, **values}
    if (line['step'], frozenset(line)) in self._written:
      return
    self._file.write(_line(line))
    self._file.flush()
    for copy in self._copies:
      copy(line['step'], values)

  def _open_tensorboard(
    self, workdir: pathlib.Path, resume_step: int | None
  ) -> Callable[[int, dict[str, float]], None]:
    writer = _tracker('tensorboard', 'tensorboardX').SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=(resume_step or 0) + 1
    )
    self.callback(writer.close)

    def copy(step: int, values: dict[str, float]) -> None:
      for name, value in values.items():
        writer.add_scalar(name, value, step)

    return copy

  def _open_wandb(
    self, workdir: pathlib.Path
  ) -> Callable[[int, dict[str, float]], None]:
    wandb = _tracker('wandb', 'wandb')
    run = wandb.init(project='hh_jax', name=str(workdir), dir=str(workdir))
    self.callback(run.finish)
    return lambda step, values: run.log(values, step=step)


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
  """The lines of a metrics.jsonl, null as NaN.

  The last line may be half written (the run is alive, or was killed) and is
  left out then; any other broken line raises InputError with its number.
  """
  return [
    {k: math.nan if x is None else x for k, x in m.items()} for m in _read(path)
  ]


def _read(path: str | os.PathLike) -> list[dict[str, float | None]]:
  return workdir_lib.read_rows(path, ('step', 'time'), unfinished=True)


class Progress(Protocol):
  """A display of how far a loop has come, closed by its `with` block."""

  def update(self, step: int, shown: Metrics) -> None:
    """`step` steps are done; `shown` are a few numbers beside the count."""

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exc: object) -> None:
    """Leaves the last state of the display visible."""


def progress(total: int, name: str) -> Progress:
  """A bar on a terminal; elsewhere a line now and then, and the last one.

  Both go to stderr. The time left is judged by the steps after the first
  update, so compilation and steps of an interrupted run do not count.
  """
  if not distributed.is_writer():
    return _Nothing()
  return (_Bar if sys.stderr.isatty() else _Lines)(total, name)


class _Nothing(Progress):
  def update(self, step: int, shown: Metrics) -> None:
    pass


class _Bar(Progress):
  def __init__(self, total: int, name: str):
    self._total, self._name = total, name
    self._bar: tqdm.tqdm | None = None

  def update(self, step: int, shown: Metrics) -> None:
    if self._bar is None:
      self._bar = tqdm.tqdm(
        total=self._total, desc=self._name, initial=step, file=sys.stderr
      )
    self._bar.set_postfix_str(_show(shown), refresh=False)
    self._bar.update(step - self._bar.n)

  def __exit__(self, *exc: object) -> None:
    if self._bar is not None:
      self._bar.close()


class _Lines(Progress):
  def __init__(self, total: int, name: str):
    self._total, self._name = total, name
    self._first: tuple[int, float] | None = None  # step and time of an update
    self._printed = -math.inf
    self._unprinted = ''

  def update(self, step: int, shown: Metrics) -> None:
    now = time.monotonic()
    first_step, first_time = self._first = self._first or (step, now)
    self._unprinted = f'{self._name} {step}/{self._total} {_show(shown)}'
    if step > first_step:
      per_step = (now - first_time) / (step - first_step)
      left = tqdm.tqdm.format_interval(per_step * (self._total - step))
      self._unprinted += f' [{left} left]'
    if now - self._printed >= SECONDS_PER_LINE:
      self._print(now)

  def __exit__(self, *exc: object) -> None:
    if self._unprinted:
      self._print(time.monotonic())

  def _print(self, now: float) -> None:
    print(self._unprinted, file=sys.stderr, flush=True)
    self._printed, self._unprinted = now, ''


def _show(shown: Metrics) -> str:
  return ', '.join(f'{name} {float(x):.4g}' for name, x in shown.items())


def _scalar(name: str, value: SupportsFloat) -> float:
  if getattr(value, 'shape', ()) != () or isinstance(value, str):
    raise ValueError(f'metric {name} is no scalar: {value!r}')
  return float(value)


def _line(metrics: dict[str, float | None]) -> bytes:
  finite = {
    name: x if x is not None and math.isfinite(x) else None
    for name, x in metrics.items()
  }
  return f'{json.dumps(finite, allow_nan=False)}\n'.encode()


def _tracker(option: str, package: str) -> ModuleType:
  if importlib.util.find_spec(package) is None:
    raise InputError(
      f'{option}=True needs {package}: pip install "hh_jax[track]"'
    )
  return importlib.import_module(package)

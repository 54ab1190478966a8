"""Rows -> batches in grain's order; how far it is goes into checkpoints.

A batch is of all processes, and every one makes only those rows of it that are
its own: see Part.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import time
from typing import Any, Self

import grain
import jax
import numpy as np


def num_rows(rows: Any) -> int:
  """The leading size that all arrays of the tree share."""
  return jax.tree.leaves(rows)[0].shape[0]


def take(rows: Any, index: Any) -> Any:
  """The rows that a slice or an array of row numbers names."""
  return jax.tree.map(lambda x: x[index], rows)


def spread(rows: Any, num: int) -> Any:
  """At most `num` rows, evenly spaced over all of them."""
  last = num_rows(rows) - 1
  return take(rows, np.unique(np.linspace(0, last, num).astype(int)))


def pad_rows(rows: Any, multiple: int) -> Any:
  """Rows of zeros (ids: -1) added until `multiple` divides their number."""
  pad = -num_rows(rows) % multiple
  if not pad:
    return rows

  def of(path, x):
    fill = np.full((pad, *x.shape[1:]), _padding(path), x.dtype)
    return np.concatenate([x, fill])

  return jax.tree_util.tree_map_with_path(of, rows)


def _padding(path: jax.tree_util.KeyPath) -> int:
  """What added rows hold in the array at that place of the tree."""
  is_ids = jax.tree_util.keystr(path, simple=True).endswith('ids')
  return -1 if is_ids else 0


def train_batches(
  rows: Any, *, batch_size: int, seed: int, num_epochs: int | None = None
) -> 'Batches':
  """Shuffled batches; every epoch has every row once, in a new order.

  Rows are padded (with masks at 0) to whole batches, so nothing is left out.
  num_epochs=None repeats for ever, without padding: a batch may then begin in
  one epoch and end in the next.
  """
  total = num_rows(rows)
  if num_epochs is not None:
    total += -total % batch_size
  numbers = _shuffled(range(total), seed).repeat(num_epochs)
  return Batches(rows, numbers, batch_size)


def mixed_batches(
  rows: Any,
  counts: Sequence[int],
  weights: Sequence[float],
  *,
  batch_size: int,
  seed: int,
) -> 'Batches':
  """Endless shuffled batches of several sets of rows, mixed by weight.

  The sets are the first counts[0] rows, the counts[1] after them, and so on. Of
  every run of rows each set gets its share, in a fixed pattern; weights need
  not sum to 1. A set that is short comes round more often.
  """
  ends = np.cumsum(counts).tolist()
  numbers = [
    _shuffled(range(start, end), seed + i).repeat()
    for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
  ]
  return Batches(rows, grain.MapDataset.mix(numbers, weights), batch_size)


def _shuffled(numbers: range, seed: int) -> grain.MapDataset:
  return grain.MapDataset.source(numbers).seed(seed).shuffle()


class Batches:
  """Trees of Part, one batch after another; a remainder is left out.

  `get_state` says how far they are, in JSON, whatever the processes.
  """

  def __init__(self, rows: Any, numbers: grain.MapDataset, batch_size: int):
    """`numbers` are those of the rows, in the order that they come in.

    Above the last row's they stand for padding, with masks at 0 (ids: -1).
    """
    self._rows, self._numbers = rows, numbers
    self._batch_size, self._next = batch_size, 0

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> Any:
    start = self._next * self._batch_size
    if start + self._batch_size > len(self._numbers):
      raise StopIteration
    self._next += 1
    batch = _Batch(self._numbers, start, self._batch_size)
    return jax.tree_util.tree_map_with_path(
      lambda path, x: Part(x, batch, _padding(path)), self._rows
    )

  def get_state(self) -> dict[str, int]:
    return {'next_index': self._next}

  def set_state(self, state: dict[str, int]) -> None:
    self._next = state['next_index']


@dataclasses.dataclass(frozen=True)
class _Batch:
  """The numbers of a batch's rows, found when they are asked for."""

  numbers: grain.MapDataset
  start: int
  size: int
  found: dict[range, np.ndarray] = dataclasses.field(default_factory=dict)

  def rows(self, wanted: slice) -> np.ndarray:
    places = range(self.size)[wanted]
    if places not in self.found:
      found = [self.numbers[self.start + i] for i in places]
      self.found[places] = np.array(found, int)
    return self.found[places]


@dataclasses.dataclass(frozen=True)
class Part:
  """An array of a batch, which makes the rows that a slice asks for.

  `sharding.place` asks for those of this process's devices alone, so work on
  the host does not grow with the number of processes.
  """

  all_rows: np.ndarray
  batch: _Batch
  padding: int  # what rows hold whose numbers are too large

  @property
  def shape(self) -> tuple[int, ...]:
    return (self.batch.size, *self.all_rows.shape[1:])

  def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
    first, *others = index if isinstance(index, tuple) else (index,)
    numbers = self.batch.rows(first)
    is_real = numbers < len(self.all_rows)
    rows = self.all_rows[np.where(is_real, numbers, 0)]
    rows[~is_real] = self.padding
    return rows[(slice(None), *others)]

  def __array__(self, dtype: Any = None, copy: bool | None = None):
    if copy is False:
      raise ValueError('the rows of a batch are always a copy')
    return self[:].astype(dtype or self.all_rows.dtype, copy=False)


def eval_batches(rows: Any, *, batch_size: int) -> Iterator[Any]:
  """All rows in order, once; the last batch is padded with masks at 0."""
  for start in range(0, num_rows(rows), batch_size):
    batch = take(rows, slice(start, start + batch_size))
    is_whole = num_rows(batch) == batch_size
    yield batch if is_whole else pad_rows(batch, batch_size)


class Feed:
  """Batches for a loop, and the share of its time that devices waited for them.

  Making a batch (and placing it on the devices) is free while they still run
  the step before. A call during which they ended it counts in full, so the
  share is an upper bound.
  """

  def __init__(self, batches: Iterator[Any]):
    self._batches = batches
    self._last = time.perf_counter()  # when the last batch was there

  def next(self, running: Any) -> tuple[Any, float]:
    """A batch; what the devices waited for it, over the time since the last.

    `running` is a tree of results of the step under way, None where there is
    none. The share is in [0, 1].
    """
    start = time.perf_counter()
    batch = next(self._batches)
    end = time.perf_counter()
    since, self._last = self._last, end
    is_waiting = all(x.is_ready() for x in jax.tree.leaves(running))
    return batch, (end - start) / (end - since) if is_waiting else 0.0

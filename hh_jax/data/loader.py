"""Rows -> batches with grain; the iterator's state goes into checkpoints."""

from collections.abc import Iterator, Sequence
import time
from typing import Any

import grain
import jax
import numpy as np


class _Rows:
  """Random access to row i of a tree of [num_rows, ...] arrays."""

  def __init__(self, rows: Any):
    self._rows = rows
    self._length = num_rows(rows)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, i: int) -> Any:
    return take(self._rows, i)


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

  def of(path, x):
    is_ids = jax.tree_util.keystr(path, simple=True).endswith('ids')
    fill = np.full((pad, *x.shape[1:]), -1 if is_ids else 0, x.dtype)
    return np.concatenate([x, fill])

  return jax.tree_util.tree_map_with_path(of, rows)


def train_batches(
  rows: Any, *, batch_size: int, seed: int, num_epochs: int | None = None
) -> grain.DatasetIterator:
  """Shuffled batches; every epoch has every row once, in a new order.

  Rows are padded (with masks at 0) to whole batches, so nothing is left out.
  num_epochs=None repeats for ever, without padding: a batch may then begin in
  one epoch and end in the next.
  """
  if num_epochs is not None:
    rows = pad_rows(rows, batch_size)
  dataset = grain.MapDataset.source(_Rows(rows))
  dataset = dataset.seed(seed).shuffle().repeat(num_epochs)
  return _batched(dataset, batch_size)


def mixed_batches(
  parts: Sequence[Any],
  weights: Sequence[float],
  *,
  batch_size: int,
  seed: int,
) -> grain.DatasetIterator:
  """Endless shuffled batches of several sets of rows, mixed by weight.

  Of every run of rows each set gets its share, in a fixed pattern; weights
  need not sum to 1. A set that is short comes round more often.
  """
  datasets = [
    grain.MapDataset.source(_Rows(rows)).seed(seed + i).shuffle().repeat()
    for i, rows in enumerate(parts)
  ]
  return _batched(grain.MapDataset.mix(datasets, weights), batch_size)


def _batched(
  dataset: grain.MapDataset, batch_size: int
) -> grain.DatasetIterator:
  dataset = dataset.batch(batch_size, drop_remainder=True)
  # no threads: rows are in memory and the order must not depend on timing
  options = grain.ReadOptions(num_threads=0)
  return iter(dataset.to_iter_dataset(options))


def eval_batches(rows: Any, *, batch_size: int) -> Iterator[Any]:
  """All rows in order, once; the last batch is padded with masks at 0."""
  rows = pad_rows(rows, batch_size)
  for start in range(0, num_rows(rows), batch_size):
    yield take(rows, slice(start, start + batch_size))


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

import collections
import itertools
import time

import grain
import jax
import numpy as np
import pytest

from hh_jax import sharding, types
from hh_jax.data import loader


def rows(n):
  ids = np.arange(n, dtype=np.int32)
  return types.Prompts(np.tile(ids[:, None], (1, 3)), ids + 1, ids)


def take(iterator, n):
  return [np.asarray(next(iterator).ids).tolist() for _ in range(n)]


def test_an_epoch_has_every_row_once_and_the_next_another_order():
  batches = loader.train_batches(rows(10), batch_size=4, seed=0, num_epochs=2)
  first, second = take(batches, 3), take(batches, 3)
  for epoch in (first, second):
    counts = collections.Counter(i for batch in epoch for i in batch)
    # padded to 12 rows, the two added ones have id -1
    assert counts == {**dict.fromkeys(range(10), 1), -1: 2}
  assert first != second


def test_without_an_end_epochs_share_batches_and_nothing_is_padded():
  batches = loader.train_batches(rows(10), batch_size=4, seed=0)
  seen = [i for batch in take(batches, 5) for i in batch]
  for epoch in (seen[:10], seen[10:]):
    assert sorted(epoch) == list(range(10))


def test_seed_decides_the_order():
  orders = [
    take(loader.train_batches(rows(10), batch_size=5, seed=seed), 4)
    for seed in (0, 0, 1)
  ]
  assert orders[0] == orders[1] != orders[2]


def test_epochs_end():
  batches = loader.train_batches(rows(4), batch_size=2, seed=0, num_epochs=2)
  assert len(list(batches)) == 4


def test_a_saved_iterator_goes_on_where_it_was():
  batches = loader.train_batches(rows(10), batch_size=4, seed=3)
  take(batches, 4)
  saved = batches.get_state()
  wanted = take(batches, 5)
  other = loader.train_batches(rows(10), batch_size=4, seed=3)
  other.set_state(saved)
  assert take(other, 5) == wanted


def test_batches_are_those_of_grain():
  dataset = grain.MapDataset.source(range(10)).seed(3).shuffle().repeat()
  wanted = iter(dataset.batch(4).to_iter_dataset())
  batches = loader.train_batches(rows(10), batch_size=4, seed=3)
  assert take(batches, 9) == [next(wanted).tolist() for _ in range(9)]


class Counting(list):
  def __init__(self, numbers):
    super().__init__(numbers)
    self.asked = []

  def __getitem__(self, i):
    self.asked.append(i)
    return super().__getitem__(i)


def test_only_rows_that_a_device_wants_are_made():
  numbers = Counting([7, 6, 5, 4, 3, 2, 1, 0])
  batch = next(loader.Batches(rows(8), numbers, 8))
  assert batch.tokens.shape == (8, 3) and not numbers.asked
  assert batch.tokens[2:4, :1].tolist() == [[5], [4]]
  assert batch.ids[2:4].tolist() == [5, 4] and numbers.asked == [2, 3]
  mesh = sharding.make_mesh(fsdp=2, model=2)
  placed = sharding.place(mesh, batch)
  assert placed.ids.tolist() == list(numbers)
  # on two devices each, three arrays; and none is looked for twice
  assert sorted(numbers.asked) == sorted([2, 3, *range(8)])


def test_mixed_batches_are_of_all_parts():
  parts = [rows(4), jax.tree.map(lambda x: x + 100, rows(4))]
  both = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  batches = loader.mixed_batches(both, [4, 4], [1, 3], batch_size=8, seed=0)
  seen = np.array(take(batches, 6))
  assert ((seen >= 100).sum(axis=1) == 6).all()
  assert set(seen.ravel()) == {*range(4), *range(100, 104)}


def test_eval_batches_are_in_order_and_whole():
  batches = list(loader.eval_batches(rows(5), batch_size=4))
  assert [b.ids.tolist() for b in batches] == [[0, 1, 2, 3], [4, -1, -1, -1]]
  assert batches[1].lengths.tolist() == [5, 0, 0, 0]


def test_padded_rows_have_empty_masks():
  padded = loader.pad_rows({'mask': np.ones((3, 2), np.float32)}, 4)
  np.testing.assert_array_equal(padded['mask'].sum(1), [2, 2, 2, 0])
  assert loader.num_rows(padded) == 4


@pytest.mark.parametrize('n, multiple', [(4, 4), (4, 2)])
def test_whole_batches_are_left_alone(n, multiple):
  assert loader.num_rows(loader.pad_rows(rows(n), multiple)) == n


class Running:
  """Stands for a result of a device."""

  def __init__(self, is_ready):
    self.is_ready = lambda: is_ready


def slow(seconds):
  for i in itertools.count():
    time.sleep(seconds)
    yield i


def test_a_device_waits_only_for_batches_that_it_has_no_work_beside():
  feed = loader.Feed(slow(0.05))
  for running, waits in ((None, 1), (Running(True), 1), (Running(False), 0)):
    _, share = feed.next({'loss': running})
    assert (share > 0.9) if waits else (share == 0)
  feed = loader.Feed(slow(0.01))
  time.sleep(0.1)  # something else than batches
  assert 0 < feed.next(None)[1] < 0.5

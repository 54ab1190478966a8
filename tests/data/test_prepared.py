import pickle

import jax
import numpy as np
import pytest

from hh_jax import types
from hh_jax.data import loader, prepared
from hh_jax.data.examples import Pair
from tests import two_processes

PAIR = Pair(
  '\n\nHuman: a\n\nAssistant:', ' b', ' c', conversation='a', source='s'
)


def value():
  rows = types.TokenBatch(
    *np.arange(3 * 4 * 2000, dtype=np.int32).reshape(3, 4, 2000),
    np.ones((4, 2000), np.float32),
  )
  empty = np.zeros((0, 3), np.int32)
  return {'rows': rows, 'empty': empty, 'pairs': [PAIR], 'share': 0.25}


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_is_read_is_what_was_written(tmp_path):
  prepared.write(tmp_path / 'p', value())
  found = prepared.read(tmp_path / 'p')
  assert_same(
    {k: found[k] for k in ('rows', 'empty')},
    {k: value()[k] for k in ('rows', 'empty')},
  )
  assert (found['pairs'], found['share']) == ([PAIR], 0.25)
  assert found['rows'].loss_mask.dtype == np.float32


def test_arrays_stay_on_disk_and_are_not_written(tmp_path):
  prepared.write(tmp_path / 'p', value())
  found = prepared.read(tmp_path / 'p')
  assert len((tmp_path / 'p' / prepared.OBJECTS).read_bytes()) < 2000
  with pytest.raises(ValueError, match='read-only'):
    found['rows'].tokens[0] = 0
  # a file that is changed under them shows that they were not read before
  file = tmp_path / 'p' / prepared.ARRAYS
  with open(file, 'r+b') as f:
    f.write(np.int32(77).tobytes())
  assert found['rows'].tokens[0, 0] == 77
  batch = next(loader.train_batches(found['rows'], batch_size=4, seed=0))
  assert np.asarray(batch.tokens).flags.writeable


def test_a_second_writing_takes_the_place_of_the_first(tmp_path):
  prepared.write(tmp_path / 'p', value())
  prepared.write(tmp_path / 'p', {'a': np.arange(3)})
  assert_same(prepared.read(tmp_path / 'p'), {'a': np.arange(3)})


def test_values_without_bytes(tmp_path):
  prepared.write(tmp_path / 'p', [1, np.zeros(0)])
  one, none = prepared.read(tmp_path / 'p')
  assert one == 1 and none.shape == (0,)


def test_one_process_writes_nothing(tmp_path):
  made = value()
  assert prepared.once(tmp_path, lambda: made) is made
  assert not list(tmp_path.iterdir())


# As slow as reading may be: gloo's first collective gives up after 30 s.
READ = """
import pickle, sys, time
import numpy as np
from hh_jax import cli, distributed
from hh_jax.data import prepared
run, seconds = sys.argv[1], float(sys.argv[2])
words = ['read', '--config=none', '--workdir=none', *sys.argv[3:]]
asked = cli.parse(words, ['read']).processes

def make():
  time.sleep(seconds)
  return distributed.share(), np.arange(5)

with distributed.session(asked):
  found = prepared.once(run, make)
  with open(f'{run}/{asked.process_id}.pickle', 'wb') as f:
    pickle.dump(found, f)
"""


@pytest.mark.slow
def test_process_0_reads_however_long_it_takes(tmp_path):
  command = ['-c', READ, str(tmp_path), '33']
  with two_processes.Processes(command, command) as processes:
    ended = processes.ended()
  for i, (code, _, errors) in enumerate(ended):
    assert code == 0, errors
    who, found = pickle.loads((tmp_path / f'{i}.pickle').read_bytes())
    assert who == (0, 1)  # made by one, for whom there are no others
    np.testing.assert_array_equal(found, np.arange(5))

import pickle
import time

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


NUM = prepared._CHUNK + 6


def value():
  ids = np.arange(NUM * 5, dtype=np.int32).reshape(NUM, 5)
  rows = types.TokenBatch(ids, ids + 1, ids + 2, np.float32(ids) / 2)
  few = types.Prompts(ids[:4, :3], ids[:4, 0], ids[:4, 1])
  none = jax.tree.map(lambda x: x[:0], few)
  return {
    'rows': rows,
    'few': few,
    'none': none,
    'pairs': [PAIR],
    'share': 0.25,
  }


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_is_read_is_what_was_written(tmp_path):
  prepared.write(tmp_path / 'p', value())
  found = prepared.read(tmp_path / 'p')
  assert_same(found['rows'], value()['rows'])
  assert_same(found['few'], value()['few'])
  assert found['none'].tokens.shape == (0, 3)
  assert (found['pairs'], found['share']) == ([PAIR], 0.25)
  assert found['rows'].loss_mask.dtype == np.float32


def test_rows_stay_on_disk_and_are_not_written(tmp_path):
  prepared.write(tmp_path / 'p', value())
  found = prepared.read(tmp_path / 'p')
  assert (tmp_path / 'p' / prepared.OBJECTS).stat().st_size < 3000
  with pytest.raises(ValueError, match='read-only'):
    found['rows'].tokens[0] = 0
  # a file that is changed under them shows that they were not read before
  with open(tmp_path / 'p' / prepared.RECORDS.format(0), 'r+b') as file:
    file.write(np.int32(77).tobytes())
  assert found['rows'].tokens[0, 0] == 77
  batch = next(loader.train_batches(found['rows'], batch_size=4, seed=0))
  assert np.asarray(batch.tokens).flags.writeable


def test_what_belongs_to_a_row_lies_side_by_side(tmp_path):
  prepared.write(tmp_path / 'p', value())
  rows, few = value()['rows'], value()['few']
  data = (tmp_path / 'p' / prepared.RECORDS.format(0)).read_bytes()
  fields = (rows.tokens, rows.positions, rows.segments, rows.loss_mask)
  assert data == b''.join(x[i].tobytes() for i in range(NUM) for x in fields)
  data = (tmp_path / 'p' / prepared.RECORDS.format(1)).read_bytes()
  fields = (few.tokens, few.lengths, few.ids)
  assert data == b''.join(x[i].tobytes() for i in range(4) for x in fields)


def test_a_second_writing_takes_the_place_of_the_first(tmp_path):
  prepared.write(tmp_path / 'p', value())
  other = jax.tree.map(lambda x: x[:7], value()['rows'])
  prepared.write(tmp_path / 'p', other)
  assert_same(prepared.read(tmp_path / 'p'), other)


def test_one_process_writes_nothing(tmp_path):
  made = value()
  assert prepared.once(tmp_path, lambda: made) is made
  assert not list(tmp_path.iterdir())


# As slow as reading may be: gloo's first collective gives up after 30 s.
READ = """
import os, pathlib, pickle, sys, time
import numpy as np
from hh_jax import cli, distributed, stopping
from hh_jax.data import prepared
run, seconds = sys.argv[1], float(sys.argv[2])
words = ['read', '--config=none', '--workdir=none', *sys.argv[3:]]
asked = cli.parse(words, ['read']).processes

def make():
  pathlib.Path(run, 'begun').touch()
  time.sleep(seconds)
  return os.getpid(), np.arange(5)

with distributed.session(asked), stopping.at_once():
  found = prepared.once(run, make)
  with open(f'{run}/{asked.process_id}.pickle', 'wb') as f:
    pickle.dump(found, f)
"""


@pytest.mark.slow
def test_process_0_reads_however_long_it_takes(tmp_path):
  command = ['-c', READ, str(tmp_path), '33']
  with two_processes.Processes(command, command) as processes:
    ended = processes.ended()
    maker = processes.running[0].pid
  for i, (code, _, errors) in enumerate(ended):
    assert code == 0, errors
    who, found = pickle.loads((tmp_path / f'{i}.pickle').read_bytes())
    assert who == maker
    np.testing.assert_array_equal(found, np.arange(5))


@pytest.mark.slow
def test_who_waits_still_hears_a_signal(tmp_path):
  command = ['-c', READ, str(tmp_path), '60']
  with two_processes.Processes(command, command) as processes:
    two_processes.wait_for(tmp_path / 'begun')
    start = time.monotonic()
    for process in processes.running:
      process.terminate()
    ended = processes.ended()
  assert time.monotonic() - start < 30
  for code, _, errors in ended:
    assert code and 'died' not in errors, (code, errors)

import json
import math
import struct

from hypothesis import given
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import workdir
from hh_jax.errors import InputError

CONFIG = {'seed': 1, 'pm': {'lr': 0.001, 'sizes': (1, 2)}, 'note': None}


def _one_line(error: pytest.ExceptionInfo) -> str:
  message = str(error.value)
  assert '\n' not in message
  return message


def test_open_run_writes_what_the_run_is(tmp_path):
  run = workdir.open_run(tmp_path / 'a' / 'b', CONFIG, 'pm')
  assert run == tmp_path / 'a' / 'b'
  written = json.loads((run / 'config.json').read_text())
  assert written == workdir.read_config(run)
  assert written['recipe'] == 'pm'
  assert written['config'] == {
    'seed': 1,
    'pm': {'lr': 0.001, 'sizes': [1, 2]},
    'note': None,
  }
  assert {'python', 'jax', 'flax'} <= written['versions'].keys()
  assert written['started'].endswith('+00:00')
  assert [p.name for p in run.iterdir()] == ['config.json']


def test_git_commit_is_a_full_hash_or_absent(tmp_path):
  run = workdir.open_run(tmp_path / 'run', CONFIG, 'pm')
  commit = workdir.read_config(run)['git_commit']
  assert commit is None or len(commit.removesuffix('-dirty')) == 40


def test_equal_run_resumes_and_keeps_the_file(tmp_path):
  workdir.open_run(tmp_path, CONFIG, 'pm')
  before = (tmp_path / 'config.json').read_bytes()
  (tmp_path / 'metrics.jsonl').write_text('')
  assert workdir.open_run(tmp_path, CONFIG, 'pm') == tmp_path
  assert (tmp_path / 'config.json').read_bytes() == before


def test_what_may_change_is_written_down_until_the_run_has_ended(tmp_path):
  def reopen(lr, **others):
    config = {**CONFIG, 'pm': {'lr': lr, 'sizes': (1, 2)}, **others}
    workdir.open_run(tmp_path, config, 'pm', may_change=('pm.lr',))
    return workdir.read_config(tmp_path)

  before = reopen(0.001)
  after = reopen(0.002)
  assert after['config'].pop('pm') == {'lr': 0.002, 'sizes': [1, 2]}
  assert before['config'].pop('pm') == {'lr': 0.001, 'sizes': [1, 2]}
  assert after == before
  with pytest.raises(InputError, match='seed is 1 there, 2 here'):
    reopen(0.003, seed=2)
  workdir.write_summary(tmp_path, {})
  assert reopen(0.004)['config']['pm']['lr'] == 0.002


@pytest.mark.parametrize(
  ('config', 'recipe', 'expected'),
  [
    (
      {**CONFIG, 'pm': {'lr': 0.003, 'sizes': (1, 2)}},
      'pm',
      'pm.lr is 0.001 there, 0.003 here',
    ),
    ({**CONFIG, 'new': 'x'}, 'pm', 'new is unset there, "x" here'),
    ({'seed': 1, 'note': None}, 'pm', 'pm.lr is 0.001 there, unset here'),
    ({**CONFIG, 'seed': True}, 'pm', 'seed is 1 there, true here'),
    (CONFIG, 'ppo', 'recipe is "pm" there, "ppo" here'),
  ],
)
def test_another_run_is_refused_by_its_first_difference(
  tmp_path, config, recipe, expected
):
  workdir.open_run(tmp_path, CONFIG, 'pm')
  with pytest.raises(InputError) as error:
    workdir.open_run(tmp_path, config, recipe)
  assert _one_line(error) == (
    f'{tmp_path} holds another run: {expected}; '
    'name another --workdir, or delete this one'
  )


def test_strange_directories_are_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(InputError, match=r'no run directory.*thesis\.tex'):
    workdir.open_run(tmp_path, CONFIG, 'pm')
  with pytest.raises(InputError, match='is a file'):
    workdir.open_run(tmp_path / 'thesis.tex', CONFIG, 'pm')
  with pytest.raises(InputError) as error:
    workdir.open_run(tmp_path / 'thesis.tex' / 'run', CONFIG, 'pm')
  assert 'Not a directory' in _one_line(error)


def test_a_run_that_died_while_opening_starts_again(tmp_path):
  (tmp_path / '.config.json.tmp').write_text('{"rec')
  workdir.open_run(tmp_path, CONFIG, 'pm')
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (None, 'does not exist'),
    ('{"recipe": ', 'is not JSON'),
    ('\udcff', 'is not JSON'),
    ('[1]', 'holds a list'),
    ('{"recipe": "pm"}', "'config' is missing"),
  ],
)
def test_read_config_names_the_broken_file(tmp_path, text, expected):
  if text is not None:
    raw = text.encode('utf-8', 'surrogateescape')
    (tmp_path / 'config.json').write_bytes(raw)
  with pytest.raises(InputError) as error:
    workdir.read_config(tmp_path)
  assert expected in _one_line(error)
  assert 'config.json' in _one_line(error)


def test_summary_marks_the_run_as_finished(tmp_path):
  assert not workdir.is_finished(tmp_path)
  with pytest.raises(InputError, match=r'summary\.json does not exist'):
    workdir.read_summary(tmp_path)
  workdir.write_summary(tmp_path, {'b': np.float32(0.1), 'a': jnp.int32(3)})
  assert workdir.is_finished(tmp_path)
  assert workdir.read_summary(tmp_path) == {'a': 3, 'b': 0.10000000149011612}
  text = (tmp_path / 'summary.json').read_text()
  assert text == '{\n  "a": 3,\n  "b": 0.10000000149011612\n}\n'


@given(
  st.dictionaries(
    st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.integers()
  )
)
def test_numbers_come_back_bit_for_bit(tmp_path_factory, numbers):
  path = tmp_path_factory.getbasetemp() / 'summaries'
  path.mkdir(exist_ok=True)
  workdir.write_summary(path, numbers)
  first = (path / 'summary.json').read_bytes()
  back = workdir.read_summary(path)
  for key, value in numbers.items():
    assert type(back[key]) is type(value)
    if isinstance(value, float):
      assert struct.pack('d', back[key]) == struct.pack('d', value)
    else:
      assert back[key] == value
  workdir.write_summary(path, dict(reversed(back.items())))
  assert (path / 'summary.json').read_bytes() == first


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    (math.nan, 'summary.pm.x is nan'),
    (np.float32('inf'), 'summary.pm.x is inf'),
    (np.zeros(2), 'summary.pm.x is a ndarray'),
    ([1, {2}], r'summary.pm.x\[1\] is a set'),
    ({1: 2}, 'summary.pm.x: the key 1'),
  ],
)
def test_what_json_cannot_hold_is_refused(tmp_path, value, expected):
  with pytest.raises(InputError, match=expected):
    workdir.write_summary(tmp_path, {'pm': {'x': value}})
  assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  workdir.write_bytes(tmp_path / 'x', b'old')

  def full_disk(fd):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(workdir.os, 'fsync', full_disk)
  with pytest.raises(OSError, match='No space'):
    workdir.write_bytes(tmp_path / 'x', b'new')
  assert (tmp_path / 'x').read_bytes() == b'old'


def test_rows_come_back_as_they_were_written(tmp_path):
  rows = [{'a': 1.5, 'b': 'é\n'}, {'a': None}]
  workdir.write_rows(tmp_path / 'x.jsonl', iter(rows))
  assert (tmp_path / 'x.jsonl').read_text().count('\n') == 2
  assert workdir.read_rows(tmp_path / 'x.jsonl') == rows
  workdir.write_rows(tmp_path / 'x.jsonl', [])
  assert workdir.read_rows(tmp_path / 'x.jsonl') == []


@pytest.mark.parametrize('error', [InputError('no'), ValueError('no')])
def test_a_run_that_an_error_ended_at_once_is_taken_back(tmp_path, error):
  with pytest.raises(type(error)), workdir.ours(tmp_path / 'r'):
    workdir.open_run(tmp_path / 'r', {'a': 1}, 'pm')
    (tmp_path / 'r' / 'model.json').write_text('{}')
    raise error
  assert not (tmp_path / 'r').exists()

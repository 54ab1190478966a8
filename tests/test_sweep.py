"""Sweeps: what runs, what is left out, what is written."""

import importlib.util
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from configs import common
from hh_jax import cli, sweep
from hh_jax.errors import InputError
from tests.recipes import chain as chain_lib

ROOT = pathlib.Path(__file__).parents[1]
BASE = chain_lib.TINY


def config_of(*cells, **changes):
  settings = common.sweep('tokenizer', f'{BASE}:tokenizer', cells, **changes)
  return settings.lock()


def command(config_file, workdir, *flags):
  return [
    sys.executable, '-m', 'hh_jax', 'sweep', f'--config={config_file}',
    f'--workdir={workdir}', *flags,
  ]  # fmt: skip


def sweep_file(path, recipe, size, cells, **changes):
  file = path / 'cells.py'
  file.write_text(
    'from configs import common\n'
    'def get_config():\n'
    f'  return common.sweep({recipe!r}, {BASE + ":" + size!r}, {cells!r},\n'
    f'    **{changes!r})\n'
  )
  return file


def test_grid():
  assert common.grid(size=('a', 'b'), x__y=(1, 0.5)) == (
    'size=a x.y=1', 'size=a x.y=0.5', 'size=b x.y=1', 'size=b x.y=0.5'
  )  # fmt: skip


def test_cells_and_their_table(tmp_path, capsys):
  config = config_of(
    'vocab_size=400', 'vocab_size=380 max_documents=30', columns=('vocab_size',)
  )
  summary = sweep.run(config, str(tmp_path / 's'))
  assert summary == {'cells': 2}
  rows = chain_lib.rows(tmp_path / 's' / sweep.RESULTS)
  assert [row['vocab_size'] for row in rows] == [400, 380]
  assert rows[1]['overrides'] == {'vocab_size': '380', 'max_documents': '30'}
  table = (tmp_path / 's' / sweep.TABLE).read_text()
  assert capsys.readouterr().out == table
  assert table.splitlines() == [
    '| vocab_size | max_documents | vocab_size |',
    '| --- | --- | --- |',
    '| 400 |  | 400 |',
    '| 380 | 30 | 380 |',
  ]


def test_finished_cells_are_not_run_again(tmp_path, monkeypatch):
  first = config_of('vocab_size=400')
  sweep.run(first, str(tmp_path / 's'))
  started = []
  start = sweep._start
  monkeypatch.setattr(
    sweep, '_start', lambda cell, *rest: started.append(cell.name)
    or start(cell, *rest)
  )  # fmt: skip
  both = config_of('vocab_size=400', 'vocab_size=380')
  sweep.run(both, str(tmp_path / 's'))
  assert started == ['vocab_size=380']
  assert len(chain_lib.rows(tmp_path / 's' / sweep.RESULTS)) == 2
  with both.unlocked():  # of all cells: another sweep
    both.overrides += ' data.options.seed=1'
  with pytest.raises(InputError, match='overrides'):
    sweep.run(both, str(tmp_path / 's'))


def test_a_failed_cell_does_not_stop_the_others(tmp_path):
  config = config_of('vocab_size=9999', 'vocab_size=400')
  with pytest.raises(InputError, match='1 of 2 cells failed, .*9999') as error:
    sweep.run(config, str(tmp_path / 's'))
  assert 'hh_jax: error: ' in str(error.value)
  rows = chain_lib.rows(tmp_path / 's' / sweep.RESULTS)
  assert [row['cell'] for row in rows] == ['vocab_size=400']
  assert not (tmp_path / 's' / 'summary.json').exists()


@pytest.mark.parametrize(
  ('cells', 'changes', 'says'),
  [
    ((), {}, 'cells is empty'),
    (('vocab_size=1 vocab_size=2',), {}, 'or is there twice'),
    (('seed',), {}, 'is no KEY=VALUE'),
    (('vocab_siz=1',), {}, "cell 'vocab_siz=1': no config key"),
    (('vocab_size=a',), {}, 'takes an integer'),
    (('vocab_size=1', 'vocab_size=1'), {}, 'has .* twice'),
    (('vocab_size=1',), {'on': 'cloud'}, 'config.on'),
    (('vocab_size=1',), {'on': 'slurm'}, 'there is no sbatch here'),
    (('vocab_size=1',), {'jobs': 0}, 'config.jobs 0 is not 1'),
    (('vocab_size=1',), {'on': 'xpk', 'jobs': 2}, 'jobs 2 is not for .*=xpk'),
    (('vocab_size=1',), {'on': 'xpk', 'gpus': 2}, 'gpus 2 is for .*=local'),
    (('vocab_size=400',), {'gpus': 2}, 'gpus 2 is more than .* has, 1'),
    (('vocab_size=1',), {'gpus': 1, 'jobs': 3}, 'jobs 3 is not for .*gpus=1'),
    (('vocab_size=1',), {'recipe': 'sweep'}, 'is no recipe'),
  ],
)
def test_mistakes_are_found_before_anything_runs(
  tmp_path, monkeypatch, cells, changes, says
):
  config = config_of(*cells)
  config.unlock()
  config.update(changes)
  monkeypatch.setenv('PATH', '')
  monkeypatch.setattr(sweep.host, 'num_gpus', lambda: 1)
  with pytest.raises(InputError, match=says):
    sweep.run(config, str(tmp_path / 's'))
  assert not (tmp_path / 's').exists()


def test_cells_for_gke_are_commands_until_they_are_finished(tmp_path, capsys):
  root = tmp_path / 's'
  config = config_of('vocab_size=400', 'vocab_size=380', on='xpk')
  with pytest.raises(InputError, match='xpk needs --config.xpk.cluster'):
    sweep.run(config, str(root))
  with config.unlocked():
    config.xpk.update(cluster='c', tpu_type='v5p-8', image='i', restarts=0)
  with pytest.raises(InputError, match='lost with its container'):
    sweep.run(config, 'runs/s')
  assert sweep.run(config, str(root)) == {'cells': 2, 'waiting': 2}
  lines = (root / sweep.XPK).read_text().splitlines()
  words = [shlex.split(line) for line in lines if not line.startswith('#')]
  assert [of[:3] for of in words] == [['xpk', 'workload', 'create']] * 2
  assert f'--workdir={root}/vocab_size=380' in words[1][-1]
  assert '--max-restarts=0' in words[0]
  with config.unlocked():
    config.on = 'local'
  sweep.run(config, str(root))
  with config.unlocked():
    config.on = 'xpk'
  assert sweep.run(config, str(root)) == {'cells': 2}
  assert 'xpk workload create' not in (root / sweep.XPK).read_text()
  assert 'vocab_size' in capsys.readouterr().out


def test_only_slurm_needs_submitit(tmp_path, monkeypatch):
  monkeypatch.setattr(sweep.importlib.util, 'find_spec', lambda name: None)
  config = config_of('vocab_size=400', on='xpk')
  with config.unlocked():
    config.xpk.update(cluster='c', tpu_type='v5p-8', image='i')
  assert len(sweep.check(config, tmp_path / 's')) == 1
  config.on = 'submitit-local'
  with pytest.raises(InputError, match='submitit-local needs submitit'):
    sweep.check(config, tmp_path / 's')


def test_two_at_a_time(tmp_path, monkeypatch):
  """Each waits for the other, so one after the other would not end."""
  for name in 'ab':
    (tmp_path / f'{name}.py').write_text(
      'import pathlib, sys, time\n'
      'pathlib.Path(sys.argv[1]).touch()\n'
      'while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\n'
    )
  cells = [
    sweep.Cell(
      name=one,
      overrides={},
      command=(
        f'{tmp_path}/{one}.py',
        f'{tmp_path}/{one}',
        f'{tmp_path}/{two}',
      ),
      workdir=tmp_path / one,
      log=tmp_path / f'{one}.log',
    )
    for one, two in ('ab', 'ba')
  ]

  shown = []

  class Bar:
    def update(self, step, numbers):
      shown.append((step, numbers['failed']))

  start = time.monotonic()
  sweep.run_local(cells, jobs=2, gpus=0, bar=Bar())
  assert time.monotonic() - start < 30
  assert shown == [(1, 1), (2, 2)]  # none of them has written a summary


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(tmp_path):
  """SIGINT reaches the cell that runs; the next call takes what is left."""
  cells = ('vocab_size=400', 'vocab_size=380')
  file = sweep_file(tmp_path, 'tokenizer', 'tokenizer', cells)
  process = subprocess.Popen(
    command(file, tmp_path / 's'), cwd=ROOT, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip
  while not (tmp_path / 's' / 'vocab_size=400.log').exists():
    assert process.poll() is None, process.communicate()
    time.sleep(0.02)
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130
  assert err.endswith('interrupted; the same command resumes\n')
  assert not (tmp_path / 's' / 'vocab_size=380.log').exists()
  done = subprocess.run(
    command(file, tmp_path / 's'), cwd=ROOT, text=True, capture_output=True
  )
  assert done.returncode == 0, done.stderr
  summary = json.loads((tmp_path / 's' / 'summary.json').read_text())
  assert summary == {'cells': 2}


@pytest.mark.slow
def test_a_job_array(tmp_path):
  if importlib.util.find_spec('submitit') is None:
    pytest.skip('submitit is not installed')
  cells = 'vocab_size=400', 'vocab_size=380'
  config = config_of(*cells, on='submitit-local')
  assert sweep.run(config, str(tmp_path / 's')) == {'cells': 2}
  rows = chain_lib.rows(tmp_path / 's' / sweep.RESULTS)
  assert [row['vocab_size'] for row in rows] == [400, 380]


def test_the_committed_sweep_is_sound(tmp_path):
  config = cli.load_config(str(ROOT / 'configs' / 'sweep.py'), ())
  cells = sweep.check(config, tmp_path)
  assert len(cells) == 6 and cells[0].overrides['seed'] == '0'

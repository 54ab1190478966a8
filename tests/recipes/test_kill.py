"""Runs that are killed, and end as if they had not been."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from hh_jax import metrics as metrics_lib
from tests import two_processes
from tests.recipes import chain as chain_lib
from tests.recipes import places

ROOT = pathlib.Path(__file__).parents[2]


def start(chain, cache_dir, workdir, death, *flags) -> subprocess.Popen:
  """A process with the devices and settings of this one."""
  stage = workdir.name
  environment = os.environ | {
    'JAX_NUM_CPU_DEVICES': '4',
    'JAX_CPU_ENABLE_ASYNC_DISPATCH': 'false',
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_COMPILATION_CACHE_DIR': str(cache_dir),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
  }
  config = f'--config={chain_lib.TINY}:{stage}'
  return subprocess.Popen(
    [sys.executable, '-m', 'tests.recipes.dying', death, stage, config,
     f'--workdir={workdir}', *chain.links(*places.LINKS[stage]), *flags],
    cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip


def assert_ends_alike(run: pathlib.Path, other: pathlib.Path) -> None:
  """Bit for bit: numbers, replies, parameters, optimizer, data position."""
  for name in ('metrics.jsonl', 'samples.jsonl'):
    if (other / name).exists():
      assert chain_lib.rows(run / name) == chain_lib.rows(other / name)
  name = 'summary.json'
  assert (run / name).read_bytes() == (other / name).read_bytes()
  chain_lib.assert_same_checkpoint(run, other)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('stage', 'deaths'),
  [
    ('pm', ('log:2', 'seal:1', 'seal:2', 'log:3')),
    (
      'ppo',
      ('evaluate:1', 'phase:4', 'phase:3', 'seal:1', 'phase:8', 'phase:2'),
    ),
  ],
)
def test_kill_9_at_any_moment(chain, cache_dir, tmp_path, stage, deaths):
  workdir = tmp_path / stage
  for death in deaths:
    process = start(chain, cache_dir, workdir, death)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, (death, err)
  process = start(chain, cache_dir, workdir, '')
  _, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert_ends_alike(workdir, chain.path / stage)


# Where process 0 and process 1 die; '' does not by itself.
BOTH_DIE, ONE_DIES = ('log:5', 'log:5'), ('', 'log:3')
SAVING, LEARNING = ('seal:1', ''), ('', 'phase:8')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('stage', 'deaths'),
  [('pm', (BOTH_DIE, SAVING, ONE_DIES)), ('ppo', (LEARNING,))],
)
def test_kill_9_of_two_processes(chain, pair, tmp_path, stage, deaths):
  """What is left of them ends as well; both go on as if nothing had been."""
  command = places.argv(chain, stage, tmp_path / stage)
  for points in (*deaths, ('', '')):
    commands = [['-m', 'tests.recipes.dying', p, *command] for p in points]
    with two_processes.Processes(
      *commands, flags=('--heartbeat_timeout=5',)
    ) as processes:
      ended = processes.ended()
    victim = int(bool(points[1]))  # where one of them lives
    for point, (code, _, errors) in zip(points, ended, strict=True):
      if point:
        assert code == -signal.SIGKILL, (points, errors)
      elif any(points):
        assert code not in (0, -signal.SIGKILL), points
        assert re.search(two_processes.DEATHS[victim], errors), errors
      else:
        assert code == 0, errors
  assert_ends_alike(tmp_path / stage, pair.run(stage))


@pytest.mark.parametrize(
  ('stage', 'metric', 'step', 'saved'),
  [('pm', 'train/loss', 2, 3), ('ppo', 'ppo/loss', 1, 4)],
)
def test_sigterm_saves_before_it_ends_a_run(
  chain, run_stage, tmp_path, monkeypatch, stage, metric, step, saved
):
  """Steps between two saves; `saved` is in optimizer steps."""
  write = metrics_lib.MetricsWriter.write

  def terminated(self, at, metrics):
    write(self, at, metrics)
    if at == step and metric in metrics:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patched:
    patched.setattr(metrics_lib.MetricsWriter, 'write', terminated)
    stopped = run_stage(stage)
  assert stopped.code == 143
  assert stopped.err.endswith('terminated; the same command resumes\n')
  _, host = chain_lib.checkpoint(tmp_path / stage, saved)
  assert host
  assert run_stage(stage).code == 0
  assert_ends_alike(tmp_path / stage, chain.path / stage)


def test_two_processes_are_not_at_one_run(
  chain, cache_dir, run_stage, tmp_path
):
  """The other one waits in the middle of a step."""
  workdir = tmp_path / 'pm'
  first = start(chain, cache_dir, workdir, '', '--config.num_epochs=400')
  try:
    metrics = workdir / metrics_lib.METRICS
    while not (metrics.exists() and metrics.stat().st_size):
      assert first.poll() is None, first.communicate()
    second = run_stage('pm', '--config.num_epochs=400')
    assert 'another process is at this run' in second.error
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 143, err
  finally:
    first.kill()
  assert (workdir / 'config.json').exists()

"""Commands for several processes, and several processes."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from hh_jax import launch
from hh_jax.errors import InputError
from tests.recipes import chain as chain_lib

ROOT = pathlib.Path(__file__).parents[1]
PM = ['pm', f'--config={ROOT}/configs/pm.py:13M', '--workdir=runs/A pm_1',
      '--config.optimizer.lr=1e-3']  # fmt: skip


def test_a_slurm_script(tmp_path, capsys):
  assert launch.main(['--on=slurm', '--nodes=4', '--minutes=90', *PM]) == 0
  text = capsys.readouterr().out
  lines = text.splitlines()
  assert lines[0] == '#!/bin/bash'
  for line in ('--nodes=4', '--time=90', '--job-name=pm-a-pm-1', '--requeue'):
    assert f'#SBATCH {line}' in lines
  assert shlex.split(lines[-1])[-len(PM) :] == PM
  script = tmp_path / 'job.sh'
  script.write_text(text)
  subprocess.run(['bash', '-n', script], check=True)


def test_an_xpk_command(capsys):
  options = ['--on=xpk', '--cluster=c', '--tpu-type=v5p-512', '--image=i']
  assert launch.main([*options, *PM]) == 0
  words = shlex.split(capsys.readouterr().out)
  assert words[:3] == ['xpk', 'workload', 'create']
  assert '--workload=pm-a-pm-1' in words and '--tpu-type=v5p-512' in words
  command = words[-1].removeprefix('--command=')
  assert shlex.split(command) == ['python', '-m', 'hh_jax', *PM]


@pytest.mark.parametrize(
  ('argv', 'says'),
  [
    ([], "--on '' is none of local, slurm, xpk"),
    (['--on=moon', *PM], "--on 'moon'"),
    (['--on=slurm', '--nodes=0', *PM], '--nodes takes an integer of 1'),
    (['--on=slurm', '--node=2', *PM], 'launch takes --on=.*, not --node'),
    (['--on=slurm'], 'a recipe with its own'),
    (['--on=slurm', *PM, '--config.optimizer.l=1'], 'no config key'),
    (['--on=slurm', *PM[:2]], '--workdir is missing'),
    (['--on=xpk', '--cluster=c', '--image=i', *PM], 'needs --tpu-type'),
  ],
)
def test_mistakes_are_found_before_a_job_is_queued(argv, says):
  with pytest.raises(InputError, match=says):
    launch.main(argv)


@pytest.mark.slow
def test_two_processes_here(tmp_path):
  """Process 0 writes; a mistake in both is said, and is the exit code."""
  command = [
    sys.executable, '-m', 'hh_jax', 'launch', '--on=local', '--devices=1',
    'tokenizer', f'--config={chain_lib.TINY}:tokenizer',
    f'--workdir={tmp_path / "run"}',
  ]  # fmt: skip
  environment = os.environ | {'NPROC': '16'}
  done = subprocess.run(
    command, cwd=ROOT, env=environment, text=True, capture_output=True
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'run' / 'summary.json').exists()
  failed = subprocess.run(
    [*command, '--config.vocab_size=9999'],
    cwd=ROOT, env=environment, text=True, capture_output=True,
  )  # fmt: skip
  assert failed.returncode == 2
  assert 'holds another run: vocab_size' in failed.stderr

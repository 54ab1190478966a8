"""Commands for several processes, and several processes."""

import os
import pathlib
import re
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
  options = ['--on=slurm', '--nodes=4', '--gpus=4', '--minutes=90']
  assert launch.main([*options, *PM]) == 0
  text = capsys.readouterr().out
  lines = text.splitlines()
  assert lines[0] == '#!/bin/bash'
  for line in ('--nodes=4', '--time=90', '--job-name=pm-a-pm-1', '--requeue'):
    assert f'#SBATCH {line}' in lines
  assert '#SBATCH --gpus-per-node=4' in lines
  launch.main(['--on=slurm', '--gpus=0', *PM])
  assert '--gpus' not in capsys.readouterr().out
  (run,) = (line for line in lines if line.startswith('srun'))
  assert shlex.split(run)[-len(PM) :] == PM


@pytest.mark.parametrize(
  ('code', 'minutes', 'queued'), [(143, 3, 1), (143, 90, 0), (1, 3, 0)]
)
def test_a_slurm_job_queues_itself_again_at_its_limit_alone(
  tmp_path, capsys, code, minutes, queued
):
  """With an srun that ends with `code` at once."""
  launch.main(['--on=slurm', f'--minutes={minutes}', *PM])
  (tmp_path / 'job.sh').write_text(capsys.readouterr().out)
  for name, text in (('srun', f'exit {code}'), ('scontrol', 'echo "$@"')):
    (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
    (tmp_path / name).chmod(0o755)
  path = f'{tmp_path}:{os.environ["PATH"]}'
  done = subprocess.run(
    ['bash', tmp_path / 'job.sh'], capture_output=True, text=True,
    env=os.environ | {'PATH': path, 'SLURM_JOB_ID': '7'},
  )  # fmt: skip
  assert (done.returncode, done.stderr) == (code, '')
  assert done.stdout == 'requeue 7\n' * queued


PPO = ['ppo', f'--config={ROOT}/configs/ppo.py:13M', '--workdir=runs/a']
DISTILL = ['distill', f'--config={ROOT}/configs/distill.py:13M',
           '--workdir=runs/a']  # fmt: skip
PIPELINE = ['pipeline', f'--config={ROOT}/configs/demo.py', '--workdir=runs/a']
MOUNTED = [*PM[:2], '--workdir=/disk/A pm_1', *PM[3:]]


def test_an_xpk_command(capsys):
  options = ['--on=xpk', '--cluster=c', '--tpu-type=v5p-512', '--image=i']
  assert launch.main([*options, *MOUNTED]) == 0
  words = shlex.split(capsys.readouterr().out)
  assert words[:3] == ['xpk', 'workload', 'create']
  assert words[4].startswith('--workload=pm-a-pm-1-')
  assert '--tpu-type=v5p-512' in words
  assert '--max-restarts=10' in words
  command = words[-1].removeprefix('--command=')
  assert shlex.split(command) == ['python', '-m', 'hh_jax', *MOUNTED]


@pytest.mark.parametrize(
  'runs',
  [
    ('size=13M,optimizer.learning_rate=0.001,seed=0',
     'size=13M,optimizer.learning_rate=0.001,seed=1'),
    ('lr=1', 'lr=-1'),
    ('a_b', 'a-b'),
    ('A', 'a'),
    ('one/pm', 'two/pm'),
  ],
)  # fmt: skip
def test_names_of_workloads_stay_apart(capsys, runs):
  options = ['--on=xpk', '--cluster=c', '--tpu-type=v5p-8', '--image=i']
  names = []
  for run in runs:
    launch.main([*options, *MOUNTED[:2], f'--workdir=/disk/{run}'])
    names.append(shlex.split(capsys.readouterr().out)[4].partition('=')[2])
  assert names[0] != names[1]
  assert all(re.fullmatch('[a-z][a-z0-9-]{0,39}', name) for name in names)


@pytest.mark.parametrize(
  ('argv', 'says'),
  [
    ([], "--on '' is none of local, slurm, xpk"),
    (['--on=moon', *PM], "--on 'moon'"),
    (['--on=slurm', '--nodes=0', *PM], '--nodes takes an integer of 1'),
    (['--on=slurm', '--gpus=-1', *PM], '--gpus takes an integer of 0'),
    (['--on=slurm', '--node=2', *PM], 'has no option --node: nearest: --nodes'),
    (['--on', 'slurm', *PM], 'write --on=VALUE'),
    (['--on=slurm', 'plan', *PM[1:]], 'plan runs here'),
    (['--on=slurm'], 'a recipe with its own'),
    (['--on=slurm', *PM, '--config.optimizer.l=1'], 'no config key'),
    (['--on=slurm', *PM[:2]], '--workdir is missing'),
    (['--on=xpk', '--cluster=c', '--image=i', *MOUNTED], 'needs --tpu-type'),
    (['--on=xpk', *PM], 'runs/A pm_1 would be lost with its container'),
    (['--on=xpk', '--slices=2', *MOUNTED], 'data 1 is not a multiple of --sli'),
    (
      ['--on=slurm', '--processes=2', *PM],
      '--processes is no option of --on=s',
    ),
    (['--on=slurm', '--minutes=2', *PM], 'minutes 2 leaves no time before the'),
    (
      ['--on=slurm', *PM, '--config.mesh.model=5'],
      'does not lay out 8 devices',
    ),
    (['--on=slurm', *PM, '--config.mesh.fsdp=4'], 'does not lay out 8 devices'),
    (['--on=slurm', *PM, '--config.mesh.data=0'], 'has an axis below 1'),
    (['--on=slurm', *PM, '--config.mesh.fsdp=0'], 'has an axis below 1'),
    (['--on=slurm', *PM, '--config.mesh.fsdp=-5'], 'has an axis below 1'),
    (
      ['--on=slurm', '--nodes=4', *PM],
      'pm: config.batch_size 16 is not divisible by fsdp=32',
    ),
    (
      ['--on=xpk', *MOUNTED, '--config.mesh.fsdp=3'],
      'batch_size 16 is not divisible by fsdp=3',
    ),
    (  # on however many chips
      ['--on=xpk', *MOUNTED, '--config.num_micro_batches=3'],
      'batch_size 16 is not divisible by num_micro_batches=3 x fsdp=1',
    ),
    (
      ['--on=slurm', *PPO, '--config.num_micro_batches=3'],
      'num_micro_batches=3 x fsdp=8',
    ),
    (
      ['--on=slurm', *DISTILL, '--config.teacher_batch_size=12'],
      'distill: config.teacher_batch_size 12 is not divisible by fsdp=8',
    ),
    (
      ['--on=slurm', *PIPELINE, '--config.best_of_n.batch_size=12'],
      'best_of_n: config.batch_size 12 is not divisible by fsdp=8',
    ),
    (
      ['--on=xpk', *MOUNTED, '--config.init_from=runs/lm'],
      'init_from runs/lm is not in the container',
    ),
    (
      ['--on=slurm', *PIPELINE, '--config.pm.mesh.model=5'],
      'pm: config.mesh does not lay out 8 devices',
    ),
    (['--on=slurm', 'sweep'], 'a sweep launches its own cells'),
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

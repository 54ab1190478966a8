"""Two processes of two devices each do what one process of four does."""

import math
import pathlib

import pytest

from tests import two_processes
from tests.recipes import chain as chain_lib

LINKS = {
  'pretrain': ('tokenizer',),
  'pm': ('tokenizer', 'init_from=pretrain'),
  'ppo': ('tokenizer', 'init_from=pretrain', 'pm', 'heldout_pm'),
}
# XLA's CPU runtime starts collectives in one order, but not those inside loops
# that do not depend on each other: layers of policy, value and PM in scans.
FLAGS = {
  'ppo': ('--config.model.scan_unroll=2', '--config.pm_model.scan_unroll=2')
}
# Sums of float32 in another order; of three PPO iterations at a large rate.
TOLERANCE = {'rel_tol': 2e-4, 'abs_tol': 2e-5}


def arguments(stage: str, workdir: pathlib.Path, *flags: str) -> list[str]:
  config = f'--config={chain_lib.TINY}:{stage}'
  return ['-m', 'hh_jax', stage, config, f'--workdir={workdir}', *flags]


@pytest.mark.slow
@pytest.mark.parametrize('stage', LINKS)
def test_two_processes_write_what_one_does(chain, tmp_path, stage):
  command = arguments(
    *(stage, tmp_path / stage),
    *chain.links(*LINKS[stage]),
    *FLAGS.get(stage, ()),
  )
  with two_processes.Processes(command, command) as processes:
    (code, out, errors), (other_code, other_out, other_errors) = (
      processes.ended()
    )
  assert (code, out) == (other_code, other_out) == (0, ''), errors
  assert errors and not other_errors  # process 0 alone displays
  here, there = tmp_path / stage, chain.path / stage
  assert files(here) == files(there)
  lines = [chain_lib.rows(run / 'metrics.jsonl') for run in (here, there)]
  assert len(lines[0]) == len(lines[1])
  for line, expected in zip(*lines, strict=True):
    assert_close(line, expected)


def files(run: pathlib.Path) -> list[str]:
  """Names of a run's own files, and of its checkpoints."""
  return sorted(p.name for p in [*run.iterdir(), *run.glob('checkpoints/*')])


def assert_close(line: dict, expected: dict) -> None:
  assert line.keys() == expected.keys()
  off = {
    name: (line[name], value)
    for name, value in expected.items()
    if not math.isclose(line[name], value, **TOLERANCE)
  }
  assert not off, (line['step'], off)


def test_a_wrong_option_of_one_process_is_named_by_both(chain, tmp_path):
  command = arguments('pm', tmp_path / 'run', *chain.links('tokenizer'))
  other = [*command, '--config.seed=1']
  with two_processes.Processes(command, other) as processes:
    ended = processes.ended()
  error = (
    f'hh_jax: error: {tmp_path}/run holds another run: seed is 0 there, 1 '
    'here; name another --workdir, or delete this one\n'
  )
  assert ended == [(2, '', error)] * 2
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_that_is_killed_ends_the_other(chain, tmp_path, victim):
  command = arguments(
    'pretrain', tmp_path / 'run', *chain.links('tokenizer'),
    '--config.num_steps=100000', '--config.save_every=100000',
    '--config.eval_every=100000',
  )  # fmt: skip
  with two_processes.Processes(
    command, command, flags=('--heartbeat_timeout=5',)
  ) as processes:
    two_processes.wait_for(tmp_path / 'run' / 'metrics.jsonl')
    processes.running[victim].kill()
    ended = processes.ended(timeout=60)
  code, _, errors = ended[1 - victim]
  assert code != 0
  said = 'unhealthy (stopped sending heartbeats):\n1\n' if victim else 'leader'
  assert said in errors, errors


def test_a_process_that_never_comes_is_named(tmp_path):
  command = arguments('tokenizer', tmp_path / 'run', '--startup_timeout=2')
  with two_processes.Processes(command, ['-c', '']) as processes:
    (code, out, error), _ = processes.ended()
  assert (code, out) == (2, '')
  assert error.startswith('hh_jax: error: 1 of 2 processes did not come to ')
  assert error.endswith(' in 2 s: process_id 1\n')
  assert not (tmp_path / 'run').exists()

"""Where a process belongs; several of them: recipes/test_distributed.py."""

import pytest

from hh_jax import cli, distributed, rollcall
from hh_jax.errors import InputError

SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_STEP_NODELIST': 'node[003-005]',
  'SLURM_NTASKS': '3',
  'SLURM_PROCID': '2',
  'SLURM_LOCALID': '0',
  'SLURM_STEP_NUM_NODES': '3',
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
  for name in (*SLURM, *distributed.ENVIRONMENT.values()):
    monkeypatch.delenv(name, raising=False)


def asked(*flags: str) -> distributed.Asked:
  required = ['fake', '--config=x.py', '--workdir=d']
  return cli.parse([*required, *flags], ['fake']).processes


def test_one_process_where_nothing_says_otherwise():
  assert distributed._find(asked()) is None
  with distributed.session(asked()):
    assert distributed.is_writer() and distributed.num_processes() == 1


def test_slurm(monkeypatch):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  # jax: the first node, and a port from the number of the job
  place = rollcall.Place('node003:61447', 3, 2, None)
  assert distributed._find(asked()) == place  # all devices of its node
  monkeypatch.setenv('SLURM_STEP_NUM_NODES', '1')
  monkeypatch.setenv('SLURM_LOCALID', '2')
  assert distributed._find(asked()).local_devices == [2]
  monkeypatch.setenv('SLURM_NTASKS', '1')
  monkeypatch.setenv('SLURM_PROCID', '0')
  assert distributed._find(asked()) is None


def test_flags_come_before_the_environment(monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'there:1')
  monkeypatch.setenv('JAX_NUM_PROCESSES', '4')
  flags = asked('--coordinator=here:2', '--process_id=3')
  assert distributed._find(flags) == rollcall.Place('here:2', 4, 3)


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--coordinator=a:1'], '--num_processes and --process_id missing: '),
    (['--process_id=1'], '--coordinator and --num_processes missing: '),
    (['--num_processes=x'], "--num_processes takes an integer, not 'x'"),
    (['--startup_timeout=-1'], "--startup_timeout takes an integer, not '-1'"),
    (
      ['--coordinator=a:1', '--num_processes=2', '--process_id=2'],
      'process_id 2 is not in 0 .. 1',
    ),
  ],
)
def test_flags_that_make_no_whole(flags, said):
  with pytest.raises(InputError, match=said):
    distributed._find(asked(*flags))


def test_what_one_process_does_alone():
  done = []
  distributed.by_writer(lambda: distributed.by_all(lambda: done.append(1)))
  distributed.wait_for_writer()
  assert done == [1]
  with pytest.raises(InputError, match='why'):
    distributed.by_writer(_refuse)


def _refuse() -> None:
  raise InputError('why')

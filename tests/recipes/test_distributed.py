"""One device, and two processes of two devices, do what four devices do."""

from collections.abc import Iterator
import gzip
import json
import math
import pathlib
import re
from typing import Any

import pytest

from tests import two_processes
from tests.recipes import chain as chain_lib
from tests.recipes import places

# Sums of float32 in another order; of three PPO iterations at a large rate.
TOLERANCE = {'rel_tol': 2e-4, 'abs_tol': 2e-5}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('place', 'recipe'),
  [
    (place, recipe)
    for place in ('one', 'pair')
    for recipe in (*places.IN_CHAIN, *places.ALONE)
    # what `sample` does on two processes: test_process_0_alone_prints
    if (place, recipe) != ('pair', 'sample')
  ],
)
def test_a_run_is_what_it_is_on_four_devices(request, chain, place, recipe):
  there = chain.path
  if recipe in places.ALONE:
    there = request.getfixturevalue('four').path
  here = request.getfixturevalue(place).run(recipe)
  assert_like(here, there / recipe)


@pytest.mark.slow
@pytest.mark.parametrize('recipe', places.RESUMED)
def test_a_run_goes_on_on_other_devices(chain, four, one, pair, recipe):
  """Begun on four, then on one; ended by two processes."""
  name = f'{recipe}_resumed'
  said = [d[name].code for place in (four, one, pair) for d in place.said]
  assert said == [143, 143, 0, 0]
  assert_like(pair.path / name, chain.path / recipe)


@pytest.mark.slow
@pytest.mark.parametrize('recipe', places.RESUMED)
def test_a_model_split_over_two_processes(chain, pair, recipe):
  assert_like(pair.run(f'{recipe}_split'), chain.path / recipe)


@pytest.mark.slow
def test_slots_of_two_processes_draw_the_same(chain, pair):
  assert_like(pair.run('ppo_slots'), chain.path / 'ppo')


def assert_like(run: pathlib.Path, other: pathlib.Path) -> None:
  """The same files, texts and, but for rounding, numbers."""
  assert files(run) == files(other)
  compared = 0
  for path in sorted(other.iterdir()):
    if path.name in SAME:
      compared += 1
      assert_close(read(run / path.name), read(path), path.name)
  assert compared


SAME = (
  'metrics.jsonl',
  'summary.json',
  'samples.jsonl',
  'eval.jsonl',
  'data_report.json',
  'attempts.jsonl',
  'prompts.jsonl.gz',
)


def read(path: pathlib.Path) -> list[Any]:
  data = path.read_bytes()
  text = (gzip.decompress(data) if path.suffix == '.gz' else data).decode()
  lines = text.splitlines() if 'jsonl' in path.name else [text]
  return [json.loads(line) for line in lines]


def files(run: pathlib.Path) -> list[str]:
  """Names of a run's own files, and of its checkpoints."""
  return sorted(p.name for p in [*run.iterdir(), *run.glob('checkpoints/*')])


def assert_close(found: Any, expected: Any, name: str) -> None:
  found, expected = dict(leaves(found)), dict(leaves(expected))
  assert found.keys() == expected.keys(), name
  off = {
    where: (found[where], value)
    for where, value in expected.items()
    # in bins: rounding moves a pair to the next one (its score is compared)
    if not where.endswith('/ece') and not is_close(found[where], value)
  }
  assert not off, (name, off)


def leaves(value: Any, where: str = '') -> Iterator[tuple[str, Any]]:
  """Numbers and texts in nested JSON, without times."""
  if isinstance(value, dict | list):
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in pairs:
      if key not in chain_lib.TIMES:
        yield from leaves(part, f'{where}/{key}')
  else:
    yield where, value


def is_close(found: Any, expected: Any) -> bool:
  if isinstance(expected, float) and isinstance(found, float):
    return math.isclose(found, expected, **TOLERANCE)
  return found == expected


@pytest.mark.slow
def test_process_0_alone_prints(chain, four, tmp_path):
  command = places.argv(chain, 'sample', tmp_path / 'sample')
  command = ['-m', 'hh_jax', *command]
  with two_processes.Processes(command, command) as processes:
    (code, out, errors), other = processes.ended()
  assert (code, out) == (0, four.said[0]['sample'].out), errors
  assert out and other == (0, '', '')


def arguments(stage: str, workdir: pathlib.Path, *flags: str) -> list[str]:
  config = f'--config={chain_lib.TINY}:{stage}'
  return ['-m', 'hh_jax', stage, config, f'--workdir={workdir}', *flags]


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
  assert re.search(two_processes.DEATHS[victim], errors), errors


def test_a_process_that_never_comes_is_named(tmp_path):
  command = arguments('tokenizer', tmp_path / 'run', '--startup_timeout=2')
  with two_processes.Processes(command, ['-c', '']) as processes:
    (code, out, error), _ = processes.ended()
  assert (code, out) == (2, '')
  assert error.startswith('hh_jax: error: 1 of 2 processes did not come to ')
  assert error.endswith(' in 2 s: process_id 1\n')
  assert not (tmp_path / 'run').exists()

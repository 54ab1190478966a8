"""The whole chain, run once through the command line, for many tests."""

from collections.abc import Callable, Iterator
import dataclasses
import fcntl
import json
import os
import pathlib

import pytest

from tests.recipes import chain as chain_lib


@pytest.fixture(scope='session')
def shared_dir(tmp_path_factory) -> pathlib.Path:
  """A folder that all workers of pytest-xdist see."""
  path = tmp_path_factory.getbasetemp()
  return path.parent if 'PYTEST_XDIST_WORKER' in os.environ else path


@pytest.fixture(scope='session')
def cache_dir(shared_dir) -> pathlib.Path:
  path = shared_dir / 'compiled'
  path.mkdir(exist_ok=True)
  return path


@pytest.fixture(autouse=True)
def settings(cache_dir) -> Iterator[None]:
  with chain_lib.recipe_settings(cache_dir):
    yield


@pytest.fixture(scope='session')
def chain(cache_dir, shared_dir) -> chain_lib.Chain:
  """The pipeline of tiny.py, run by the first worker that asks for it."""
  path, said = shared_dir / 'chain', shared_dir / 'chain.json'
  with open(shared_dir / 'chain.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not said.exists():
      with chain_lib.recipe_settings(cache_dir):
        done = chain_lib.run('pipeline', f'--workdir={path}')
      said.write_text(json.dumps(dataclasses.asdict(done)))
  done = chain_lib.Done(**json.loads(said.read_text()))
  assert done.code == 0, done.err
  return chain_lib.Chain(path, done)


@pytest.fixture
def run_stage(chain, tmp_path) -> Callable[..., chain_lib.Done]:
  """Runs one stage on the chain's runs, in tmp_path/STAGE; flags override."""
  links = {
    'tokenizer': (),
    'pretrain': ('tokenizer',),
    'pmp': ('tokenizer', 'init_from=pretrain'),
    'pm': ('tokenizer', 'init_from=pretrain'),
    'ppo': ('tokenizer', 'init_from=pretrain', 'pm', 'heldout_pm'),
    'best_of_n': ('tokenizer', 'run=pretrain', 'pm', 'heldout_pm'),
    'distill': ('tokenizer', 'init_from=pretrain', 'teacher=pretrain'),
    'sft': ('tokenizer', 'init_from=pretrain'),
    'prompts': ('tokenizer', 'init_from=pretrain'),
  }

  def run(stage: str, *flags: object) -> chain_lib.Done:
    where = f'--workdir={tmp_path / stage}'
    recipe = stage.removesuffix('_hh')
    return chain_lib.run(
      recipe, where, *chain.links(*links[recipe]), *flags, size=stage
    )

  return run

"""The whole chain, run once through the command line, for many tests."""

from collections.abc import Callable, Iterator
import dataclasses
import fcntl
import json
import os
import pathlib

import pytest

from tests.recipes import chain as chain_lib
from tests.recipes import places


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


@pytest.fixture(scope='session')
def four(chain, cache_dir, shared_dir) -> places.Place:
  """This process: what is beside the chain, and beginnings of other places."""
  path = shared_dir / 'four'
  return places.once(path, lambda: places.here(chain, path, cache_dir))


@pytest.fixture(scope='session')
def one(chain, four, cache_dir, shared_dir) -> places.Place:
  """All recipes in a process with one device."""
  path = shared_dir / 'one'
  return places.once(
    path,
    lambda: places.elsewhere(
      chain, four, path, processes=1, devices=1, cache=cache_dir
    ),
  )


@pytest.fixture(scope='session')
def pair(chain, one, cache_dir, shared_dir) -> places.Place:
  """All recipes in two processes of two devices each."""
  path = shared_dir / 'pair'
  return places.once(
    path,
    lambda: places.elsewhere(
      chain, one, path, processes=2, devices=2, cache=cache_dir
    ),
  )


@pytest.fixture
def run_stage(chain, tmp_path) -> Callable[..., chain_lib.Done]:
  """Runs one stage on the chain's runs, in tmp_path/STAGE; flags override."""

  def run(stage: str, *flags: object) -> chain_lib.Done:
    where = f'--workdir={tmp_path / stage}'
    recipe = stage.removesuffix('_hh')
    return chain_lib.run(
      recipe, where, *chain.links(*places.LINKS[recipe]), *flags, size=stage
    )

  return run

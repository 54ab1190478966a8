"""The command line on a tiny config, and what it left, for the tests here."""

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
from typing import Any

import chex
import jax
from jax.experimental.compilation_cache import compilation_cache
import orbax.checkpoint as ocp

from hh_jax import __main__ as main_lib

TIMES = ('time', 'train/idle_share')  # in metrics.jsonl
TINY = str(pathlib.Path(__file__).with_name('tiny.py'))


@dataclasses.dataclass(frozen=True)
class Done:
  """What a command left: exit code, stdout, stderr."""

  code: int
  out: str
  err: str

  @property
  def error(self) -> str:
    """The only line on stderr of a refused command."""
    assert (self.code, self.out) == (2, ''), self
    assert self.err.startswith('hh_jax: error: '), self.err
    assert self.err.count('\n') == 1 and self.err.endswith('\n'), self.err
    return self.err.removeprefix('hh_jax: error: ').strip()

  @property
  def error_line(self) -> str:
    """The last line on stderr of a command that failed on its way."""
    assert (self.code, self.out) == (2, ''), self
    *_, line = self.err.splitlines()
    assert line.startswith('hh_jax: error: '), self.err
    return line


@dataclasses.dataclass(frozen=True)
class Chain:
  """A finished pipeline run and the command that made it."""

  path: pathlib.Path
  done: Done

  def links(self, *names: str) -> list[str]:
    """Flags that name its runs: 'tokenizer', 'pm', or 'init_from=pretrain'."""
    pairs = [name.partition('=') for name in names]
    return [f'--config.{a}={self.path / (b or a)}' for a, _, b in pairs]


def run(recipe: str, *flags: object, size: str = '') -> Done:
  """Runs `python -m hh_jax RECIPE --config=tiny.py:SIZE FLAGS` in process."""
  config = f'--config={TINY}:{size}' if size else f'--config={TINY}'
  return command([recipe, config, *map(str, flags)])


def command(argv: list[str]) -> Done:
  """Runs `python -m hh_jax ARGV` in process."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main_lib.main(argv)
  return Done(code, out.getvalue(), err.getvalue())


def tree_hash(path: pathlib.Path) -> dict[str, str]:
  """sha256 of every file below a directory, by its path there."""
  return {
    str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in sorted(path.rglob('*'))
    if p.is_file()
  }


def rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a JSONL file, less the times."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def checkpoint(
  workdir: pathlib.Path, step: int | None = None
) -> tuple[Any, dict[str, Any]]:
  """Parameters and optimizer of the newest, or a, checkpoint; its host item."""
  with ocp.CheckpointManager(workdir / 'checkpoints') as manager:
    item = manager.restore(
      manager.latest_step() if step is None else step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(),
        train=ocp.args.StandardRestore(),
        host=ocp.args.JsonRestore(),
      ),
    )
  train = dict(item.train, key=jax.random.key_data(item.train['key']))
  return jax.device_get((item.params, train)), item.host


def assert_same_checkpoint(one: pathlib.Path, other: pathlib.Path) -> None:
  """Bit for bit: parameters, optimizer, key, data position."""
  (state, host), (other_state, other_host) = map(checkpoint, (one, other))
  assert host == other_host
  chex.assert_trees_all_equal(state, other_state)


@contextlib.contextmanager
def recipe_settings(cache: pathlib.Path) -> Iterator[None]:
  """Compiles each program once; puts back the mesh that recipes set."""
  values = {
    'jax_enable_compilation_cache': True,
    'jax_compilation_cache_dir': str(cache),
    'jax_persistent_cache_min_compile_time_secs': 0.2,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  before = {name: getattr(jax.config, name) for name in values}
  with jax.set_mesh(None):
    try:
      _configure(values)
      yield
    finally:
      _configure(before)


def _configure(values: dict[str, object]) -> None:
  for name, value in values.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()

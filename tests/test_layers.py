"""Imports go down only, and no function or file grows without bound."""

import ast
from collections.abc import Iterator
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / 'hh_jax'
LAYERS = {
  0: 'errors types arrays dialogue tokenizer sharding workdir host stopping'
  ' distributed rollcall',
  1: 'model block sizes attention checkpoints',
  2: 'losses rl sampling data',
  3: 'train metrics evals generation',
  4: 'recipes',
  5: 'cli sweep launch plan __main__',
}
LAYER = {part: n for n, parts in LAYERS.items() for part in parts.split()}
MAX_FUNCTION = 60
MAX_FILE = 400

NOWHERE = ('configs', 'experiments', 'tensorflow', 'torch')
CONFIG_PACKAGES = ('ml_collections', 'absl')
WITHOUT_JAX = (
  'errors', 'dialogue', 'tokenizer', 'workdir', 'host', 'stopping', 'cli',
  '__main__',
)  # fmt: skip

Problems = Iterator[str]


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
  """Dotted names of all imported modules, symbols included."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      above = package.split('.')[: 1 - node.level or None]
      base = '.'.join([*above, *filter(None, [node.module])])
      base = base if node.level else node.module
      yield from (f'{base}.{alias.name}' for alias in node.names)


def _starts(name: str, module: str) -> bool:
  return f'{name}.'.startswith(f'{module}.')


def _layer_problems(part: str, imported: list[str]) -> Problems:
  if part not in LAYER:
    yield f'{part} has no layer: add it to LAYERS'
    return
  for name in imported:
    if not _starts(name, 'hh_jax') or name == 'hh_jax':
      continue
    other = name.split('.')[1]
    if other not in LAYER:
      yield f'imports {name}, which has no layer'
    elif LAYER[other] > LAYER[part]:
      yield f'imports {name}, which is above it'


def _foreign_problems(part: str, imported: list[str]) -> Problems:
  banned = list(NOWHERE)
  if part not in ('model', 'block'):
    banned.append('flax.linen')
  if part not in ('recipes', 'plan', 'cli', 'sweep', '__main__'):
    banned.extend(CONFIG_PACKAGES)
  if part in WITHOUT_JAX:
    banned.extend(['jax', 'flax', 'optax'])
  for name in imported:
    if any(_starts(name, module) for module in banned):
      yield f'imports {name}'


def _length_problems(text: str, tree: ast.Module) -> Problems:
  if (lines := len(text.splitlines())) > MAX_FILE:
    yield f'has {lines} lines, more than {MAX_FILE}'
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      length = node.end_lineno - node.lineno + 1
      if length > MAX_FUNCTION:
        yield f'{node.name} has {length} lines, more than {MAX_FUNCTION}'


def problems(path: str, text: str) -> list[str]:
  """What is wrong with the file at `path` (relative to the package)."""
  parts = pathlib.PurePosixPath(path).parts
  part = parts[0].removesuffix('.py')
  tree = ast.parse(text)
  imported = list(_imports(tree, '.'.join(['hh_jax', *parts[:-1]])))
  found = [*_foreign_problems(part, imported), *_length_problems(text, tree)]
  if parts != ('__init__.py',):
    found += _layer_problems(part, imported)
  return [f'{path} {problem}' for problem in found]


FILES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob('*.py'))


@pytest.mark.parametrize('path', FILES)
def test_file_keeps_to_its_layer_and_length(path):
  text = (PACKAGE / path).read_text(encoding='utf-8')
  assert problems(path, text) == []


def test_the_package_was_found():
  assert {'errors.py', 'model.py', 'losses/__init__.py'} <= set(FILES)


@pytest.mark.parametrize(
  ('path', 'text', 'expected'),
  [
    ('arrays.py', 'from hh_jax import model', 'hh_jax.model, which is above'),
    ('arrays.py', 'import hh_jax.train as t', 'hh_jax.train, which is above'),
    ('rl/a.py', 'from hh_jax.train import fit', 'which is above'),
    ('rl/a.py', 'from .. import metrics', 'hh_jax.metrics, which is above'),
    ('rl/a.py', 'def f():\n  from ..train import x', 'which is above'),
    ('train.py', 'from . import recipes', 'hh_jax.recipes, which is above'),
    ('utils.py', '', 'utils has no layer'),
    ('helpers/a.py', '', 'helpers has no layer'),
    ('train.py', 'from hh_jax import utils', 'which has no layer'),
    ('train.py', 'import flax.linen as nn', 'imports flax.linen'),
    ('train.py', 'from flax import linen as nn', 'imports flax.linen'),
    ('train.py', 'from flax.linen import Dense', 'imports flax.linen.Dense'),
    ('train.py', 'import ml_collections', 'imports ml_collections'),
    ('data/a.py', 'from absl import flags', 'imports absl.flags'),
    ('recipes/a.py', 'from configs import pm', 'imports configs.pm'),
    ('__init__.py', 'import torch', 'imports torch'),
    ('data/a.py', 'import tensorflow as tf', 'imports tensorflow'),
    ('dialogue.py', 'import jax.numpy as jnp', 'imports jax.numpy'),
    ('train.py', 'def f():\n' + '  x\n' * 60, 'f has 61 lines'),
    ('train.py', 'x\n' * 401, 'has 401 lines'),
  ],
)
def test_a_bad_file_is_found(path, text, expected):
  (problem,) = problems(path, text)
  assert problem.startswith(f'{path} ') and expected in problem


@pytest.mark.parametrize(
  ('path', 'text'),
  [
    ('model.py', 'import flax.linen as nn\nfrom hh_jax import attention'),
    ('data/a.py', 'import tensorflow_datasets as tfds\nfrom . import b'),
    ('recipes/a.py', 'import ml_collections\nfrom hh_jax import train'),
    ('cli.py', 'from absl import app\nfrom hh_jax.recipes import pm'),
    ('train.py', 'from flax import struct\nimport hh_jax'),
    ('train.py', 'def f():\n' + '  x\n' * 59),
    ('train.py', 'x\n' * 400),
  ],
)
def test_a_good_file_is_not(path, text):
  assert problems(path, text) == []

"""Every command of README is one that a test or .ci/run runs, or parses."""

import pathlib
import re
import shlex
import tomllib

import jax
import pytest

from hh_jax import cli, model, recipes

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```sh\n(.*?)```', README, re.DOTALL)
COMMANDS = [
  shlex.split(line, comments=True)
  for block in BLOCKS
  for line in block.replace('\\\n', ' ').splitlines()
  if line.strip()
]


def of(*start):
  return [c[len(start) :] for c in COMMANDS if c[: len(start)] == [*start]]


def test_every_command_is_of_a_kind_that_is_checked_below():
  known = of('make') + of('.venv/bin/python', '-m', 'hh_jax')
  known += of('.venv/bin/pip', 'install')
  assert len(known) == len(COMMANDS) > 8


def test_make_targets_are_run_by_ci():
  makefile = (ROOT / 'Makefile').read_text()
  ci = (ROOT / '.ci' / 'run').read_text()
  for target, *settings in of('make'):
    assert re.search(rf'^{target}:', makefile, re.MULTILINE)
    assert f'make {target}' in ci
    for setting in settings:
      name, _, value = setting.partition('=')
      assert re.search(rf'^{name} \?=', makefile, re.MULTILINE), setting
      if name == 'CONFIG':
        assert f'CONFIG={value}' in ci


@pytest.mark.parametrize(
  'words', of('.venv/bin/python', '-m', 'hh_jax'), ids=' '.join
)
def test_recipes_parse(words, monkeypatch):
  monkeypatch.chdir(ROOT)
  command = cli.parse(
    words,
    recipes.RECIPES,
    without_workdir=recipes.WITHOUT_WORKDIR,
    own_options=recipes.OWN_OPTIONS,
  )
  config = cli.load_config(command.config, command.overrides)
  if 'model' in config:
    fields = config.model.to_dict()
    size = fields.pop('size')
    network = model.Transformer(model.sized(size, vocab_size=64, **fields))
    jax.eval_shape(network.init, jax.random.key(0))


def test_pip_commands_name_extras_and_locks_that_exist():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  for words in of('.venv/bin/pip', 'install'):
    extra = re.fullmatch(r'\.\[(\w+)\]', words[words.index('-e') + 1])
    assert extra.group(1) in project['optional-dependencies']
    assert (ROOT / words[words.index('-c') + 1]).is_file()


def test_linked_files_exist():
  for target in re.findall(r'\]\(([^)#:]+)\)', README):
    assert (ROOT / target).exists(), target


def test_recipes_table_is_complete():
  for recipe in recipes.RECIPES:
    assert f'| `{recipe}` |' in README

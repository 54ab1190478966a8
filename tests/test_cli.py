import ast
import importlib.util
import pathlib
import subprocess
import sys
import types

from ml_collections import config_dict
import pytest

from hh_jax import __main__ as main_lib
from hh_jax import cli, recipes
from hh_jax.errors import InputError

CONFIG = """
from ml_collections import ConfigDict, config_dict
from {package} import numbers

def get_config(size=None):
  if size not in (None, 'tiny'):
    raise numbers.InputError(f'size {{size!r}} is none of tiny')
  shared = ConfigDict(dict(width=8, rate=0.5))
  steps = config_dict.FieldReference(10)
  return ConfigDict(dict(
      seed=1, note='a', flag=False, size=size or '', lr=1e-3,
      names=('a', 'b'), rates=[0.5], anything=None, free=(),
      count=config_dict.placeholder(int), steps=steps, double=steps * 2,
      pm=ConfigDict(dict(model=shared)), ppo=ConfigDict(dict(model=shared))))
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
  """A config that imports its neighbour, as configs/*.py do."""
  package = tmp_path / f'configs_{abs(hash(tmp_path))}'
  package.mkdir()
  (package / 'numbers.py').write_text('from hh_jax.errors import InputError')
  file = package / 'demo.py'
  file.write_text(CONFIG.format(package=package.name))
  monkeypatch.setattr(sys, 'path', list(sys.path))
  return str(file)


@pytest.fixture
def runs(monkeypatch):
  """What a recipe named 'fake' was called with."""
  calls = []
  fake = types.ModuleType('hh_jax.recipes.fake', 'Does nothing.')
  fake.run = lambda config, workdir: calls.append((config, workdir))
  monkeypatch.setitem(sys.modules, 'hh_jax.recipes.fake', fake)
  monkeypatch.setitem(recipes.RECIPES, 'fake', 'hh_jax.recipes.fake')
  monkeypatch.setattr(main_lib, 'fake', fake, raising=False)
  return calls


def _refused(capsys, *argv: str) -> str:
  """The one line on stderr of a command line that is wrong."""
  assert main_lib.main(argv) == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert err.startswith('hh_jax: error: ') and err.count('\n') == 1
  return err.removeprefix('hh_jax: error: ').strip()


def test_a_recipe_gets_its_config_and_workdir(runs, config_file):
  argv = ['fake', f'--config={config_file}:tiny', '--workdir', 'runs/x']
  assert main_lib.main([*argv, '--config.seed=7']) == 0
  ((config, workdir),) = runs
  assert workdir == 'runs/x'
  assert (config.seed, config.size) == (7, 'tiny')
  with pytest.raises(AttributeError):
    config.sede = 1


def test_no_size_is_none_and_the_last_option_counts(runs, config_file):
  argv = ['fake', '--workdir=a', f'--config={config_file}', '--workdir=b']
  assert main_lib.main([*argv, '--config.seed=2', '--config.seed=3']) == 0
  ((config, workdir),) = runs
  assert (config.seed, config.size, workdir) == (3, '', 'b')


@pytest.mark.parametrize(
  ('key', 'text', 'expected'),
  [
    ('seed', '7', 7),
    ('note', '7', '7'),
    ('note', '', ''),
    ('note', 'a=b', 'a=b'),
    ('flag', 'true', True),
    ('flag', 'False', False),
    ('lr', '3e-4', 3e-4),
    ('lr', '1', 1.0),
    ('names', "('c',)", ('c',)),
    ('names', "['c']", ('c',)),
    ('names', '()', ()),
    ('rates', '(0.25, 0.5)', [0.25, 0.5]),
    ('rates', '(0, 1)', [0.0, 1.0]),
    ('free', "(1, 'a')", (1, 'a')),
    ('anything', '[1]', [1]),
    ('anything', 'text', 'text'),
    ('count', '3', 3),
    ('count', 'None', None),
    ('pm.model.width', '16', 16),
  ],
)
def test_values_take_the_type_of_the_field(config_file, key, text, expected):
  config = cli.load_config(config_file, [(key, text)])
  value = config
  for part in key.split('.'):
    value = value[part]
  assert value == expected
  assert repr(value) == repr(expected)  # types inside too


@pytest.mark.parametrize(
  ('key', 'text', 'expected'),
  [
    ('seed', '7.5', 'config key seed takes an integer'),
    ('seed', 'True', 'config key seed takes an integer'),
    ('seed', 'None', 'config key seed takes an integer'),
    ('flag', '1', 'config key flag takes true or false'),
    ('lr', 'fast', 'config key lr takes a number, not .fast.'),
    ('lr', 'True', 'config key lr takes a number'),
    ('names', 'c', 'config key names takes a tuple'),
    ('names', '(1,)', 'config key names takes a tuple'),
    ('names', '{[]: 1}', 'config key names takes a tuple'),
    ('count', 'x', 'config key count takes an integer'),
    ('sed', '1', "no config key 'sed': nearest: seed"),
    ('model.width', '1', 'nearest: pm.model.width, ppo.model.width'),
    ('width', '1', 'there are pm.model.width, ppo.model.width$'),
    ('seed.x', '1', "no config key 'seed.x'"),
    ('', '1', "no config key ''"),
    ('lr', '1e999', '--config.lr is inf: numbers have to be finite'),
    ('pm.model.rate', '-1e999', '--config.pm.model.rate is -inf: numbers'),
    ('free', '(1, 1e999)', '--config.free is inf: numbers have to be finite'),
    ('pm', '1', 'pm is a section: there are pm.model.rate, pm.model.width'),
  ],
)
def test_wrong_overrides_are_refused(config_file, key, text, expected):
  with pytest.raises(InputError, match=expected) as error:
    cli.load_config(config_file, [(key, text)])
  assert '\n' not in str(error.value)


def test_an_override_changes_one_key_and_what_refers_to_it(config_file):
  config = cli.load_config(
    config_file, [('pm.model.width', '16'), ('steps', '20')]
  )
  assert (config.pm.model.width, config.ppo.model.width) == (16, 8)
  assert (config.steps, config.double) == (20, 40)


def test_a_recipe_that_needs_no_run_directory(
  capsys, runs, config_file, monkeypatch, tmp_path
):
  argv = ['fake', f'--config={config_file}']
  monkeypatch.setattr(recipes, 'WITHOUT_WORKDIR', ('fake',))
  monkeypatch.chdir(tmp_path)
  assert main_lib.main(argv) == main_lib.main([*argv, '--workdir=x']) == 0
  assert [workdir for _, workdir in runs] == ['', 'x']
  assert '--workdir is missing' in _refused(capsys, *argv, '--workdir=')

  def interrupted(config, workdir):
    raise KeyboardInterrupt

  monkeypatch.setattr(sys.modules['hh_jax.recipes.fake'], 'run', interrupted)
  assert main_lib.main(argv) == 130
  assert capsys.readouterr().err == 'hh_jax: interrupted\n'


def test_no_run_directory_is_no_directory_to_withdraw(
  capsys, runs, config_file, monkeypatch, tmp_path
):
  """A refused recipe must not take the present directory for its own."""
  monkeypatch.setattr(recipes, 'WITHOUT_WORKDIR', ('fake',))
  folder = tmp_path / 'here'
  folder.mkdir()
  monkeypatch.chdir(folder)

  def refuse(config, workdir):
    (folder / 'config.json').write_text('{}')
    raise InputError('no')

  monkeypatch.setattr(sys.modules['hh_jax.recipes.fake'], 'run', refuse)
  assert _refused(capsys, 'fake', f'--config={config_file}') == 'no'
  assert (folder / 'config.json').exists()


def test_who_reads_stdout_may_stop(config_file, tmp_path):
  root = pathlib.Path(main_lib.__file__).parent.parent
  code = """
import sys, types
from hh_jax import __main__, recipes
def run(config, workdir):
  for _ in range(99999):
    print('x')
fake = types.ModuleType('fake', 'Prints.')
fake.run = run
sys.modules['fake'] = fake
recipes.RECIPES['fake'] = 'fake'
sys.exit(__main__.main(sys.argv[1:]))
"""
  argv = ['fake', f'--config={config_file}', f'--workdir={tmp_path / "x"}']
  with subprocess.Popen(
    [sys.executable, '-c', code, *argv],
    cwd=root,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    assert process.stdout.readline() == b'x\n'
    process.stdout.close()
    assert process.stderr.read() == b''
  assert process.returncode == 141


def test_wrong_command_lines_are_one_line(capsys, runs, config_file):
  good = [f'--config={config_file}', '--workdir=x']
  for argv, expected in (
    (['fakke', *good], "no recipe 'fakke': nearest: fake"),
    ([*good], "no recipe '--config="),
    (['fake', '--workdir=x'], '--config is missing'),
    (['fake', good[0]], '--workdir is missing: add --workdir=DIR'),
    (['fake', good[0], '--workdir='], '--workdir is missing'),
    (['fake', good[0], '--workdir'], '--workdir has no value'),
    (['fake', *good, '--wrokdir=x'], 'nearest: --workdir'),
    (['fake', *good, 'more'], "no option 'more'"),
    (['fake', f'{good[0]}:huge', good[1]], "size 'huge' is none of tiny"),
    (['fake', f'{good[0]}x', good[1]], f'nearest: {config_file}'),
    (['fake', '--config=no/where.py', good[1]], 'none to choose from'),
    (['fake', *good, '--config.seed=x'], 'seed takes an integer'),
  ):
    assert expected in _refused(capsys, *argv)
  assert runs == []


@pytest.mark.parametrize(
  ('name', 'text', 'expected'),
  [
    ('a.txt', 'x', 'is not a Python file'),
    ('a.py', 'x = 1', 'defines no get_config'),
    ('a.py', 'def get_config(): return {}', 'returns no ConfigDict'),
    ('a.py:b', 'def get_config(): return {}', 'leave out :b'),
    (
      'a.py',
      'def get_config(x, size): return {}',
      'its get_config takes x, si',
    ),
  ],
)
def test_files_that_are_no_config_are_refused(tmp_path, name, text, expected):
  (tmp_path / name.partition(':')[0]).write_text(text)
  with pytest.raises(InputError, match=expected):
    cli.load_config(str(tmp_path / name), [])


def test_errors_of_a_recipe(capsys, runs, config_file):
  argv = ['fake', f'--config={config_file}', '--workdir=x']
  fake = sys.modules['hh_jax.recipes.fake']

  def fail(error):
    def run(config, workdir):
      raise error

    fake.run = run

  fail(InputError('data.jsonl:3: no\nprompt'))
  assert _refused(capsys, *argv) == 'data.jsonl:3: no prompt'
  fail(KeyboardInterrupt())
  assert main_lib.main(argv) == 130
  assert capsys.readouterr().err.count('\n') == 1
  fail(ZeroDivisionError('a bug'))
  with pytest.raises(ZeroDivisionError):
    main_lib.main(argv)


@pytest.mark.parametrize('argv', [[], ['--help'], ['pmm', '-h']])
def test_help_lists_the_recipes(capsys, argv):
  assert main_lib.main(argv) == 0
  lines = capsys.readouterr().out.splitlines()
  for name in recipes.RECIPES:
    (line,) = [x for x in lines if x.startswith(f'  {name} ')]
    assert len(line.split()) > 3


def test_help_on_a_recipe(capsys):
  said = {}
  for name in (*recipes.RECIPES, 'launch'):
    assert main_lib.main([name, '--help']) == 0
    said[name] = capsys.readouterr().out
  assert len(set(said.values())) == len(said)
  assert said['pm'].splitlines()[0] in _shown_in_help(capsys)
  for option in ('--on=slurm: --nodes=1', '--tpu-type=...'):
    assert option in said['launch']
  assert '--topology=... ' in said['plan'] and ' --fix ' in said['plan']
  for name in set(recipes.RECIPES) - set(recipes.OWN_OPTIONS):
    config = said[name].split()[-1]
    assert (main_lib.pathlib.Path(__file__).parent.parent / config).exists()


def _shown_in_help(capsys):
  main_lib.main(['--help'])
  return capsys.readouterr().out


def test_help_does_not_import_jax():
  code = (
    'import sys; from hh_jax import __main__ as m; m.main(["--help"]);'
    'assert "hh_jax.cli" in sys.modules; assert "jax" not in sys.modules'
  )
  root = pathlib.Path(main_lib.__file__).parent.parent
  subprocess.run([sys.executable, '-c', code], cwd=root, check=True)


def test_the_module_runs_as_a_command(tmp_path):
  root = pathlib.Path(main_lib.__file__).parent.parent
  result = subprocess.run(
    [sys.executable, '-m', 'hh_jax', 'pmm'],
    cwd=root,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 2
  assert result.stderr == "hh_jax: error: no recipe 'pmm': nearest: pm, pmp\n"


@pytest.mark.parametrize('module', recipes.RECIPES.values())
def test_every_recipe_has_a_docstring_and_a_run(module):
  path = pathlib.Path(importlib.util.find_spec(module).origin)
  tree = ast.parse(path.read_text())
  assert ast.get_docstring(tree)
  (run,) = [
    node
    for node in tree.body
    if isinstance(node, ast.FunctionDef) and node.name == 'run'
  ]
  has_own = any(recipes.RECIPES[name] == module for name in recipes.OWN_OPTIONS)
  second = 'options' if has_own else 'workdir'
  assert [arg.arg for arg in run.args.args] == ['config', second]


def test_placeholders_keep_their_type(config_file):
  config = cli.load_config(config_file, [])
  assert config.get_type('count') is int
  assert isinstance(config, config_dict.ConfigDict)

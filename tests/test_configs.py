"""Every config of every size is what its recipe takes."""

import importlib
import math
import pathlib

import jax
import ml_collections
import pytest

from hh_jax import cli, recipes
from hh_jax import model as model_lib
from hh_jax.data import sources
from hh_jax.errors import InputError
from hh_jax.recipes import common, pipeline
from tests.conftest import REPO

FILES = {
  path.stem: str(path)
  for path in sorted((REPO / 'configs').glob('*.py'))
  if path.stem != 'common'
}
SIZES = {
  'demo': (
    'full',
    'short',
    'tokenizer',
    'pretrain',
    'pmp',
    'pm',
    'ppo',
    'best_of_n',
    'distill',
    'sft',
    'prompts',
  ),
  'demo_hh': (
    'full',
    'short',
    'tokenizer',
    'pretrain',
    'pm',
    'ppo',
    'best_of_n',
  ),
  'pretrain': tuple(model_lib.SIZES),
  'pm': tuple(model_lib.SIZES),
  'pmp': tuple(model_lib.SIZES),
  'ppo': tuple(model_lib.SIZES),
  'distill': tuple(model_lib.SIZES),
  'sft': tuple(model_lib.SIZES),
  'prompts': tuple(model_lib.SIZES),
  'tokenizer': ('8k', '64k'),
  'report': (),
  'best_of_n': tuple(model_lib.SIZES),
  'sample': (),
  'sweep': (),
  'ood': ('files', 'hh_rlhf', 'gold_world'),
  'pm_sweep': ('smoke', 'cpu', 'cpu_hh', 'gpu', 'gpu_hh', 'pod'),
  'policy_sweep': ('smoke', 'cpu', 'cpu_hh', 'gpu', 'gpu_hh', 'pod'),
  'pm_report': ('own', 'hh_rlhf', 'gold_world'),
  'scaling': ('all', 'pm', 'ppo'),
  'pipeline': (),  # for other configs to call
}
CASES = [
  (name, size) for name, sizes in SIZES.items() for size in (*sizes, '')
  if name != 'pipeline'
]  # fmt: skip


def load(name, size, overrides=()):
  return cli.load_config(f'{FILES[name]}:{size}', overrides)


def sections(config, prefix=''):
  """Every section of a config, itself first, with its path."""
  yield prefix, config
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from sections(value, f'{prefix}{key}.')


def test_every_file_is_tested():
  assert set(FILES) == set(SIZES)


@pytest.mark.parametrize(('name', 'size'), CASES)
def test_a_config_is_locked_and_its_parts_are_real(name, size):
  config = load(name, size)
  with pytest.raises(AttributeError):
    config.tulips = 1
  for path, section in sections(config):
    assert section.is_locked, path
    last = path.split('.')[-2] if path else ''
    if last in ('data', 'answers'):
      sources.build(section.name, section.options.to_dict())
    if last in ('model', 'pm_model', 'teacher_model'):
      fields = section.to_dict()
      model_lib.sized(fields.pop('size'), vocab_size=512, **fields)
    if last == 'optimizer':
      common.make_optimizer(section, num_steps=10)


@pytest.mark.parametrize(
  'name', [name for name, sizes in SIZES.items() if sizes]
)
def test_an_unknown_size_is_refused_with_the_sizes(name):
  with pytest.raises(InputError, match="'14M' is none of") as error:
    load(name, '14M')
  for size in SIZES[name]:
    assert size in str(error.value)


def test_a_file_without_sizes_takes_none():
  with pytest.raises(InputError, match="size 'big' is none of"):
    load('report', 'big')


@pytest.mark.parametrize('name', ['demo', 'demo_hh'])
def test_a_chain_has_a_section_for_every_stage(name):
  config = load(name, '')
  assert set(pipeline.STAGES) <= set(config)
  seeds = {config.pm.seed, config.heldout_pm.seed}
  parts = {(s.part, s.num_parts) for s in (config.pm, config.heldout_pm)}
  assert len(seeds) == 2 and parts == {(0, 2), (1, 2)}
  # the policy starts from the language model, and its value from the PM
  assert config.ppo.model.size == config.pretrain.model.size
  assert config.ppo.pm_model.size == config.pm.model.size


def test_best_of_n_draws_as_ppo_does():
  """The pipeline fills in what PPO's section says, and nothing is missing."""
  config = load('demo', 'short', [('ppo.temperature', '0.7')])
  section = pipeline.sections(config, pathlib.Path('run'))['best_of_n']
  assert section.temperature == 0.7 and section.run == 'run/pretrain'
  assert set(section) == set(load('best_of_n', 'mini'))
  assert set(section) == set(load('demo', 'best_of_n'))
  assert load('demo', 'best_of_n').max_prompt == config.ppo.max_prompt
  with pytest.raises(InputError, match=r"no config key 'best_of_n.seed'"):
    load('demo', 'short', [('best_of_n.seed', '1')])


def test_a_stage_has_a_section_of_its_own():
  """A flag for one stage changes no other, though files share sections."""
  config = load('demo', '', [('pm.optimizer.lr', '0.5'), ('ppo.seed', '4')])
  assert config.pm.optimizer.lr == 0.5 != config.heldout_pm.optimizer.lr
  assert config.ppo.seed == 4 != config.pretrain.seed


def test_pmp_on_the_simulator_reads_its_web():
  config = load('demo', 'pmp')
  assert (config.data.name, config.lm_coef) == ('gold_web', 1.0)
  assert config.row_length == load('demo', 'pm').row_length


def test_one_data_dir_is_that_of_all_stages():
  config = load('demo_hh', '', [('data_dir', 'elsewhere')])
  for stage in ('tokenizer', 'pretrain', 'pm', 'heldout_pm', 'ppo'):
    assert config[stage].data.options.data_dir == 'elsewhere'


@pytest.mark.parametrize('size', model_lib.SIZES)
def test_every_size_has_the_parameters_it_is_named_after(size):
  """Shapes alone: nothing is allocated."""
  model = model_lib.Transformer(model_lib.sized(size, vocab_size=2**16))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  c = model.config
  others = c.vocab_size * c.d_model + c.d_model + 1  # embedding, scalar head
  norms = (2 * c.num_layers + 1) * c.d_model
  assert count == c.num_matmul_params + others + norms
  if size[-1] in 'MB':
    named = float(size[:-1]) * (1e6 if size[-1] == 'M' else 1e9)
    assert c.num_matmul_params == pytest.approx(named, rel=0.05)


def test_every_recipe_has_a_config_file():
  for name, module in recipes.RECIPES.items():
    if name in recipes.OWN_OPTIONS:  # it takes the configs of the others
      continue
    assert name in FILES
    assert callable(importlib.import_module(module).run)

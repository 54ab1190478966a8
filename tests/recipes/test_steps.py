"""A link to a run at a step: RUN@STEP."""

import json

import chex
import jax
import pytest

from hh_jax import model as model_lib
from hh_jax import sharding
from hh_jax.errors import InputError
from hh_jax.recipes import common
from tests.recipes import chain as chain_lib


@pytest.fixture(scope='module')
def pretrained(chain, cache_dir, tmp_path_factory):
  """A pretrain run that died after five steps; steps 2, 4 and 5 are there."""
  path = tmp_path_factory.mktemp('steps') / 'pretrain'
  with chain_lib.recipe_settings(cache_dir):
    done = chain_lib.run(
      'pretrain',
      f'--workdir={path}',
      *chain.links('tokenizer'),
      '--config.num_steps=5',
      '--config.save_every=1',
      '--config.checkpoints.every=2',
      size='pretrain',
    )
  assert done.code == 0, done.err
  (path / 'summary.json').unlink()
  return path


def test_a_stage_starts_from_the_step_that_is_named(pretrained, run_stage):
  link = f'{pretrained}@2'
  shape = json.loads((pretrained / 'model.json').read_text())
  model = model_lib.Transformer(model_lib.ModelConfig(**shape['model']))
  found = common.load_params(
    {'init_from': link},
    'init_from',
    model,
    sharding.make_mesh(),
    fingerprint=shape['tokenizer'],
  )
  (wanted, _), _ = chain_lib.checkpoint(pretrained, 2)
  chex.assert_trees_all_equal(jax.device_get(found), wanted)
  (later, _), _ = chain_lib.checkpoint(pretrained, 4)
  with pytest.raises(AssertionError):  # or the line above says nothing
    chex.assert_trees_all_equal(later, wanted)
  done = run_stage('pm', f'--config.init_from={link}')
  assert done.code == 0, done.err


def test_a_step_that_is_not_there(pretrained, run_stage, tmp_path):
  for step, says in (
    ('3', f'{pretrained} has no checkpoint at step 3: there is 2, 4, 5'),
    ('-1', "'-1' is no step: want RUN, RUN@STEP or RUN@best"),
    ('last', "'last' is no step"),
    ('', "'' is no step"),
  ):
    error = run_stage('pm', f'--config.init_from={pretrained}@{step}').error
    assert says in error
    assert not (tmp_path / 'pm').exists()


def test_an_unfinished_run_needs_its_step(pretrained, run_stage):
  error = run_stage('pm', f'--config.init_from={pretrained}').error
  assert f'{pretrained} is no finished run' in error
  error = run_stage('pm', '--config.init_from=nowhere@3').error
  assert 'nowhere/config.json does not exist' in error


def test_a_step_of_a_run_of_another_kind(chain, run_stage):
  error = run_stage('pm', f'--config.init_from={chain.path / "ppo"}@12').error
  assert 'is a ppo run, not a pretrain or pmp or distill or sft run' in error


def test_a_run_that_keeps_no_best_says_why(chain, tmp_path):
  config = json.loads((chain.path / 'ppo' / 'config.json').read_text())
  config['config']['heldout_pm'] = ''
  (tmp_path / 'config.json').write_text(json.dumps(config))
  for run, says in (
    (tmp_path, 'kept no best checkpoint, because it had no held-out'),
    (chain.path / 'pretrain', 'a pretrain run keeps no best checkpoint'),
  ):
    with pytest.raises(InputError, match=f'^config.run {run}@best: .*{says}'):
      common.read_link({'run': f'{run}@best'}, 'run', kinds=('pretrain', 'ppo'))


def test_another_step_of_the_pm_does_not_judge_it(chain, run_stage):
  flag = f'--config.heldout_pm={chain.path / "pm"}@2'
  assert 'is a PM that trains or ranks' in run_stage('ppo', flag).error


def test_an_at_in_the_name_of_a_directory(tmp_path):
  (tmp_path / 'me@home').mkdir()
  (tmp_path / 'lr@3').mkdir()
  for name in ('runs/pm', f'{tmp_path}/me@home/pm', f'{tmp_path}/lr@3'):
    assert common.split_step(name) == (name, None)
  assert common.split_step('me@home/pm@40') == ('me@home/pm', 40)
  with pytest.raises(InputError, match='is no step'):
    common.split_step('runs/pm@\u0663')  # a digit, but of another script

"""Policies and best of n of a sweep, as they run; numbers are not judged."""

import json

import pytest

from experiments import fig04_train_and_test_pm as fig04
from experiments import fig13_reward_vs_sqrt_kl as fig13
from experiments import fig33_policy_and_pm_size as fig33
from experiments import fig36_best_of_n as fig36
from experiments import frontier_hh, policy_runs
from hh_jax.errors import InputError
from hh_jax.recipes import best_of_n, pm, ppo
from tests.experiments import made_up_policies
from tests.recipes import chain as chain_lib


@pytest.fixture(autouse=True)
def settings(tmp_path_factory):
  cache = tmp_path_factory.getbasetemp() / 'compiled'
  with chain_lib.recipe_settings(cache):
    yield


@pytest.mark.slow
def test_every_figure_is_drawn_from_real_runs(tmp_path):
  """One seed; nothing is trained twice."""
  config = policy_runs.load('smoke', [('num_seeds', '1')])
  workdir = str(tmp_path)
  fig13.run(config, workdir)
  fig33.run(config, workdir)
  before = chain_lib.tree_hash(tmp_path)
  fig36.run(config, workdir)
  assert chain_lib.tree_hash(tmp_path) == before
  summary = fig13.plot(workdir)
  assert set(summary['fits']) == set(policy_runs.SERIES)
  assert summary['fits_by_seed']['training PM']['0']['within_prompt_std'] > 0
  assert fig04.plot(workdir)['samples'] == [0, 8, 16, 24, 32]
  assert fig36.plot(workdir)['best_of_n']['gold']['4']['seeds'] == 1
  assert fig33.plot(workdir)['by_policy_and_test_pm'].keys() == {'own'}

  runs = [tmp_path / x / 'tiny/seed0' for x in ('ppo/own', 'best_of_n/base')]
  frontier_hh.main(
    ['--workdir', workdir, '--ppo', str(runs[0]), '--best_of_n', str(runs[1])]
  )
  read = json.loads((tmp_path / 'frontier_hh.json').read_text())
  config_there = json.loads((runs[0] / 'config.json').read_text())['config']
  assert config_there['heldout_pm'].endswith('pm/test_half/tiny/seed0')
  assert str(runs[0]) in read['by_run']


@pytest.mark.parametrize('has_begun', [False, True])
def test_a_failure_is_written_down_once_training_began(
  tmp_path, monkeypatch, has_begun
):
  """A mistake in the settings is none of training, and stops the sweep."""
  calls = []

  def run_stage(recipe, section, path):
    if recipe != 'ppo':
      return path
    calls.append(path)
    path.mkdir(parents=True)
    if has_begun:
      (path / 'metrics.jsonl').write_text('')
    raise InputError('iteration 4: the loss is nan')

  monkeypatch.setattr(policy_runs.sweep, 'run_stage', run_stage)
  config = policy_runs.load('smoke')
  policy = dict(size='tiny', seed=0)
  if not has_begun:
    with pytest.raises(InputError, match='the loss is nan'):
      policy_runs.ppo(config, str(tmp_path), **policy)
    assert not list(tmp_path.rglob(policy_runs.FAILURE))
    return
  for _ in range(2):
    path = policy_runs.ppo(config, str(tmp_path), **policy)
  assert calls == [path]
  failure = json.loads((path / policy_runs.FAILURE).read_text())
  assert failure == {'error': 'iteration 4: the loss is nan'}


def test_a_failure_before_the_fourth_evaluation_is_counted(tmp_path):
  path = made_up_policies.write_ppo(
    tmp_path / 'ppo', sqrt_kl=[0.0, 1.0], failure='the loss is nan',
    pm_score=lambda d: d,
  )  # fmt: skip
  run = policy_runs.read_training(path)
  assert not run.is_whole and run.failure == 'the loss is nan'


@pytest.mark.parametrize(
  'scale', ['smoke', 'cpu', 'cpu_hh', 'gpu', 'gpu_hh', 'pod']
)
def test_every_scale_passes_the_checks_of_its_recipes(scale):
  """As they are made before a recipe's first device call."""
  config = policy_runs.load(scale)
  policy_runs.check(config)
  assert len(config.rates) == len(config.sizes)
  for name, recipe in (('pm', pm), ('ppo', ppo), ('best_of_n', best_of_n)):
    recipe.check(config[name])
  # the curves that are compared are of replies of one kind
  for name in ('max_prompt', 'max_reply', 'temperature', 'no_stop_penalty'):
    assert config.ppo[name] == config.best_of_n[name], name

"""Runs of a sweep are where their name says, and are trained once."""

import json

import pytest

from experiments import fig07_pm_accuracy_vs_data_and_size as fig07
from experiments import fig31_learning_curves_mixed as fig31
from experiments import sweep
from hh_jax.errors import InputError
from tests.recipes import chain as chain_lib


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('sweep')


@pytest.fixture(autouse=True)
def settings(tmp_path_factory):
  cache = tmp_path_factory.getbasetemp() / 'compiled'
  with chain_lib.recipe_settings(cache):
    yield


def config_of(path):
  return json.loads((path / 'config.json').read_text())['config']


def test_a_preference_model_is_trained_once_and_found(workdir):
  config = sweep.load('smoke')
  paths = sweep.by_size(config, workdir)
  assert sweep.finished(workdir, 'mix') == paths
  before = {p: chain_lib.tree_hash(p) for p in paths.values()}
  assert sweep.by_size(config, workdir) == paths
  assert {p: chain_lib.tree_hash(p) for p in paths.values()} == before
  first, second = paths['tiny', 0], paths['tiny', 1]
  assert first == workdir / 'pm/mix/tiny/seed0'
  # another seed: other comparisons, the same language model and test pairs
  assert config_of(first)['mixture']['seed'] == 0
  assert config_of(second)['mixture']['seed'] == 1
  assert config_of(first)['init_from'] == config_of(second)['init_from']
  tests = [
    [
      (r['conversation'], r['p_chosen'])
      for r in chain_lib.rows(p / 'eval.jsonl')
    ]
    for p in (first, second)
  ]
  assert tests[0] == tests[1]
  # the rate is that of the size: 3e-3 / 6, the first of 10 warm-up steps
  rows = chain_lib.rows(first / 'metrics.jsonl')
  assert next(r for r in rows if 'train/lr' in r)['train/lr'] == pytest.approx(
    3e-3 / 6 / 10
  )


def test_a_figure_is_drawn_from_real_runs(workdir):
  fig07.run(sweep.load('smoke'), str(workdir))
  summary = fig07.plot(str(workdir))
  assert summary['comparisons'] == 20
  assert summary['accuracy']['tiny']['seeds'] == 2
  assert len(summary['claims']) == 1  # one size: no slope in parameters
  fig31.plot(str(workdir))


def test_changes_under_a_taken_name_are_refused(workdir):
  config = sweep.load('smoke')
  where = dict(size='tiny', seed=0, name='mix')
  sweep.pm(config, workdir, **where)
  with pytest.raises(InputError, match='harmless_weight is 1.0 there, 2.0'):
    sweep.pm(config, workdir, **where, harmless_weight=2.0)


def test_names_of_mixtures_are_read_back(tmp_path):
  for name in (
    sweep.mixture_name(20, 0.25),
    sweep.mixture_name(20, 1.0, 3.0),
    'other',
  ):
    (tmp_path / 'pm' / name).mkdir(parents=True)
  found = sweep.names(tmp_path, r'n20_helpful([\d.]+)(?:_lambda([\d.]+))?')
  assert [m.groups() for m in found.values()] == [('0.25', None), ('1', '3')]
  assert sweep.finished(tmp_path, 'other') == {}


@pytest.mark.parametrize(
  'flags, said',
  [
    (['--config.sizs=3'], "no config key 'sizs'"),
    (['--sizes=3'], "no option '--sizes=3'"),
    (['--scale=cpuu'], "size 'cpuu' is none of smoke, cpu"),
    (['--config.pm.optimizer.lr=0.1'], 'pm.optimizer.lr is that of config'),
  ],
)
def test_mistakes_are_one_line(tmp_path, capsys, flags, said):
  def run(config, workdir):
    sweep._stage(config, workdir, 'pm', 'tiny', 0, rate=1.0)

  scale = [] if '--scale' in flags[0] else ['--scale=smoke']
  with pytest.raises(SystemExit) as stopped:
    sweep.main(
      'An experiment.', run, dict, [f'--workdir={tmp_path}', *scale, *flags]
    )
  assert stopped.value.code == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ') and said in err and err.count('\n') == 1


def test_a_size_without_a_rate_is_refused(tmp_path):
  config = sweep.load('smoke')
  with pytest.raises(InputError, match="size '13M' is none of config.sizes"):
    sweep.pretrain(config, tmp_path, size='13M', seed=0)
  config = sweep.load('smoke', [('sizes', "('tiny', 'mini')")])
  with pytest.raises(InputError, match='are not one for each of config.sizes'):
    sweep.pretrain(config, tmp_path, size='mini', seed=0)

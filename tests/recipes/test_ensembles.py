"""Preference models of a chain as one, in `ppo` and `pm_report`."""

import json
import shutil

import jax
import ml_collections
import numpy as np
import pytest

from configs import pm_report as pm_report_config
from hh_jax import model as model_lib
from hh_jax import sharding
from hh_jax import workdir as workdir_lib
from hh_jax.data import sources
from hh_jax.errors import InputError
from hh_jax.recipes import (
  common,
  ensembles,
  pm_report,
  pm_report_judge,
  policy_networks,
)
from tests.recipes import chain as chain_lib


def make_config(chain, *others, how='worst', k=1.0):
  config = pm_report_config.get_config()
  config.update(
    pm=str(chain.path / 'pm'), tokenizer=str(chain.path / 'tokenizer')
  )
  config.ensemble.update(others=tuple(map(str, others)), how=how, k=k)
  return config


def judge(config):
  there = workdir_lib.read_config(config.pm)['config']
  return pm_report_judge.make_judge(config, there)


@pytest.fixture(scope='module')
def pairs(chain):
  data = workdir_lib.read_config(chain.path / 'pm')['config']['data']
  return sources.build(data['name'], data['options']).pairs('test')


@pytest.fixture(scope='module')
def single(chain, pairs):
  """Scores of both members alone, less their means, [2, N, 2]."""
  scores = []
  for name in ('pm', 'heldout_pm'):
    config = make_config(chain)
    config.pm = str(chain.path / name)
    scores.append(judge(config)(pairs).scores)
  return np.stack([s - s.mean() for s in scores])


def test_members_are_centred_and_combined(chain, pairs, single):
  assert np.abs(single[0] - single[1]).max() > 1e-3
  for how, wanted in (
    ('mean', single.mean(axis=0)),
    ('worst', single.min(axis=0)),
    ('mean_minus_variance', single.mean(axis=0) - 500 * single.var(axis=0)),
  ):
    config = make_config(chain, chain.path / 'heldout_pm', how=how, k=500.0)
    got = judge(config)(pairs).scores
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_policy_learns_from_all_and_its_value_starts_from_the_first(chain):
  there = workdir_lib.read_config(chain.path / 'ppo')['config']
  config = ml_collections.ConfigDict(there)
  config.heldout_pm = ''
  config.ensemble.update(others=(str(chain.path / 'heldout_pm'),))
  tokenizer = common.load_tokenizer(config.tokenizer)
  nets = policy_networks.make_networks(config, tokenizer, value_net='pm')
  mesh = sharding.make_mesh()
  frozen = policy_networks.load_frozen(
    config, nets, mesh, tokenizer.fingerprint
  )
  assert len(frozen['pm_score']) == 2
  tx, _ = common.make_optimizer(config.optimizer, num_steps=1)
  state, _ = policy_networks.initial_state(config, frozen, tx, mesh)
  np.testing.assert_array_equal(
    state.params['value']['scalar_head'], frozen['pm_score'][0]['scalar_head']
  )
  config.ensemble.others = ()
  alone = policy_networks.load_frozen(config, nets, mesh, tokenizer.fingerprint)
  bias = [p['scalar_bias'] for p in (alone['pm_score'], frozen['pm_score'][0])]
  rows = chain_lib.rows(chain.path / 'pm' / 'eval.jsonl')
  mean = np.mean([[r['score_chosen'], r['score_rejected']] for r in rows])
  assert float(bias[0] - bias[1]) == pytest.approx(mean, abs=1e-6)


@pytest.mark.slow
def test_ppo_runs_against_an_ensemble(chain, run_stage, tmp_path):
  others = f"('{chain.path / 'heldout_pm'}',)"
  flags = ('heldout_pm=', 'num_iterations=1', f'ensemble.others={others}')
  done = run_stage('ppo', *(f'--config.{flag}' for flag in flags))
  assert done.code == 0, done.err
  first, *_ = chain_lib.rows(tmp_path / 'ppo' / 'metrics.jsonl')
  assert abs(first['eval/pm_score']) <= 1e-6  # centred on the start, as ever


def copied(chain, folder, name, change):
  path = shutil.copytree(chain.path / 'heldout_pm', folder / 'copy')
  file = path / name
  file.write_text(change(file.read_text()))
  return path


def other_card(**fields):
  def change(text):
    card = json.loads(text)
    card['model'] |= {k: v for k, v in fields.items() if k in card['model']}
    return json.dumps(card | {k: fields[k] for k in fields.keys() & card})

  return change


@pytest.mark.parametrize(
  ('name', 'change', 'says'),
  [
    ('model.json', other_card(d_model=128), 'holds a model with d_model 128'),
    ('model.json', other_card(num_layers=3), 'holds a model with num_layers 3'),
    ('model.json', other_card(tokenizer='x'), 'another tokenizer'),
    (
      'eval.jsonl',
      lambda text: text[text.index('\n') + 1 :],
      'not the held-out pairs of',
    ),
    (
      'eval.jsonl',
      lambda text: text.replace(
        '"score_chosen": ', '"score_chosen": NaN, "x":'
      ),
      'scores are not finite',
    ),
  ],
)
def test_a_member_that_does_not_fit_is_refused(
  chain, tmp_path, name, change, says
):
  path = copied(chain, tmp_path, name, change)
  with pytest.raises(InputError, match=says):
    judge(make_config(chain, path))


@pytest.mark.parametrize(
  ('others', 'says'),
  [
    (('pm',), 'is there twice'),
    (('heldout_pm', 'heldout_pm'), 'is there twice'),
    (('pretrain',), 'others .*/pretrain is a pretrain run, not a pm run'),
    (('nowhere',), 'config.ensemble.others .*/nowhere is no finished run'),
    (('heldout_pm@8',), 'name it without a step'),
  ],
)
def test_a_run_that_is_no_member_is_refused(chain, others, says):
  model = model_lib.Transformer(
    model_lib.ModelConfig(
      **json.loads((chain.path / 'pm' / 'model.json').read_text())['model']
    )
  )
  card = json.loads((chain.path / 'pm' / 'model.json').read_text())
  steps = [p.name for p in (chain.path / 'heldout_pm/checkpoints').iterdir()]
  others = [x.replace('@8', f'@{steps[-1]}') for x in others]
  config = make_config(chain, *(chain.path / name for name in others))
  with pytest.raises(InputError, match=says):
    ensembles.load(
      config, model, sharding.make_mesh(), fingerprint=card['tokenizer']
    )


def test_bad_settings_are_refused(chain, run_stage):
  pm = chain.path / 'pm'
  for flag, says in (
    ('ensemble.how=median', "config.ensemble.how 'median' is none of"),
    ('ensemble.k=-1.0', 'config.ensemble.k -1.0 is not 0 or more'),
    ("ensemble.others=('',)", "config.ensemble.others: '' names no run"),
    (f"ensemble.others=('{pm}',)", 'is there twice'),
    (
      f"ensemble.others=('{chain.path / 'heldout_pm'}',)",
      'is a PM that trains or ranks',
    ),
  ):
    assert says in run_stage('ppo', f'--config.{flag}').error


def test_an_ensemble_is_not_named_like_its_first_member(chain):
  assert ensembles.name(make_config(chain)) == 'pm'
  both = make_config(chain, 'a/other', how='mean_minus_variance')
  assert ensembles.name(both) == 'mean minus variance of pm, other'


def test_one_member_is_the_pm(chain):
  config = make_config(chain, how='mean_minus_variance')
  card = json.loads((chain.path / 'pm' / 'model.json').read_text())
  model = model_lib.Transformer(model_lib.ModelConfig(**card['model']))
  options = {'fingerprint': card['tokenizer']}
  mesh = sharding.make_mesh()
  found = ensembles.load(config, model, mesh, **options)
  wanted = common.load_params(config, 'pm', model, mesh, **options)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_an_overlap_with_any_member_counts(chain, monkeypatch):
  class Overlapping(sources.GoldWorld):
    """Its test pairs are its first training pairs, of both members' halves."""

    def pairs(self, split):
      return list(super().pairs('train'))[: 60 if split == 'train' else 16]

  monkeypatch.setitem(sources.SOURCES, 'gold_world', Overlapping)
  found = []
  for others in ((), (chain.path / 'heldout_pm',)):
    config = make_config(chain, *others)
    there = workdir_lib.read_config(config.pm)['config']
    held_out = pm_report._held_out(config, there, [])
    found.append(held_out.counts['in_training_conversations'])
  alone, both = found
  assert 0 < alone < both == len(held_out.pairs)

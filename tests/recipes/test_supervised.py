"""What pretraining and preference models write, and that they learn."""

import json

import numpy as np
import pytest

from configs import pm as pm_config
from hh_jax import metrics as metrics_lib
from hh_jax.data import examples
from hh_jax.errors import InputError
from hh_jax.recipes import pm
from tests.recipes import chain as chain_lib


def test_an_untrained_preference_model_has_no_opinion(chain):
  first, *_ = chain_lib.rows(chain.path / 'pm' / 'metrics.jsonl')
  assert first == {
    'step': 0,
    'eval/accuracy': 0.5,
    'eval/loss': pytest.approx(np.log(2), abs=1e-6),
    'eval/gold-helpful-base/accuracy': 0.5,
    'eval/gold-harmless-base/accuracy': 0.5,
  }


def test_accuracy_while_training_is_that_of_each_source_too():
  pairs = [
    examples.Pair('', 'a', 'b', 'c', source)
    for source in ('helpful', 'harmless', 'unused', 'helpful')
  ]
  # pair 3 is right, pair 0 wrong, pair 1 a tie; pair 2 is in no row
  report = pm.quick_report(
    pairs, np.array([3, 0, 1]), np.array([1.0, 0, 2]), np.array([0.0, 1, 2])
  )
  assert report == {
    'accuracy': 0.5,
    'loss': pytest.approx((np.log1p(np.exp([-1, 1])).sum() + np.log(2)) / 3),
    'helpful/accuracy': 0.5,
    'harmless/accuracy': 0.5,
  }
  report = pm.quick_report(
    pairs, np.array([3, 1]), np.array([1.0, 2]), np.array([0.0, 3])
  )
  assert (report['helpful/accuracy'], report['harmless/accuracy']) == (1, 0)


def test_tokens_and_pairs_are_counted_from_the_start_of_the_run(chain):
  for stage, name in (('pretrain', 'tokens'), ('pm', 'pairs')):
    lines = chain_lib.rows(chain.path / stage / 'metrics.jsonl')
    seen = [m[f'train/{name}'] for m in lines if f'train/{name}' in m]
    assert len(seen) > 2 and all(np.diff([0, *seen]) > 0)
  summary = json.loads((chain.path / 'pm' / 'summary.json').read_text())
  assert seen[-1] == summary['train/pairs']  # one epoch: every pair once


def test_micro_batches_make_the_same_preference_model(run_stage, tmp_path):
  found = []
  for num in (1, 2):
    where = f'--workdir={tmp_path / str(num)}'
    flags = '--config.batch_size=8', f'--config.num_micro_batches={num}'
    assert run_stage('pm', where, *flags).code == 0
    lines = chain_lib.rows(tmp_path / str(num) / 'metrics.jsonl')
    names = ('loss', 'accuracy', 'margin', 'pairs', 'grad_norm')
    found.append(
      [[m[f'train/{n}'] for n in names] for m in lines if 'train/loss' in m]
    )
  assert len(found[0]) > 2
  np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)
  # where, having begun with 1, is out of memory: it may go on with 2
  flags = '--config.batch_size=8', '--config.num_micro_batches=2'
  assert run_stage('pm', f'--workdir={tmp_path / "1"}', *flags).code == 0


@pytest.mark.parametrize('field', ['batch_size', 'num_micro_batches'])
def test_a_config_without_a_field_is_refused_by_name(field):
  config = pm_config.get_config('tiny')
  del config[field]
  with pytest.raises(InputError, match=f'no {field}'):
    pm.check(config)


def test_the_two_preference_models_share_no_training_pair(chain):
  kept = 0
  for stage in ('pm', 'heldout_pm'):
    report = json.loads((chain.path / stage / 'data_report.json').read_text())
    kept += report['train']['kept'] + report['train']['dropped_over_long']
  assert kept + report['train']['identical_replies'] == 60


def test_learning_rates_follow_the_schedule(chain):
  lines = metrics_lib.read_metrics(chain.path / 'pretrain' / 'metrics.jsonl')
  rates = [m['train/lr'] for m in lines if 'train/lr' in m]
  # linear from 1 / 50 of it at the first step to 3e-3 at step 50
  wanted = 3e-3 * (1 + 0.98 * np.arange(4)) / 50
  np.testing.assert_allclose(rates, wanted, rtol=1e-5)


def test_held_out_pairs_are_judged_once_each(chain):
  judged = chain_lib.rows(chain.path / 'pm' / 'eval.jsonl')
  report = json.loads((chain.path / 'pm' / 'data_report.json').read_text())
  assert len(judged) == report['test']['kept'] > 0
  summary = json.loads((chain.path / 'pm' / 'summary.json').read_text())
  margins = [row['score_chosen'] - row['score_rejected'] for row in judged]
  accuracy = np.mean([(m > 0) + 0.5 * (m == 0) for m in margins])
  assert summary['eval/accuracy'] == pytest.approx(accuracy)

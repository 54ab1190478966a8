"""PPO as it ran: exact where mathematics says so."""

import json

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from hh_jax import metrics as metrics_lib
from hh_jax.recipes import policy_training
from hh_jax.rl import controls
from hh_jax.types import TrainState
from tests.recipes import chain as chain_lib


@pytest.fixture(scope='module')
def lines(chain):
  return metrics_lib.read_metrics(chain.path / 'ppo' / 'metrics.jsonl')


@pytest.fixture(scope='module')
def updates(lines):
  return [line for line in lines if 'ppo/loss' in line]


@pytest.fixture(scope='module')
def evaluations(lines):
  return [line for line in lines if 'eval/kl' in line]


def test_the_policy_starts_as_the_reference(evaluations, updates):
  assert evaluations[0]['step'] == 0
  assert abs(evaluations[0]['eval/kl']) <= 1e-5
  assert abs(evaluations[0]['eval/kl_k1']) <= 1e-5
  assert abs(evaluations[0]['eval/pm_score']) <= 1e-6  # centred there
  assert abs(updates[0]['rollout/kl_k3']) <= 1e-5
  assert evaluations[-1]['eval/kl'] > 1e-3  # and moves


def test_the_first_minibatch_sees_the_policy_that_sampled(updates):
  assert len(updates) == 3
  for line in updates:
    assert line['ppo/first_log_ratio_abs_max'] < 1e-5
    assert line['rollout/sampler_error'] <= 1e-4
  # the later ones do not, or the test above says nothing
  assert max(line['ppo/ratio_max'] for line in updates) > 1 + 1e-3


@pytest.mark.parametrize(('value_net', 'wanted'), [('pm', -0.5), ('policy', 1)])
def test_values_start_in_the_scale_of_the_returns(value_net, wanted):
  """A copy of a PM of mean 3 and deviation 4: its score 1 is worth -1/2."""
  value = {'scalar_head': jnp.ones(2), 'scalar_bias': jnp.float32(-1.0)}
  loop = policy_training.Loop(
    config=ml_collections.ConfigDict({'value_net': value_net}),
    mesh=None, frozen={}, phases={}, decode=None, prompts=None, text=None,
    state=TrainState(jnp.int32(0), {'value': value}, None, None),
  )  # fmt: skip
  loop.begin(controls.Controls(0.1, 3.0, 16.0, 10))
  moved = loop.state.params['value']
  hidden = jnp.ones(2)
  assert hidden @ moved['scalar_head'] + moved['scalar_bias'] == wanted


def test_every_minibatch_is_one_optimizer_step(chain):
  summary = json.loads((chain.path / 'ppo' / 'summary.json').read_text())
  assert summary['train/optimizer_steps'] == 3 * 2 * 2
  assert summary['train/samples'] == 3 * 8


def test_reward_is_score_less_penalties(updates):
  """Mean over rows of what each row of rewards sums to."""
  for line in updates:
    penalty = 1.0 * (1 - line['rollout/stop_rate'])
    score = line['rollout/pm_score'] - penalty
    wanted = score - 0.1 * line['rollout/kl_k1']
    assert line['rollout/reward'] == pytest.approx(wanted, abs=1e-4)
  assert abs(updates[-1]['rollout/kl_k1']) > 1e-3


def test_gains_are_last_minus_first_evaluation(chain, evaluations):
  summary = json.loads((chain.path / 'ppo' / 'summary.json').read_text())
  for name in ('pm_score', 'heldout_pm_score', 'gold_score'):
    gain = evaluations[-1][f'eval/{name}'] - evaluations[0][f'eval/{name}']
    assert summary[f'gain/{name}'] == pytest.approx(gain, abs=1e-5)
    assert summary[f'gain/{name}_se'] > 0
  assert summary['last/kl'] == pytest.approx(evaluations[-1]['eval/kl'])


def test_samples_are_of_the_first_and_the_last_evaluation(chain):
  samples = chain_lib.rows(chain.path / 'ppo' / 'samples.jsonl')
  assert [s['step'] for s in samples] == [0] * 5 + [3] * 5
  for a, b in zip(samples[:5], samples[5:], strict=True):
    assert a['prompt'] == b['prompt'] and a['prompt'].endswith('Assistant:')


def test_the_runs_it_starts_from_are_left_alone(chain, run_stage, tmp_path):
  """On disk and in memory, while one more policy trains: value from policy,
  no held-out PM."""
  frozen = {}
  train_policy = policy_training.train_policy

  def watched(loop, *args, **kwargs):
    frozen['before'] = jax.device_get(loop.frozen)
    done = train_policy(loop, *args, **kwargs)
    frozen['after'] = jax.device_get(loop.frozen)
    frozen['policy'] = jax.device_get(loop.state.params['policy'])
    return done

  runs = [chain.path / name for name in ('pretrain', 'pm', 'heldout_pm')]
  before = [chain_lib.tree_hash(run) for run in runs]
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(policy_training, 'train_policy', watched)
    flags = ('value_net=policy', 'heldout_pm=', 'num_iterations=1')
    done = run_stage('ppo', *(f'--config.{flag}' for flag in flags))
  assert done.code == 0, done.err
  assert [chain_lib.tree_hash(run) for run in runs] == before
  assert frozen['before'].keys() == {'reference', 'pm_score'}
  chex.assert_trees_all_equal(frozen['before'], frozen['after'])
  before, after = frozen['after']['reference'], frozen['policy']
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
  assert max(jax.tree.leaves(moved)) > 1e-4
  summary = json.loads((tmp_path / 'ppo' / 'summary.json').read_text())
  assert summary['train/optimizer_steps'] == 4
  assert 'gain/pm_score' in summary and 'gain/heldout_pm_score' not in summary

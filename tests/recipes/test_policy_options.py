"""Other algorithms, other rewards, alarms, resumption: on the tiny chain."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from hh_jax import metrics as metrics_lib
from hh_jax.checkpoints import native
from hh_jax.recipes import common, ensembles, policy_training, policy_watch
from hh_jax.rl import rollout as rollout_lib
from tests.recipes import chain as chain_lib


def flags(*settings):
  return [f'--config.{setting}' for setting in settings]


GROUPS = flags(
  'value_net=none', 'samples_per_prompt=2', 'kl_in=loss',
  'kl_estimator=k3', 'aggregate=fixed_length', 'whiten_advantages=false',
  'num_iterations=1', 'heldout_pm=',
)  # fmt: skip
# a trunk with a head, text, an entropy bonus, and all that adapts
ADAPTING = flags(
  'value_net=head', 'batch_size=16', 'num_micro_batches=2', 'ptx_coef=0.5',
  'ptx_rows=8', 'ptx_row_length=64', 'entropy_coef=0.01', 'kl_target=1.0',
  'kl_horizon=100', 'score_norm=running', 'no_stop=replace', 'gamma=0.99',
  'optimizer.schedule=halving', 'halve_every=16', 'value_clip=0.0',
)  # fmt: skip


def lines(path, key):
  rows = metrics_lib.read_metrics(path / 'metrics.jsonl')
  return [row for row in rows if key in row]


def summary(path):
  return json.loads((path / 'summary.json').read_text())


def test_what_does_not_go_together(run_stage):
  whitened = [x for x in GROUPS if 'whiten' not in x]
  whitened += flags('advantage=rloo')
  assert 'whiten_advantages must be False' in run_stage('ppo', *whitened).error
  empty = flags('ptx_coef=1.0', 'ptx_rows=8', 'ptx_row_length=1')
  assert 'ptx_row_length 1 is not 2 or more' in run_stage('ppo', *empty).error
  too_often = flags('optimizer.schedule=halving', 'halve_every=1')
  assert 'less than an optimizer step' in run_stage('ppo', *too_often).error


@pytest.fixture
def rollouts(monkeypatch):
  """What the iterations of a run learnt from."""
  seen, iteration = [], policy_training.Loop.iteration

  def recording(self, key):
    rollout, *metrics = iteration(self, key)
    seen.append(jax.device_get(rollout))
    return rollout, *metrics

  monkeypatch.setattr(policy_training.Loop, 'iteration', recording)
  return seen


def has_moved(chain, path):
  """Whether the policy is not where it began."""
  (params, _), _ = chain_lib.checkpoint(path)
  (start, _), _ = chain_lib.checkpoint(chain.path / 'pretrain')
  return not np.array_equal(params['policy']['embedding'], start['embedding'])


@pytest.mark.parametrize(
  ('advantage', 'how'), [('rloo', 'mean_minus_variance'), ('grpo', 'mean')]
)
def test_groups_learn_from_an_ensemble_with_the_kl_in_the_loss(
  chain, run_stage, tmp_path, rollouts, advantage, how
):
  others = f"('{chain.path / 'heldout_pm'}',)"
  settings = flags(f'ensemble.how={how}', 'ensemble.k=500.0')
  settings += flags(f'advantage={advantage}', f'ensemble.others={others}')
  done = run_stage('ppo', *GROUPS, *settings)
  assert done.code == 0, done.err
  (rollout,) = rollouts
  given = rollout.advantages[:, :1]  # one number a reply
  np.testing.assert_array_equal(rollout.advantages, given * rollout.reply_mask)
  one, other = given.reshape(-1, 2).T  # of two, what each is above their mean
  np.testing.assert_allclose(one, -other, atol=1e-6)
  sizes = np.abs(one[one != 0])
  is_scaled = np.abs(sizes - 1) < 0.01
  assert sizes.size and is_scaled.all() == (advantage == 'grpo')
  assert has_moved(chain, tmp_path / 'ppo')
  (line,) = lines(tmp_path / 'ppo', 'ppo/loss')
  assert not {'rollout/value', 'rollout/explained_variance'} & line.keys()
  assert line['rollout/reward'] == pytest.approx(line['rollout/score'])
  assert line['ppo/kl_loss'] > 0
  state, _ = chain_lib.checkpoint(tmp_path / 'ppo')
  assert state[0].keys() == {'policy'}

  # at the start the chain's policy gives the same replies
  scores = member_scores(chain)
  wanted = scores.mean(axis=0)
  if how == 'mean_minus_variance':
    wanted = wanted - 500 * scores.var(axis=0)
  found = np.load(tmp_path / 'ppo' / 'eval_start.npz')['pm_score']
  np.testing.assert_allclose(found, wanted, atol=2e-6)
  assert 500 * scores.var(axis=0).max() > 1e-4


def member_scores(chain):
  """Of both PMs for the start's replies, centred on held-out pairs."""
  at_start = np.load(chain.path / 'ppo' / 'eval_start.npz')
  scores = []
  for name in ('pm', 'heldout_pm'):
    rows = chain_lib.rows(chain.path / name / 'eval.jsonl')
    pairs = [[row['score_chosen'], row['score_rejected']] for row in rows]
    scores.append(at_start[f'{name}_score'] - np.mean(pairs))
  return np.stack(scores)


def test_reinforce_with_slots(chain, run_stage, tmp_path, rollouts):
  """The reward less the value; a reply does not depend on who waits for it."""
  done = run_stage('ppo', *flags(
    'advantage=reinforce', 'whiten_advantages=false', 'num_iterations=1',
    'slots=4',
  ))  # fmt: skip
  assert done.code == 0, done.err
  (rollout,) = rollouts
  total, mask = rollout.returns[:, :1], rollout.reply_mask
  np.testing.assert_array_equal(rollout.returns, total * mask)
  np.testing.assert_allclose(
    rollout.advantages, (total - rollout.values) * mask, atol=1e-6
  )
  assert np.ptp(rollout.values[mask > 0]) > 1e-4
  found, wanted = (
    {k: v for k, v in lines(path, 'ppo/loss')[0].items() if 'rollout/' in k}
    for path in (tmp_path / 'ppo', chain.path / 'ppo')
  )
  del found['rollout/explained_variance'], wanted['rollout/explained_variance']
  assert total.mean() == pytest.approx(found['rollout/reward'])
  assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
  narrow, whole = (
    chain_lib.rows(path / policy_watch.PHASES)[0]['sample/temp_bytes']
    for path in (tmp_path / 'ppo', chain.path / 'ppo')
  )
  assert narrow != whole  # another program
  assert has_moved(chain, tmp_path / 'ppo')


@pytest.fixture(scope='module')
def adapting(chain, tmp_path_factory):
  """A run in which everything that can adapt does, and its directory."""
  path = tmp_path_factory.mktemp('adapting') / 'ppo'
  links = chain.links('tokenizer', 'init_from=pretrain', 'pm', 'heldout_pm')
  with chain_lib.recipe_settings(chain.path.parent / 'compiled'):
    done = chain_lib.run(
      'ppo', f'--workdir={path}', *links, *ADAPTING, size='ppo'
    )
  assert done.code == 0, done.err
  return path


def test_text_entropy_schedule_and_coefficient(adapting):
  updates = lines(adapting, 'ppo/loss')
  assert all(line['ppo/text_loss'] > 1 for line in updates)
  # no pass over 12 steps is without its warm-up of 0: halved every 4 steps
  lr = [line['ppo/lr'] for line in updates]
  np.testing.assert_allclose(lr, [lr[0], lr[0] / 2, lr[0] / 4])
  coefs = [line['ppo/kl_coef'] for line in updates]
  kls = [line['rollout/kl_k1'] for line in updates]
  assert coefs[0] == 0.1 and coefs[1] == pytest.approx(0.1 * (1 - 0.2 * 0.16))
  step = np.clip(kls[1] / 1.0 - 1, -0.2, 0.2) * 0.16
  assert coefs[2] == pytest.approx(coefs[1] * (1 + step))
  step = np.clip(kls[2] / 1.0 - 1, -0.2, 0.2) * 0.16
  found = summary(adapting)['train/next_kl_coef']
  assert found == pytest.approx(coefs[2] * (1 + step)) and found != coefs[2]
  assert updates[0]['ppo/optimizer_steps'] == 4
  assert summary(adapting)['train/optimizer_steps'] == 12


def test_a_cut_reply_gets_the_fixed_score(adapting):
  line = lines(adapting, 'ppo/loss')[-1]
  assert line['rollout/stop_rate'] < 1
  assert line['rollout/score'] < -1 + 2 * line['rollout/stop_rate']


def test_an_interrupted_adapting_run_goes_on_bitwise(
  adapting, run_stage, tmp_path, monkeypatch
):
  """The coefficient, the normaliser and both data positions come back."""
  write = metrics_lib.MetricsWriter.write

  def stopping(self, at, metrics):
    if at == 3 and 'ppo/loss' in metrics:
      raise KeyboardInterrupt
    write(self, at, metrics)

  with monkeypatch.context() as patched:
    patched.setattr(metrics_lib.MetricsWriter, 'write', stopping)
    assert run_stage('ppo', *ADAPTING).code == 130
  _, host = chain_lib.checkpoint(tmp_path / 'ppo')
  assert host['controls']['kl_coef'] != 0.1
  assert host['controls']['score_count'] == 10 + 2 * 16
  assert run_stage('ppo', *ADAPTING).code == 0
  chain_lib.assert_same_checkpoint(tmp_path / 'ppo', adapting)
  for name in ('metrics.jsonl', 'samples.jsonl'):
    assert chain_lib.rows(tmp_path / 'ppo' / name) == chain_lib.rows(
      adapting / name
    )
  assert summary(tmp_path / 'ppo') == summary(adapting)


def test_the_best_checkpoint_is_that_of_the_best_evaluation(adapting):
  scores = {
    line['step']: line['eval/heldout_pm_score']
    for line in lines(adapting, 'eval/heldout_pm_score')
  }
  best = max(scores, key=scores.get)
  assert summary(adapting)['best/iteration'] == best
  assert summary(adapting)['best/heldout_pm_score'] == scores[best]
  kept = [
    p.name for p in (adapting / native.BEST).iterdir() if p.name.isdigit()
  ]
  assert kept == [str(4 * best)]
  assert common.split_step(f'{adapting}@best') == (str(adapting), 'best')


def test_every_phase_says_how_long_it_took_and_what_it_needs(adapting):
  rows = chain_lib.rows(adapting / policy_watch.PHASES)
  assert [row['step'] for row in rows] == [1, 2, 3]
  for phase in ('sample', 'score', 'update'):
    assert all(row[f'{phase}/seconds'] > 0 for row in rows)
    assert rows[0][f'{phase}/temp_bytes'] > 0


def test_the_layout_for_decoding_changes_no_reply(chain, run_stage, tmp_path):
  """Made once an iteration, and once an evaluation."""
  options = flags('decode_params=gathered', 'num_iterations=1')
  assert run_stage('ppo', *options).code == 0
  (row,) = chain_lib.rows(tmp_path / 'ppo' / policy_watch.PHASES)
  (split, *_) = chain_lib.rows(chain.path / 'ppo' / policy_watch.PHASES)
  assert row['reshard/seconds'] > 0 and 'reshard/seconds' not in split
  # whole on each of four devices
  arguments = row['reshard/argument_bytes']
  assert 3 * arguments < row['reshard/output_bytes'] < 4.5 * arguments
  assert row['sample/argument_bytes'] > 2 * split['sample/argument_bytes']
  for name in ('rollout/length', 'rollout/pm_score', 'eval/kl'):
    found, wanted = (
      lines(path, name)[0] for path in (tmp_path / 'ppo', chain.path / 'ppo')
    )
    assert found[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-5)


def test_one_minibatch_learns_from_the_pass_that_scored(
  run_stage, tmp_path, monkeypatch
):
  """And ends where a run with two passes ends, but for rounding."""
  one_minibatch = flags('num_minibatches=1', 'num_iterations=2')
  assert run_stage('ppo', *one_minibatch).code == 0
  row = chain_lib.rows(tmp_path / 'ppo' / policy_watch.PHASES)[0]
  assert row['learn/seconds'] > 0 and 'score/seconds' not in row
  (tmp_path / 'ppo').rename(tmp_path / 'shared')
  monkeypatch.setattr(policy_training, 'shares_pass', lambda config: False)
  assert run_stage('ppo', *one_minibatch).code == 0
  one, other = (summary(tmp_path / name) for name in ('shared', 'ppo'))
  assert one['train/optimizer_steps'] == 4
  for name in ('gain/pm_score', 'last/kl', 'last/length'):
    assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), name
  found = (lines(tmp_path / name, 'ppo/loss')[0] for name in ('shared', 'ppo'))
  one, other = found
  for name in ('ppo/loss', 'ppo/grad_norm', 'rollout/kl_k1', 'rollout/score'):
    assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


def test_an_alarm_ends_the_run(run_stage, tmp_path):
  done = run_stage(
    'ppo', *flags('alarms.action=stop', 'alarms.min_stop_rate=1.0')
  )
  assert done.code == 0
  assert 'iteration 1: alarm stop_rate: rollout/stop_rate' in done.err
  found = summary(tmp_path / 'ppo')
  assert found['alarms/stop_rate'] == found['train/iterations'] == 1
  assert lines(tmp_path / 'ppo', 'eval/kl')[-1]['step'] == 1
  state, _ = chain_lib.checkpoint(tmp_path / 'ppo')
  assert state[1]['step'] == 4


def test_a_sampler_of_another_distribution_is_caught(run_stage, monkeypatch):
  """Drawn at one temperature, scored at another: the classic."""

  def hotter(nets, *args, **options):
    cold = dataclasses.replace(nets.distribution, temperature=0.7)
    return draw(dataclasses.replace(nets, distribution=cold), *args, **options)

  draw = rollout_lib.draw
  monkeypatch.setattr(rollout_lib, 'draw', hotter)
  error = run_stage('ppo').error_line
  assert 'iteration 1: log-probs of the sampler' in error


@pytest.mark.parametrize(
  ('factor', 'says'),
  [(0.0, 'there is nothing to learn'), (np.nan, 'not finite')],
)
def test_a_reward_that_teaches_nothing(run_stage, monkeypatch, factor, says):
  load = ensembles.load

  def broken(*args, **kwargs):
    return jax.tree.map(lambda x: x * factor, load(*args, **kwargs))

  monkeypatch.setattr(ensembles, 'load', broken)
  assert says in run_stage('ppo').error_line


def test_non_finite_updates_are_dumped_and_stop_the_run(
  run_stage, tmp_path, monkeypatch
):
  make = rollout_lib.advantages.gae

  def broken(*args, **kwargs):
    advantages, returns = make(*args, **kwargs)
    return advantages * np.nan, returns

  monkeypatch.setattr(rollout_lib.advantages, 'gae', broken)
  done = run_stage('ppo', *flags('alarms.max_failed=2', 'save_every=1'))
  assert 'non-finite updates in 2 iterations on end' in done.error_line
  dumped = np.load(tmp_path / 'ppo' / 'skipped_2.npz')
  assert dumped['tokens'].shape == (8, 48 + 8)
  state, _ = chain_lib.checkpoint(tmp_path / 'ppo')
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state[0]))


def test_prompts_of_files_are_mixed_in(run_stage, tmp_path):
  path = tmp_path / 'more.jsonl'
  rows = [
    {'prompt': f'\n\nHuman: What is {i}?\n\nAssistant:'} for i in (1, 2, 2, 3)
  ]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  done = run_stage(
    'ppo', *flags(
      f"prompt_files=('{path}',)", 'prompt_weights.extra=1.0',
      'prompt_weights.helpful=3.0', 'num_iterations=1', 'heldout_pm=',
    )
  )  # fmt: skip
  assert done.code == 0, done.err
  found = summary(tmp_path / 'ppo')
  assert found['train/prompts_extra'] == 3
  assert found['train/prompts_dropped_repeated'] == 1
  assert found['train/prompts_helpful'] == found['train/prompts'] - 3

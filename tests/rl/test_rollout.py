"""Rollouts add up; updates depend on no mesh, micro-batch or padding."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import arrays, sampling, sharding, train, types
from hh_jax import model as model_lib
from hh_jax.data import packing
from hh_jax.losses import ppo
from hh_jax.rl import advantages, ensemble, updates
from hh_jax.rl import rollout as rollout_lib

STOP, EOC, LIKED, VOCAB, REPLY = 3, 4, 5, 8, 4
KL_COEF, PENALTY, SCORE_MEAN = 0.2, 0.5, 0.25


class LikesOneToken:
  """A preference model whose score counts one token of the reply."""

  def hidden(self, params, tokens, positions, mask, columns):
    count = jnp.cumsum(tokens == params['liked'], axis=1)
    hidden = count[..., None].astype(jnp.float32)
    return arrays.take_columns(hidden, columns)

  def scores(self, params, hidden):
    return hidden[..., 0]


MODEL = model_lib.Transformer(
  model_lib.ModelConfig(
    num_layers=1, d_model=16, num_heads=2, d_mlp=32, vocab_size=VOCAB
  )
)
INIT = jax.jit(MODEL.init)
NETS = rollout_lib.Networks(
  policy=MODEL,
  value=MODEL,
  values='separate',
  pm=LikesOneToken(),
  combine=functools.partial(ensemble.combine, how='worst', k=0.0),
  distribution=sampling.SamplingDistribution(
    temperature=1.0, banned=(0, 1, 2, EOC), stop=(STOP,)
  ),
  max_reply=REPLY,
  end_id=EOC,
  chunk=64,
)


def prompts(mesh):
  ids = [[2, 6], [2, 7, 6], [2, 7], [2, 6, 6]] * 16
  rows, _ = packing.pad_prompts(ids, length=3)
  return sharding.place(mesh, rows)


def make_frozen():
  return {
    'reference': INIT(jax.random.key(1)),
    'pm': {'liked': jnp.int32(LIKED)},
  }


def controls(kl_coef=KL_COEF, score_mean=0.0, score_std=1.0):
  return {
    'kl_coef': np.float32(kl_coef),
    'score_mean': np.float32(score_mean),
    'score_std': np.float32(score_std),
  }


def rewarding(**changes):
  settings = dict(
    kl_estimator='k1',
    kl_in_reward=True,
    no_stop='subtract',
    no_stop_penalty=PENALTY,
    advantage_fn=advantages.make('gae', gamma=1.0, lam=1.0, num_samples=1),
    whiten=True,
  )
  return rollout_lib.Rewarding(**(settings | changes))


SAMPLE = rollout_lib.make_sample(NETS, num_samples=1)
SCORE = rollout_lib.make_score(NETS, rewarding())


def parameters(mesh):
  """A policy that is not the reference, and a value."""
  policy, value = (INIT(jax.random.key(i)) for i in (0, 2))
  value['scalar_head'] += 0.1
  params = {'policy': policy, 'value': value}
  return jax.device_put(params, sharding.tree_shardings(mesh, params))


def collect_on(mesh, score=SCORE, sample=SAMPLE, **changes):
  """A rollout by another policy than the reference, and its metrics."""
  with jax.set_mesh(mesh):
    params = parameters(mesh)
    samples = sample(params['policy'], prompts(mesh), jax.random.key(3))
    with_mean = controls(score_mean=SCORE_MEAN, **changes)
    out = score(params, make_frozen(), with_mean, samples)
  return jax.device_get(out)


@pytest.fixture(scope='module')
def collected():
  return collect_on(sharding.make_mesh())


def test_one_device_and_four_sample_the_same(collected):
  one = collect_on(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1]))
  np.testing.assert_array_equal(one[0].tokens, collected[0].tokens)
  for a, b in zip(*map(jax.tree.leaves, (one, collected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_layout_for_decoding_samples_the_same(collected):
  mesh = sharding.make_mesh(fsdp=2, model=2)
  layout = jax.tree.map(lambda x: x.sharding, parameters(mesh)['policy'])
  reshard = rollout_lib.make_reshard(NETS, layout)

  def sample(policy, *args):
    policy = reshard(policy)
    table = policy['embedding']
    half = (table.shape[0] // 2, table.shape[1])  # of 'model' alone
    assert {s.data.shape for s in table.addressable_shards} == {half}
    return SAMPLE(policy, *args)

  rollout, _ = collect_on(mesh, sample=sample)
  np.testing.assert_array_equal(rollout.tokens, collected[0].tokens)


def test_samples_and_rollouts_stay_split_by_rows():
  mesh = sharding.make_mesh()
  params, rows = parameters(mesh), prompts(mesh)
  samples = SAMPLE(params['policy'], rows, jax.random.key(3))
  rollout, _ = SCORE(params, make_frozen(), controls(), samples)
  for x in jax.tree.leaves((samples, rollout)):
    assert x.sharding.is_equivalent_to(rows.lengths.sharding, x.ndim)


@pytest.mark.parametrize('estimator', ['k1', 'k2', 'k3'])
def test_rewards_sum_to_score_minus_kl(estimator):
  """With gamma = lambda = 1 the first return is the sum of a row's rewards."""
  score = rollout_lib.make_score(NETS, rewarding(kl_estimator=estimator))
  rollout, metrics = collect_on(sharding.make_mesh(), score, score_std=2.0)
  replies = rollout.tokens[:, -REPLY:]
  is_stopped = (replies == STOP).any(axis=1)
  assert 0.1 < is_stopped.mean() < 0.95
  counts = (replies == LIKED).sum(axis=1)
  assert metrics['pm_score'] == pytest.approx(counts.mean(), abs=1e-5)
  x = (rollout.logprobs - rollout.ref_logprobs) * rollout.reply_mask
  kls = {'k1': x, 'k2': x**2 / 2, 'k3': np.exp(-x) - 1 + x}
  for name, x in kls.items():
    wanted = x.sum(axis=1).mean()
    assert metrics[f'kl_{name}'] == pytest.approx(wanted, abs=1e-5)
  centred = (counts - SCORE_MEAN) / 2.0 - PENALTY * ~is_stopped
  wanted = centred - KL_COEF * kls[estimator].sum(axis=1)
  np.testing.assert_allclose(rollout.returns[:, 0], wanted, atol=1e-5)
  assert metrics['reward'] == pytest.approx(wanted.mean(), abs=1e-5)
  assert metrics['score'] == pytest.approx(centred.mean(), abs=1e-5)
  assert not rollout.kl_coef.any()


def test_kl_in_the_loss_is_not_in_the_reward():
  score = rollout_lib.make_score(NETS, rewarding(kl_in_reward=False))
  rollout, metrics = collect_on(sharding.make_mesh(), score)
  np.testing.assert_array_equal(rollout.kl_coef, np.float32(KL_COEF))
  assert metrics['reward'] == pytest.approx(metrics['score'], abs=1e-6)


def test_nothing_lies_after_the_end_of_a_reply(collected):
  rollout, metrics = collected
  replies, mask = rollout.tokens[:, -REPLY:], rollout.reply_mask
  lengths = mask.sum(axis=1).astype(int)
  assert set(lengths) == set(range(1, REPLY + 1))
  for row, n in zip(replies, lengths, strict=True):
    assert STOP not in row[: n - 1] and not row[n:].any()
  for x in (
    rollout.logprobs, rollout.ref_logprobs, rollout.values, rollout.returns,
  ):  # fmt: skip
    assert not (x * (1 - mask)).any() and (x * mask).any()
  assert metrics['length'] == pytest.approx(lengths.mean())
  assert metrics['sampler_error'] <= 1e-4
  drawn = set(replies[mask > 0].tolist())
  assert drawn == {STOP, LIKED, 6, 7}  # the rest is banned


def test_advantages_are_whitened_over_reply_tokens(collected):
  rollout, _ = collected
  advantages = rollout.advantages[rollout.reply_mask > 0]
  assert advantages.mean() == pytest.approx(0, abs=1e-5)
  assert advantages.std() == pytest.approx(1, abs=1e-3)


def test_samples_of_one_prompt_are_neighbours_and_differ():
  mesh = sharding.make_mesh()
  sample = rollout_lib.make_sample(NETS, num_samples=2)
  rloo = advantages.make('rloo', gamma=1.0, lam=1.0, num_samples=2)
  score = rollout_lib.make_score(
    NETS, rewarding(advantage_fn=rloo, whiten=False)
  )
  rollout, _ = collect_on(mesh, score, sample)
  pairs = rollout.tokens.reshape(-1, 2, rollout.tokens.shape[1])
  np.testing.assert_array_equal(pairs[:, 0, :3], pairs[:, 1, :3])
  assert (pairs[:, 0] != pairs[:, 1]).any(axis=1).mean() > 0.5
  first = rollout.advantages[:, 0].reshape(-1, 2)
  np.testing.assert_allclose(first.sum(axis=1), 0, atol=1e-5)
  assert np.abs(first).max() > 0.1


@pytest.mark.parametrize('values', ['head', 'none'])
def test_values_of_a_head_and_of_nothing(values):
  nets = dataclasses.replace(NETS, values=values)
  mesh = sharding.make_mesh()
  with jax.set_mesh(mesh):
    policy = INIT(jax.random.key(0))
    samples = SAMPLE(policy, prompts(mesh), jax.random.key(3))
    params = {'policy': policy | {'scalar_head': jnp.full(16, 0.1)}}
    where = (samples.tokens, samples.prompt_lengths)
    logprobs, _, got = nets.actor_critic(params, *where)
    both = {'policy': policy, 'value': params['policy']}
    wanted_logprobs, _, wanted = NETS.actor_critic(both, *where)
  np.testing.assert_array_equal(logprobs, wanted_logprobs)
  wanted = wanted if values == 'head' else jnp.zeros_like(wanted)
  np.testing.assert_allclose(got, wanted, atol=1e-6)
  assert (values == 'none') or np.abs(got).max() > 0.1


LOSS = dict(
  clip_eps=0.2, value_clip=0.5, value_coef=0.5, entropy_coef=0.0,
  kl_estimator='k1',
)  # fmt: skip


def make_learner(mesh, *, micro=1, minibatches=2, lr=3e-2, how=None, **loss):
  """A fresh state, what its shardings are, and the update of it.

  With `how` the update is one with the scoring.
  """
  tx = train.make_optimizer(
    lambda step: lr,
    weight_decay=0.0, clip_norm=1.0, b1=0.9, b2=0.95, eps=1e-8,
  )  # fmt: skip
  params = {
    'policy': make_frozen()['reference'], 'value': INIT(jax.random.key(2))
  }  # fmt: skip
  state, shardings = train.state_from(params, tx, jax.random.key(4), mesh)
  entropy_gradient = loss.get('entropy_coef', 0.0) > 0
  surrogate = ppo.surrogate_loss(**(LOSS | loss))
  policy_fn = NETS.actor_critic.policy_fn(entropy_gradient=entropy_gradient)
  step = train.make_train_step(
    ppo.ppo_loss(policy_fn, surrogate),
    tx,
    shardings,
    num_micro_batches=micro,
    skip_nonfinite=True,
  )
  settings = dict(shardings=shardings, num_epochs=2, aggregate='token_mean')
  if how is None:
    update = updates.make_update(step, num_minibatches=minibatches, **settings)
    return state, shardings, update
  apply = functools.partial(train.apply_gradients, tx=tx, skip_nonfinite=True)
  learn = updates.make_learn(
    *(NETS, how, surrogate, step, apply),
    entropy_gradient=entropy_gradient,
    **settings,
  )
  return state, shardings, learn


@pytest.fixture
def mesh():
  mesh = sharding.make_mesh()
  with jax.set_mesh(mesh):
    yield mesh


def test_ppo_learns_what_the_preference_model_likes(mesh):
  """From 0.7 of 4 tokens to nearly all, in 9 iterations of 64 replies."""
  frozen, scores = make_frozen(), []
  state, shardings, update = make_learner(mesh)
  for i in range(9):
    key = jax.random.fold_in(jax.random.key(5), i)
    samples = SAMPLE(state.params['policy'], prompts(mesh), key)
    rollout, seen = SCORE(state.params, frozen, controls(), samples)
    state, metrics = update(state, rollout, None)
    scores.append(float(seen['pm_score']))
    assert float(metrics['ratio_max'][0]) == pytest.approx(1, abs=1e-5)
    assert float(metrics['approx_kl_k3'][0]) == pytest.approx(0, abs=1e-8)
  assert scores[0] < 1 and scores[-1] > 3, scores
  assert metrics['loss'].shape == (4,) and int(state.step) == 9 * 4
  # otherwise the second iteration compiles everything again
  assert jax.tree.map(lambda x: x.sharding, state) == shardings


@functools.cache
def learner_on(fsdp, micro):
  """A start, and its update with every term of the loss in it."""
  mesh = sharding.make_mesh(fsdp=fsdp, devices=jax.devices()[:fsdp])
  with jax.set_mesh(mesh):
    state, _, update = make_learner(
      mesh, micro=micro, lr=1e-3, entropy_coef=0.01, kl_estimator='k3'
    )
  return mesh, jax.device_get(state.params), state, update


def updated(rollout, *, fsdp=4, micro=1):
  """Steps, moves and metrics of 2 epochs x 2 minibatches, on the host."""
  mesh, start, state, update = learner_on(fsdp, micro)
  with jax.set_mesh(mesh):
    rollout = rollout.replace(kl_coef=rollout.kl_coef + np.float32(0.3))
    copied = jax.tree.map(jnp.copy, state)  # the update donates it
    state, metrics = update(copied, sharding.place(mesh, rollout), None)
  moved = jax.tree.map(np.subtract, jax.device_get(state.params), start)
  return int(state.step), moved, jax.device_get(metrics)


@pytest.fixture(scope='module')
def base(collected):
  return updated(collected[0])


@pytest.mark.parametrize(('fsdp', 'micro'), [(4, 2), (1, 1), (1, 32)])
def test_micro_batches_and_devices_change_nothing(collected, base, fsdp, micro):
  steps, moved, metrics = base
  other_steps, other_moved, other_metrics = updated(
    collected[0], fsdp=fsdp, micro=micro
  )
  assert steps == other_steps == 4
  assert metrics.keys() == other_metrics.keys()
  for name, x in metrics.items():
    np.testing.assert_allclose(
      x, other_metrics[name], rtol=2e-4, atol=2e-6, err_msg=name
    )
  # Adam divides by the gradient's size: tiny gradients are all rounding
  scale = max(np.abs(x).max() for x in jax.tree.leaves(moved))
  assert scale > 1e-3
  chex.assert_trees_all_close(moved, other_moved, atol=0.02 * scale)


def test_what_is_in_the_padding_changes_nothing(collected, base):
  rollout, _ = collected
  width = rollout.tokens.shape[1] - REPLY
  columns = np.arange(rollout.tokens.shape[1])
  is_real = columns >= width - rollout.prompt_lengths[:, None]
  is_real[:, width:] = rollout.reply_mask > 0
  junk = np.random.default_rng(0).integers(1, VOCAB, rollout.tokens.shape)
  other = rollout.replace(tokens=np.where(is_real, rollout.tokens, junk))
  assert (other.tokens != rollout.tokens).any()
  _, moved, metrics = base
  _, other_moved, other_metrics = updated(other)
  for name, x in metrics.items():
    np.testing.assert_allclose(
      x, other_metrics[name], rtol=1e-4, atol=1e-6, err_msg=name
    )
  chex.assert_trees_all_close(moved, other_moved, atol=2e-5)


@pytest.mark.parametrize('fsdp', [1, 4])
@pytest.mark.parametrize('epochs', [1, 2])
def test_one_pass_for_scores_and_update_is_the_same_as_two(
  monkeypatch, fsdp, epochs
):
  """With every term of the loss, and KL in it; rows are in another order."""
  mesh = sharding.make_mesh(fsdp=fsdp, devices=jax.devices()[:fsdp])
  how = rewarding(kl_in_reward=False)
  terms = dict(lr=1e-3, entropy_coef=0.01, kl_estimator='k3')
  for name in ('make_update', 'make_learn'):
    make = functools.partial(getattr(updates, name))
    monkeypatch.setattr(
      updates,
      name,
      lambda *args, make=make, **kw: make(*args, **kw | {'num_epochs': epochs}),
    )
  with jax.set_mesh(mesh):
    start, _, update = make_learner(mesh, minibatches=1, **terms)
    other, shardings, learn = make_learner(mesh, how=how, **terms)
    before = jax.device_get(start.params)
    samples = SAMPLE(start.params['policy'], prompts(mesh), jax.random.key(3))
    given = make_frozen(), controls(), samples
    score = rollout_lib.make_score(NETS, how)
    rollout, seen = score(start.params, *given)
    state, metrics = update(start, rollout, None)
    learnt, *found = learn(other, *given)
  assert int(learnt.step) == int(state.step) == epochs
  assert jax.tree.map(lambda x: x.sharding, learnt) == shardings
  wanted = jax.device_get((rollout, seen, metrics))
  assert metrics['loss'].shape == (epochs,)
  chex.assert_trees_all_close(
    tuple(jax.device_get(found)), wanted, rtol=2e-4, atol=2e-6
  )
  moved, other_moved = (
    jax.tree.map(np.subtract, jax.device_get(s.params), before)
    for s in (state, learnt)
  )
  scale = max(np.abs(x).max() for x in jax.tree.leaves(moved))
  assert scale > 5e-4
  chex.assert_trees_all_close(moved, other_moved, atol=0.02 * scale)


def test_an_update_that_is_not_finite_is_skipped_and_counted(collected, base):
  rollout, _ = collected
  bad = rollout.replace(advantages=rollout.advantages * np.nan)
  steps, moved, metrics = updated(bad)
  assert steps == 4 and metrics['skipped'].tolist() == [1.0] * 4
  assert not any(x.any() for x in jax.tree.leaves(moved))
  assert base[2]['skipped'].tolist() == [0.0] * 4


def test_an_ensemble_judges_as_its_worst_member():
  tokens = [[2, 6, 7, 5, 5, STOP, 0], [2, 7, 6, 6, 5, 5, 5]]
  samples = types.Samples(
    tokens=jnp.array(tokens),
    prompt_lengths=jnp.array([3, 3]),
    reply_lengths=jnp.array([3, 4]),
    reply_mask=jnp.ones((2, REPLY)),
    is_stopped=jnp.array([True, False]),
    logprobs=jnp.zeros((2, REPLY)),
  )
  members = tuple({'liked': jnp.int32(i)} for i in (5, 6))

  def judge(params):
    return rollout_lib.judge(NETS, params, samples)

  np.testing.assert_array_equal(judge(members[0]), [2, 3])
  np.testing.assert_array_equal(judge(members[1]), [1, 2])
  np.testing.assert_array_equal(judge(members), [1, 2])
  np.testing.assert_array_equal(judge(members[:1]), judge(members[0]))

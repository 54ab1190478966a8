"""Rollouts add up, do not depend on the mesh, and PPO on them learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import model as model_lib
from hh_jax import sampling, sharding, train, types
from hh_jax.data import packing
from hh_jax.losses import ppo
from hh_jax.rl import ensemble
from hh_jax.rl import policy as policy_lib
from hh_jax.rl import rollout as rollout_lib

STOP, EOC, LIKED, VOCAB, REPLY = 3, 4, 5, 8, 4
KL_COEF, PENALTY, SCORE_MEAN = 0.2, 0.5, 0.25


class LikesOneToken:
  """A preference model whose score counts one token of the reply."""

  def hidden(self, params, tokens, positions, mask):
    count = jnp.cumsum(tokens == params['liked'], axis=1)
    return count[..., None].astype(jnp.float32), None

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


def make_frozen(score_mean=0.0):
  return {
    'reference': INIT(jax.random.key(1)),
    'pm': {'liked': jnp.int32(LIKED)},
    'score_mean': np.float32(score_mean),
  }


COLLECT = rollout_lib.make_collect(
  NETS, kl_coef=KL_COEF, gamma=1.0, lam=1.0, no_stop_penalty=PENALTY
)


def collect_on(mesh):
  """A rollout by another policy than the reference, and its metrics."""
  with jax.set_mesh(mesh):
    policy, value = (INIT(jax.random.key(i)) for i in (0, 2))
    value['scalar_head'] += 0.1
    params = {'policy': policy, 'value': value}
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))
    frozen = make_frozen(SCORE_MEAN)
    out = COLLECT(params, frozen, prompts(mesh), jax.random.key(3))
  return jax.device_get(out)


@pytest.fixture(scope='module')
def collected():
  return collect_on(sharding.make_mesh())


def test_one_device_and_four_sample_the_same(collected):
  one = collect_on(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1]))
  np.testing.assert_array_equal(one[0].tokens, collected[0].tokens)
  for a, b in zip(*map(jax.tree.leaves, (one, collected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_rewards_sum_to_score_minus_kl(collected):
  """With gamma = lambda = 1 the first return is the sum of a row's rewards."""
  rollout, metrics = collected
  replies = rollout.tokens[:, -REPLY:]
  is_stopped = (replies == STOP).any(axis=1)
  assert 0.1 < is_stopped.mean() < 0.95
  score = (replies == LIKED).sum(axis=1) - SCORE_MEAN
  assert metrics['pm_score'] == pytest.approx(score.mean(), abs=1e-5)
  wanted = (score - PENALTY * ~is_stopped).mean() - KL_COEF * metrics['kl_k1']
  assert metrics['kl_k1'] > 0.01 and metrics['kl'] > 0.01
  for got in (rollout.returns[:, 0].mean(), metrics['reward']):
    assert got == pytest.approx(wanted, abs=1e-5)


def test_nothing_lies_after_the_end_of_a_reply(collected):
  rollout, metrics = collected
  replies, mask = rollout.tokens[:, -REPLY:], rollout.reply_mask
  lengths = mask.sum(axis=1).astype(int)
  assert set(lengths) == set(range(1, REPLY + 1))
  for row, n in zip(replies, lengths, strict=True):
    assert STOP not in row[: n - 1] and not row[n:].any()
  for x in (rollout.logprobs, rollout.values, rollout.returns):
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


def make_learner(mesh):
  """A fresh state, what its shardings are, and the update of it."""
  tx = train.make_optimizer(
    lambda step: 3e-2,
    weight_decay=0.0, clip_norm=1.0, b1=0.9, b2=0.95, eps=1e-8,
  )  # fmt: skip
  params = {
    'policy': make_frozen()['reference'], 'value': INIT(jax.random.key(2))
  }  # fmt: skip
  state, shardings = train.state_from(params, tx, jax.random.key(4), mesh)
  policy_fn = policy_lib.make_policy_fn(
    MODEL, MODEL, distribution=NETS.distribution, max_reply=REPLY, chunk=64
  )
  update = rollout_lib.make_update(
    train.make_train_step(
      ppo.ppo_loss(policy_fn, clip_eps=0.2, value_clip=0.5, value_coef=0.5),
      tx,
      shardings,
    ),
    shardings=shardings,
    num_epochs=2,
    num_minibatches=2,
  )
  return state, shardings, update


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
    rollout, seen = COLLECT(state.params, frozen, prompts(mesh), key)
    state, metrics = update(state, rollout)
    scores.append(float(seen['pm_score']))
    assert float(metrics['ratio_max'][0]) == pytest.approx(1, abs=1e-5)
  assert scores[0] < 1 and scores[-1] > 3, scores
  assert metrics['loss'].shape == (4,) and int(state.step) == 9 * 4
  # otherwise the second iteration compiles everything again
  assert jax.tree.map(lambda x: x.sharding, state) == shardings


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

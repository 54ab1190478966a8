import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from hh_jax import model as model_lib
from hh_jax import sampling, sharding
from hh_jax.data import packing
from hh_jax.rl import policy

VOCAB, STOP, EOC = 24, 5, 4
PROMPTS = [[2, 9, 8, 7], [2, 11], [2, 9, 9, 9, 9, 9]]
DIST = sampling.SamplingDistribution(
  temperature=0.7, banned=(0, 1, 2, EOC), stop=(3, STOP)
)


@pytest.fixture(scope='module')
def network():
  config = model_lib.ModelConfig(
    num_layers=2, d_model=16, num_heads=2, d_mlp=32, vocab_size=VOCAB
  )
  model = model_lib.Transformer(config)
  params = model.init(jax.random.key(0))
  params['embedding'] *= 4  # a fresh model is nearly uniform
  params['scalar_head'] = jax.random.normal(jax.random.key(1), (16,))
  return model, params


@functools.partial(
  jax.jit, static_argnums=0, static_argnames=('max_reply', 'distribution')
)
def draw(model, params, prompts, key, row_ids, *, max_reply, distribution=DIST):
  return sampling.sample(
    model,
    params,
    prompts,
    key,
    distribution=distribution,
    max_reply=max_reply,
    row_ids=row_ids,
  )


def prompts_of(ids, length=6):
  rows, dropped = packing.pad_prompts(ids, length=length)
  assert not dropped
  return jax.tree.map(jnp.array, rows)


@pytest.fixture(scope='module')
def samples(network):
  prompts = prompts_of(PROMPTS * 8)
  return draw(*network, prompts, jax.random.key(7), jnp.arange(24), max_reply=8)


def test_sampler_logprobs_are_those_of_a_teacher_forced_pass(network, samples):
  model, params = network
  seen = jax.jit(
    lambda params, tokens, lengths: policy.compare(
      model,
      params,
      params,
      tokens,
      lengths,
      distribution=DIST,
      max_reply=8,
      chunk=7,
    )
  )(params, samples.tokens, samples.prompt_lengths)
  mask = np.array(samples.reply_mask) > 0
  np.testing.assert_allclose(
    seen['logprobs'][mask], samples.logprobs[mask], atol=1e-5
  )
  assert (seen['logprobs'] == seen['ref_logprobs']).all()
  assert (seen['kl'] == 0).all()
  assert (samples.logprobs[~mask] == 0).all()


def test_replies_end_at_the_first_stop_token(samples):
  replies = np.array(samples.tokens)[:, 6:]
  is_stop = np.isin(replies, DIST.stop)
  lengths = np.array(samples.reply_lengths)
  assert len(set(lengths.tolist())) > 2  # ragged, else this shows nothing
  assert np.array(samples.is_stopped).any()
  for row, length, stopped in zip(
    is_stop, lengths, samples.is_stopped, strict=True
  ):
    assert row[:length].sum() == int(stopped)
    assert row[length - 1] == bool(stopped)
    assert stopped or length == 8
  columns = np.arange(8)[None] < lengths[:, None]
  np.testing.assert_array_equal(samples.reply_mask, columns)
  assert (replies[~columns] == 0).all()
  assert not np.isin(replies[columns], DIST.banned).any()


def test_a_row_does_not_depend_on_its_batch(network, samples):
  order = np.array([17, 2, 9])
  prompts = prompts_of([(PROMPTS * 8)[i] for i in order])
  some = draw(
    *network, prompts, jax.random.key(7), jnp.array(order), max_reply=8
  )
  np.testing.assert_array_equal(some.tokens, samples.tokens[order])
  other = draw(
    *network,
    prompts_of(PROMPTS * 8),
    jax.random.key(8),
    jnp.arange(24),
    max_reply=8,
  )
  assert (other.tokens != samples.tokens).any()


def test_sampled_frequencies_are_the_distribution(network):
  model, params = network
  prompts = prompts_of([PROMPTS[0]] * 4000)
  out = draw(
    model, params, prompts, jax.random.key(0), jnp.arange(4000), max_reply=1
  )
  counts = np.bincount(np.array(out.tokens)[:, -1], minlength=VOCAB)
  tokens = jnp.array([PROMPTS[0]])
  mask = jnp.tril(jnp.ones((1, 4, 4), bool))
  hidden = model.hidden(params, tokens, jnp.arange(4)[None], mask)
  logits = np.array(model.logits(params, hidden)[0, -1], np.float64) / 0.7
  logits[list(DIST.banned)] = -np.inf
  p = np.exp(logits - logits.max())
  p /= p.sum()
  error = np.sqrt(p * (1 - p) / 4000)
  assert (np.abs(counts / 4000 - p) <= 4.5 * error + 1e-12).all()
  assert p.max() > 2 / VOCAB  # far from uniform, else this shows little


def test_padding_ids_change_nothing(network):
  model, params = network
  prompts = prompts_of(PROMPTS)
  columns = jnp.arange(6)[None] < 6 - prompts.lengths[:, None]
  filled = prompts.replace(tokens=jnp.where(columns, 13, prompts.tokens))
  a, b = (
    draw(model, params, p, jax.random.key(7), jnp.arange(3), max_reply=8)
    for p in (prompts, filled)
  )
  np.testing.assert_array_equal(a.tokens[:, 6:], b.tokens[:, 6:])


def test_scores_are_read_where_the_reply_ends(network, samples):
  model, params = network
  score = jax.jit(lambda p, s: sampling.end_scores(model, p, s, end_id=EOC))
  got = score(params, samples)

  @jax.jit
  def plain(tokens):
    t = tokens.shape[0]
    mask = jnp.tril(jnp.ones((1, t, t), bool))
    hidden = model.hidden(params, tokens[None], jnp.arange(t)[None], mask)
    return model.scores(params, hidden)[0]

  replies = sampling.reply_tokens(samples)
  for i, reply in enumerate(replies):
    assert STOP not in reply and 3 not in reply
    tokens = (PROMPTS * 8)[i] + reply + [EOC]
    padded = jnp.array(tokens + [0] * (16 - len(tokens)))
    wanted = plain(padded)[len(tokens) - 1]
    assert float(got[i]) == pytest.approx(float(wanted), abs=2e-5)


def test_values_are_those_before_each_token(network, samples):
  """They must not see the token they judge."""
  model, params = network
  actor_critic = policy.ActorCritic(
    policy=model, value=model, values='head', distribution=DIST, max_reply=8,
    chunk=64,
  )  # fmt: skip
  values = jax.jit(
    lambda tokens: actor_critic(
      {'policy': params}, tokens, samples.prompt_lengths
    )[2]
  )
  before = values(samples.tokens)
  after = values(samples.tokens.at[:, 6 + 3].set(20))
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert (before[:, 4] != after[:, 4]).any()


def test_bad_settings_are_refused():
  for wrong in (0.0, 1e-45, float('inf'), float('nan')):
    with pytest.raises(ValueError, match=f'temperature {wrong} is not finite'):
      dataclasses.replace(DIST, temperature=wrong)
  with pytest.raises(ValueError, match='overlap'):
    dataclasses.replace(DIST, stop=(0,))


def test_entropy_terms_of_banned_tokens_are_zero_not_nan():
  logp = DIST.log_softmax(jnp.zeros((1, VOCAB)))
  assert jnp.isfinite((jnp.exp(logp) * logp).sum())
  np.testing.assert_allclose(
    -(jnp.exp(logp) * logp).sum(), np.log(VOCAB - 4), rtol=1e-6
  )


def sampled(network, ids, **settings):
  return sampled_of(network, prompts_of(ids), **settings)


def sampled_of(network, prompts, **settings):
  return jax.device_get(sampler(network[0], **settings)(network[1], prompts))


def sampler(model, **settings):
  return jax.jit(
    lambda params, prompts: sampling.sample(
      model,
      params,
      prompts,
      jax.random.key(7),
      distribution=DIST,
      max_reply=8,
      row_ids=prompts.ids,
      **settings,
    )
  )


@pytest.mark.parametrize(
  ('slots', 'widths'), [(1, ()), (3, (4,)), (8, (2, 4)), (23, (3, 5, 6, 99))]
)
def test_few_slots_give_the_same_replies(network, samples, slots, widths):
  """Rows that end give way to waiting prompts, in the midst of the others."""
  out = sampled(network, PROMPTS * 8, slots=slots, widths=widths)
  np.testing.assert_array_equal(out.tokens, samples.tokens)
  np.testing.assert_array_equal(out.reply_lengths, samples.reply_lengths)
  np.testing.assert_array_equal(out.is_stopped, samples.is_stopped)
  np.testing.assert_allclose(out.logprobs, samples.logprobs, atol=1e-5)


@pytest.mark.parametrize(
  ('axes', 'slots', 'num_samples'),
  [
    ({'fsdp': 4}, 8, 1),
    ({'data': 2, 'fsdp': 2}, 9, 1),  # 3 a device
    ({'fsdp': 2, 'model': 2}, 8, 1),
    ({'fsdp': 4}, 4, 2),
    ({'fsdp': 4}, 40, 2),
  ],
)
def test_slots_on_a_mesh_give_the_same_replies(
  network, axes, slots, num_samples
):
  mesh = sharding.make_mesh(**axes)
  prompts, params = prompts_of(PROMPTS * 8), network[1]
  settings = {'num_samples': num_samples, 'widths': (2, 4)}
  alone = sampled_of(network, prompts, **settings)
  laid_out = jax.device_put(params, sharding.tree_shardings(mesh, params))
  out = sampled_of(
    (network[0], laid_out), sharding.place(mesh, prompts), slots=slots,
    **settings,
  )  # fmt: skip
  np.testing.assert_array_equal(out.tokens, alone.tokens)
  np.testing.assert_array_equal(out.is_stopped, alone.is_stopped)
  np.testing.assert_allclose(out.logprobs, alone.logprobs, atol=1e-5)


def test_slots_on_a_mesh_take_prompts_of_their_own_device(network):
  """All that travels are parameters, before the loop."""
  mesh = sharding.make_mesh(fsdp=4)
  prompts = sharding.place(mesh, prompts_of(PROMPTS * 8))

  def text(slots, params):
    return (
      sampler(network[0], slots=slots)
      .lower(params, prompts).compile().as_text()
    )  # fmt: skip

  whole = jax.device_put(network[1], NamedSharding(mesh, P()))
  travels = 'all-|collective-'
  assert not re.search(travels, text(8, whole))
  laid_out = jax.device_put(whole, sharding.tree_shardings(mesh, whole))
  found = re.findall(r'\n *\S+ = \S+ (all-\w+|coll\w+-\w+)', text(8, laid_out))
  assert set(found) == {'all-gather'} and len(found) <= len(
    jax.tree.leaves(laid_out)
  )
  assert re.search(travels, text(0, laid_out))


@pytest.fixture(scope='module')
def eighteen(network):
  return draw(
    *network,
    prompts_of([p for p in PROMPTS for _ in range(6)]),
    jax.random.key(7),
    jnp.arange(18),
    max_reply=8,
  )


@pytest.mark.parametrize('slots', [0, 2, 8, 17])
def test_samples_of_a_prompt_share_its_prefill(network, eighteen, slots):
  """As if each had been asked for by itself, under its own id.

  A refill is of 1, 2 or 3 samples of a prompt here (at most 4 slots)."""
  out = sampled(network, PROMPTS, num_samples=6, slots=slots, widths=(4,))
  np.testing.assert_array_equal(out.tokens, eighteen.tokens)
  np.testing.assert_allclose(out.logprobs, eighteen.logprobs, atol=1e-5)
  per_prompt = out.tokens.reshape(3, 6, -1)
  assert (per_prompt[:, 0] != per_prompt[:, 1]).any()


@pytest.mark.parametrize('slots', [0, 4])
def test_rows_without_a_prompt_get_no_reply(network, samples, slots):
  prompts = prompts_of([*PROMPTS, [0], *PROMPTS, [0]])
  is_real = np.array(prompts.ids) % 4 != 3
  prompts = prompts.replace(
    lengths=jnp.where(is_real, prompts.lengths, 0),
    ids=jnp.cumsum(is_real) - 1,
  )
  out = sampled_of(network, prompts, slots=slots)
  np.testing.assert_array_equal(out.tokens[is_real], samples.tokens[:6])
  assert (out.reply_lengths[~is_real] == 0).all()
  assert (
    not out.reply_mask[~is_real].any() and not out.is_stopped[~is_real].any()
  )


def test_how_many_slots_are_refilled_at_once():
  """All samples of some prompts, or an equal part of those of one."""
  cases = [(1, 1), (16, 1), (16, 2), (16, 3), (16, 6), (16, 64), (64, 6)]
  got = [sampling.at_once(slots, n) for slots, n in cases]
  assert got == [1, 4, 4, 3, 3, 4, 12]


@pytest.mark.parametrize(
  ('settings', 'wanted'),
  [
    ({}, [0, 0.4, 0.3, 0.2, 0.1]),
    ({'top_k': 2}, [0, 4 / 7, 3 / 7, 0, 0]),
    ({'top_p': 0.7}, [0, 4 / 7, 3 / 7, 0, 0]),  # .4 + .3 reach it
    ({'top_p': 0.71}, [0, 4 / 9, 3 / 9, 2 / 9, 0]),
    ({'top_p': 1e-6}, [0, 1, 0, 0, 0]),
    ({'top_k': 3, 'top_p': 0.5}, [0, 4 / 7, 3 / 7, 0, 0]),
    ({'top_k': 99}, [0, 0.4, 0.3, 0.2, 0.1]),
  ],
)
def test_truncation_by_hand(settings, wanted):
  logits = jnp.log(jnp.array([0.5, 0.2, 0.15, 0.1, 0.05]))
  dist = sampling.SamplingDistribution(1.0, (0,), (), **settings)
  got = np.exp(dist.log_softmax(logits))
  np.testing.assert_allclose(got, wanted, atol=1e-5)
  assert dist.is_truncated == bool(settings)


def test_of_equal_logits_the_lower_ids_stay():
  dist = sampling.SamplingDistribution(1.0, (0,), (), top_k=2)
  np.testing.assert_allclose(
    np.exp(dist.log_softmax(jnp.zeros(5))), [0, 0.5, 0.5, 0, 0], atol=1e-6
  )


@pytest.mark.parametrize('top_p', [1.0, 0.6])
def test_draws_have_the_stated_probabilities(top_p):
  """Chi-square over a vocabulary of several blocks; log-probs exact."""
  vocab, n = 300, 20_000
  dist = sampling.SamplingDistribution(0.9, (0, 7), (), top_p=top_p)
  logits = jnp.array(np.random.default_rng(0).normal(size=vocab), jnp.float32)
  keys = jax.random.split(jax.random.key(1), n)
  rows = jnp.broadcast_to(logits, (n, vocab))
  token, logprob = jax.jit(dist.draw)(rows, keys)
  wanted = np.array(dist.log_softmax(logits), np.float64)
  np.testing.assert_allclose(logprob, wanted[np.array(token)], atol=1e-5)
  probs = np.exp(wanted)
  counts = np.bincount(token, minlength=vocab)
  assert not counts[probs == 0].any() and not counts[[0, 7]].any()
  seen = probs > 0
  chi2 = ((counts - n * probs)[seen] ** 2 / (n * probs[seen])).sum()
  freedom = seen.sum() - 1
  assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    ({'top_p': 0.0}, 'top_p 0.0 is not in'),
    ({'top_p': 1.1}, 'top_p 1.1 is not in'),
    ({'top_k': -1}, 'top_k -1 is not 0 or more'),
  ],
)
def test_a_truncation_that_leaves_nothing_is_refused(settings, says):
  with pytest.raises(ValueError, match=says):
    sampling.SamplingDistribution(1.0, (0,), (), **settings)

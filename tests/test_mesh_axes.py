"""Rows, and their time, split over devices: what one device computes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import arrays, attention, sampling, sharding
from hh_jax import model as model_lib
from hh_jax.data import packing
from hh_jax.losses import context_distillation as distillation
from hh_jax.losses import language_model, preference
from hh_jax.rl import policy
from hh_jax.types import DistillBatch, Samples

EOC, VOCAB, REPLY = 4, 40, 6
MESHES = (
  {'fsdp': 2, 'sequence': 2}, {'sequence': 4}, {'sequence': 2, 'model': 2},
  {'data': 2},
)  # fmt: skip


def network(**changes):
  return model_lib.Transformer(
    model_lib.ModelConfig(
      num_layers=2, d_model=32, num_heads=2, d_mlp=64, vocab_size=VOCAB,
      **changes,
    )
  )  # fmt: skip


def ids(rng, low, high):
  return rng.integers(7, VOCAB, rng.integers(low, high)).tolist()


def documents():
  rng = np.random.default_rng(0)
  texts = [[2, *ids(rng, 3, 20), 3] for _ in range(14)]
  rows = packing.pack_documents(texts, row_length=32)
  return jax.tree.map(lambda x: x[:4], rows)


def pairs():
  rng = np.random.default_rng(1)
  found = [
    packing.PairTokens([2, *ids(rng, 0, 9)], *(
      [*ids(rng, 0, 9), EOC] for _ in range(2)
    ))
    for _ in range(16)
  ]  # fmt: skip
  rows = packing.pack_pairs(found, row_length=48, max_pairs=4)
  return jax.tree.map(lambda x: x[:4], rows)


def samples():
  """Replies of every length; 11 columns, which no axis divides."""
  rng = np.random.default_rng(2)
  prompts, _ = packing.pad_prompts(
    [[2, *ids(rng, 0, 4)] for _ in range(4)], length=5
  )
  lengths = np.array([1, 6, 3, 6], np.int32)
  mask = np.arange(REPLY)[None] < lengths[:, None]
  reply = rng.integers(7, VOCAB, (4, REPLY)).astype(np.int32) * mask
  return Samples(
    tokens=np.concatenate([prompts.tokens, reply], axis=1),
    prompt_lengths=prompts.lengths,
    reply_lengths=lengths,
    reply_mask=mask.astype(np.float32),
    is_stopped=np.array([True, False, True, True]),
    logprobs=np.zeros((4, REPLY), np.float32),
  )


def distilled():
  rows = documents()
  rng = np.random.default_rng(3)
  logits = rng.normal(size=(*rows.tokens.shape, 5)).astype(np.float32)
  top = np.argsort(rng.random((*rows.tokens.shape, VOCAB)))[..., :4]
  logprobs = np.array(jax.nn.log_softmax(logits))
  return DistillBatch(rows, top.astype(np.int32), logprobs)


def policy_loss(model, params, batch, whole):
  """What a policy update and the preference model read of a reply."""
  del whole
  nets = policy.ActorCritic(
    policy=model,
    value=model,
    values='head',
    distribution=sampling.SamplingDistribution(
      temperature=1.0, banned=(0, 1, 2), stop=(3,)
    ),
    max_reply=REPLY,
    chunk=8,
  )
  logprobs, entropy, values = nets(
    {'policy': params}, batch.tokens, batch.prompt_lengths,
    entropy_gradient=True,
  )  # fmt: skip
  seen = arrays.masked_mean(logprobs + entropy + values, batch.reply_mask)
  scores = sampling.end_scores(model, params, batch, end_id=EOC)
  return seen + scores.mean(), {'score': scores.mean()}


LOSSES = {
  'lm': (
    lambda model: language_model.language_model_loss(model, chunk=16),
    documents,
  ),
  'pm': (lambda model: preference.preference_loss(model), pairs),
  'pm with text': (
    lambda model: preference.preference_loss(model, lm_coef=1.0, chunk=16),
    pairs,
  ),
  'ppo': (lambda model: functools.partial(policy_loss, model), samples),
  'distill': (
    lambda model: distillation.distillation_loss(model, chunk=16),
    distilled,
  ),
}


def value_and_grad(name, mesh, **changes):
  make, batch = LOSSES[name]
  model = network(**changes)
  params = model.init(jax.random.key(0))
  params['scalar_head'] = jax.random.normal(jax.random.key(1), (32,))
  params = jax.device_put(params, sharding.tree_shardings(mesh, params))
  fn = jax.jit(jax.value_and_grad(make(model), has_aux=True))
  placed = sharding.place(mesh, batch())
  return jax.device_get(fn(params, placed, placed))


@functools.cache
def of_one_device(name):
  one = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  return value_and_grad(name, one)


def assert_same(name, found):
  (_, grads) = wanted = of_one_device(name)
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) > 0.01
  chex.assert_trees_all_close(found, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize('sizes', MESHES, ids=str)
@pytest.mark.parametrize('name', LOSSES)
def test_losses_and_gradients_of_one_device(name, sizes):
  mesh = sharding.make_mesh(**sizes)
  assert_same(name, value_and_grad(name, mesh))


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes',
  [
    {'scan_unroll': 2}, {'remat': 'full'}, {'attention': 'cpu'},
    {'attention': 'splash'},
  ],
  ids=str,
)  # fmt: skip
@pytest.mark.parametrize('name', ['pm', 'ppo'])
def test_however_it_is_computed(monkeypatch, name, changes):
  monkeypatch.setattr(attention, 'FEWEST', 1)  # the kernel, for short rows too
  mesh = sharding.make_mesh(fsdp=2, sequence=2)
  assert_same(name, value_and_grad(name, mesh, **changes))


def test_tokens_and_parameters_are_split():
  mesh = sharding.make_mesh(fsdp=2, sequence=2)
  rows = sharding.place(mesh, pairs())
  assert rows.tokens.sharding.shard_shape(rows.tokens.shape) == (2, 24)
  odd = sharding.place(mesh, samples())  # 11 columns stay whole
  assert odd.tokens.sharding.shard_shape(odd.tokens.shape) == (2, 11)
  shapes = jax.eval_shape(network().init, jax.random.key(0))
  qkv = sharding.tree_shardings(mesh, shapes)['blocks']['qkv']
  assert qkv.shard_shape(shapes['blocks']['qkv'].shape) == (2, 8, 3, 2, 16)


def test_a_device_computes_its_columns_alone():
  """Products a device, of a forward pass: a quarter on four."""
  model = network(attention='xla')
  rows = jax.tree.map(lambda x: np.tile(x, (1, 8)), documents())

  def flops(mesh):
    params = model.init(jax.random.key(0))
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))
    fn = language_model.language_model_loss(model)
    placed = sharding.place(mesh, rows)
    lowered = jax.jit(fn).lower(params, placed, placed)
    return lowered.compile().cost_analysis()['flops']

  one = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  assert flops(sharding.make_mesh(sequence=4)) < 0.35 * flops(one)


def test_sampling_is_what_one_device_draws():
  model = network()
  prompts, _ = packing.pad_prompts([[2, 9], [2, 8, 7, 9]] * 2, length=4)

  def draw(mesh):
    params = model.init(jax.random.key(0))
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))
    placed = sharding.place(mesh, prompts)

    @jax.jit
    def fn(params, placed):
      return sampling.sample(
        model, params, placed, jax.random.key(1),
        distribution=sampling.SamplingDistribution(
          temperature=1.0, banned=(0, 1, 2), stop=(3,)
        ),
        max_reply=REPLY,
        row_ids=jnp.arange(4),
      )  # fmt: skip

    return jax.device_get(fn(params, placed))

  one = draw(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1]))
  four = draw(sharding.make_mesh(fsdp=2, sequence=2))
  np.testing.assert_array_equal(one.tokens, four.tokens)
  np.testing.assert_allclose(one.logprobs, four.logprobs, atol=1e-5)

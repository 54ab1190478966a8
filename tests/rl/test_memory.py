"""Which arrays over the vocabulary exist in score and update, once compiled."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest

from hh_jax import model as model_lib
from hh_jax import sampling, sharding, train, types
from hh_jax.losses import ppo
from hh_jax.rl import advantages, ensemble, updates
from hh_jax.rl import rollout as rollout_lib

B, P, R, D, CHUNK = 8, 4, 16, 8, 16
V = 509  # prime: no other axis has it
WHOLE = B * R * V * 4  # bytes of all logits of a batch, float32
MODEL = model_lib.Transformer(
  model_lib.ModelConfig(
    num_layers=1, d_model=D, num_heads=2, d_mlp=16, vocab_size=V
  )
)
NETS = rollout_lib.Networks(
  policy=MODEL,
  value=MODEL,
  values='head',
  pm=MODEL,
  combine=functools.partial(ensemble.combine, how='mean', k=0.0),
  distribution=sampling.SamplingDistribution(
    temperature=0.7, banned=(0, 1, 2, 4), stop=(3,)
  ),
  max_reply=R,
  end_id=4,
  chunk=CHUNK,
)


def shapes_of(**fields):
  return {
    name: jax.ShapeDtypeStruct(shape, dtype)
    for name, (shape, dtype) in fields.items()
  }


SAMPLES = types.Samples(**shapes_of(
  tokens=((B, P + R), jnp.int32),
  prompt_lengths=((B,), jnp.int32),
  reply_lengths=((B,), jnp.int32),
  reply_mask=((B, R), jnp.float32),
  is_stopped=((B,), jnp.bool_),
  logprobs=((B, R), jnp.float32),
))  # fmt: skip


def compile_score(nets):
  how = rollout_lib.Rewarding(
    kl_estimator='k1', kl_in_reward=True, no_stop='keep', no_stop_penalty=0.0,
    advantage_fn=advantages.make('gae', gamma=1.0, lam=0.95, num_samples=1),
    whiten=True,
  )  # fmt: skip
  policy = jax.eval_shape(MODEL.init, jax.random.key(0))
  number = jax.ShapeDtypeStruct((), jnp.float32)
  controls = dict.fromkeys(('kl_coef', 'score_mean', 'score_std'), number)
  frozen = {'reference': policy, 'pm': policy}
  score = rollout_lib.make_score(nets, how)
  args = ({'policy': policy}, frozen, controls, SAMPLES)
  rollout = jax.eval_shape(score, *args)[0]
  return score.lower(*args).compile(), rollout


def compile_update(nets, rollout):
  tx = train.make_optimizer(
    train.make_schedule('constant', lr=1e-3, num_steps=2, warmup_steps=0),
    weight_decay=0.0, clip_norm=1.0, b1=0.9, b2=0.95, eps=1e-8,
  )  # fmt: skip
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    params = {'policy': MODEL.init(jax.random.key(0))}
    state, shardings = train.state_from(params, tx, jax.random.key(1), mesh)
    loss_fn = ppo.ppo_loss(
      nets.actor_critic.policy_fn(entropy_gradient=True),
      ppo.surrogate_loss(
        clip_eps=0.2, value_clip=0.0, entropy_coef=0.1, value_coef=0.5,
        kl_estimator='k1',
      ),
    )  # fmt: skip
    update = updates.make_update(
      train.make_train_step(loss_fn, tx, shardings),
      shardings=shardings, num_epochs=1, num_minibatches=1,
      aggregate='token_mean',
    )  # fmt: skip
    return update.lower(state, rollout, None).compile()


@pytest.fixture(scope='module', params=['score', 'update'])
def programs(request):
  """The phase with chunked logits, and with those of all tokens at once."""
  found = []
  for chunk in (CHUNK, B * R):
    nets = dataclasses.replace(NETS, chunk=chunk)
    compiled, rollout = compile_score(nets)
    if request.param == 'update':
      compiled = compile_update(nets, rollout)
    found.append(compiled)
  return found


def most_tokens(compiled):
  """Rows of the largest array that has an axis of V; parameters have D."""
  rows = []
  for text in re.findall(r'\w+\[([\d,]+)\]', compiled.as_text()):
    shape = [int(x) for x in text.split(',')]
    if V in shape:
      shape.remove(V)
      rows.append(functools.reduce(int.__mul__, shape, 1))
  return max(rows)


def test_logits_exist_a_chunk_at_a_time(programs):
  chunked, whole = programs
  assert most_tokens(chunked) <= CHUNK
  assert most_tokens(whole) == B * R  # or the line above says nothing


def test_chunks_save_at_least_half_a_batch_of_logits(programs):
  """Activations and gradients are temporary too, and the same in both."""
  chunked, whole = (p.memory_analysis().temp_size_in_bytes for p in programs)
  assert whole - chunked > WHOLE / 2, (chunked, whole, WHOLE)

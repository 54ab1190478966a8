"""Micro-batches of uneven rows make the step of the whole batch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hh_jax import model as model_lib
from hh_jax import sharding, train
from hh_jax.data import loader, packing
from hh_jax.losses import context_distillation, language_model, preference
from hh_jax.types import DistillBatch

ROWS, LENGTH, V, TOP_K = 8, 24, 40, 4
MODEL = model_lib.Transformer(
  model_lib.ModelConfig(
    num_layers=1, d_model=16, num_heads=2, d_mlp=32, vocab_size=V
  )
)


def ids(rng, low, high):
  return rng.integers(7, V, rng.integers(low, high)).tolist()


def text():
  """One document a row, of 3 to 24 tokens; the last row is padding."""
  rng = np.random.default_rng(0)
  lengths = [3, 24, 20, 4, 11, 24, 17]
  documents = [[2, *ids(rng, n - 1, n)] for n in lengths]
  rows = packing.pack_documents(documents, row_length=LENGTH)
  return loader.pad_rows(rows, ROWS)


def pairs():
  """None to three pairs a row, of unequal lengths and weights."""
  rng = np.random.default_rng(1)
  found = [
    packing.PairTokens(
      [2, *ids(rng, 0, 6)], [*ids(rng, 0, 7), 4], [*ids(rng, 0, 7), 4],
      weight=float(rng.uniform(0.5, 2)), label=0.8,
    )
    for _ in range(13)
  ]  # fmt: skip
  rows = packing.pack_pairs(found, row_length=LENGTH, max_pairs=3)
  rows = loader.pad_rows(rows, ROWS)
  assert set(rows.pair_mask.sum(1)) >= {0, 1, 2}
  return rows


def distilled():
  rng = np.random.default_rng(2)
  shape = (ROWS, LENGTH)
  logprobs = jax.nn.log_softmax(rng.normal(size=(*shape, TOP_K + 1)))
  top = rng.permuted(np.tile(np.arange(V), (*shape, 1)), axis=-1)[..., :TOP_K]
  return DistillBatch(text(), top.astype(np.int32), np.array(logprobs))


LOSSES = {
  'language model': (language_model.language_model_loss, {'chunk': 32}, text),
  'ranked': (
    preference.preference_loss,
    {'label_smoothing': 0.1, 'centring': 0.1, 'lm_coef': 1.0, 'chunk': 32},
    pairs,
  ),
  'binary': (preference.preference_loss, {'objective': 'binary'}, pairs),
  'imitation': (preference.preference_loss, {'objective': 'imitation'}, pairs),
  'distillation': (
    context_distillation.distillation_loss, {'chunk': 32}, distilled,
  ),
}  # fmt: skip


def stepped(loss_fn, batch, mesh, num):
  """Metrics, and parameters less their gradients."""

  def init(key):
    head = jax.random.normal(jax.random.key(1), (16,))
    return {**MODEL.init(key), 'scalar_head': head}

  tx = optax.sgd(1.0)
  state, shardings = train.init_state(init, tx, jax.random.key(0), mesh)
  step = train.make_train_step(loss_fn, tx, shardings, num_micro_batches=num)
  state, metrics = step(state, sharding.place(mesh, batch))
  return jax.device_get((metrics, state.params))


@pytest.mark.parametrize('name', LOSSES)
def test_any_number_of_micro_batches_makes_the_same_step(name):
  make, options, rows = LOSSES[name]
  loss_fn, batch = make(MODEL, **options), rows()
  one = sharding.make_mesh(devices=jax.devices()[:1])
  whole = stepped(loss_fn, batch, one, 1)
  assert jnp.isfinite(whole[0]['loss']) and whole[0]['grad_norm'] > 0.1
  two = sharding.make_mesh(data=2, fsdp=1, devices=jax.devices()[:2])
  for num, mesh in ((2, one), (8, one), (4, two)):
    found = stepped(loss_fn, batch, mesh, num)
    chex.assert_trees_all_close(found, whole, rtol=2e-5, atol=2e-6)

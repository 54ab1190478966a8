"""Which arrays over the vocabulary exist, from the lowered programs."""

import re

import jax
import jax.numpy as jnp

from hh_jax import model as model_lib
from hh_jax.data import packing
from hh_jax.losses import language_model, preference

B, T, V, D, CHUNK = 4, 32, 509, 16, 16  # V is prime: no other axis has it
MODEL = model_lib.Transformer(
  model_lib.ModelConfig(
    num_layers=1, d_model=D, num_heads=2, d_mlp=32, vocab_size=V
  )
)


def vocabulary_shapes(loss_fn, rows):
  """Shapes in the loss's gradient program that have an axis of V."""
  rows = jax.tree.map(jnp.array, rows)
  params = jax.eval_shape(MODEL.init, jax.random.key(0))
  grad = jax.jit(jax.grad(lambda p, batch: loss_fn(p, batch, batch)[0]))
  text = grad.lower(params, rows).as_text()
  shapes = re.findall(r'tensor<((?:\d+x)+)[a-z]', text)
  sizes = {tuple(map(int, s.strip('x').split('x'))) for s in shapes}
  return {shape for shape in sizes if V in shape}


def pair_rows():
  pair = packing.PairTokens([2] * 20, [9] * 5, [8] * 5)
  return packing.pack_pairs([pair] * B, row_length=T, max_pairs=1)


def test_language_model_logits_exist_a_chunk_at_a_time():
  rows = packing.pack_documents([[2] * T] * B, row_length=T)
  loss_fn = language_model.language_model_loss(MODEL, chunk=CHUNK)
  assert vocabulary_shapes(loss_fn, rows) == {(V, D), (CHUNK, V)}
  whole = language_model.language_model_loss(MODEL, chunk=B * T)
  assert (B * (T - 1), V) in vocabulary_shapes(whole, rows)


def test_a_preference_model_computes_no_logits():
  loss_fn = preference.preference_loss(MODEL)
  assert vocabulary_shapes(loss_fn, pair_rows()) == {(V, D)}
  with_lm = preference.preference_loss(MODEL, lm_coef=1.0, chunk=CHUNK)
  assert (CHUNK, V) in vocabulary_shapes(with_lm, pair_rows())
  assert (B * T, V) not in vocabulary_shapes(with_lm, pair_rows())

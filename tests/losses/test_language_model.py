import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import model as model_lib
from hh_jax.data import packing
from hh_jax.losses import language_model

DOCUMENTS = [[2, 9, 8, 3], [2, 7, 3], [2, 5, 6, 7, 8, 9, 3]]


@pytest.fixture(scope='module')
def network():
  config = model_lib.ModelConfig(
    num_layers=1, d_model=16, num_heads=2, d_mlp=32, vocab_size=12
  )
  model = model_lib.Transformer(config)
  return model, model.init(jax.random.key(0))


def rows_of(documents, length=16):
  rows = packing.pack_documents(documents, row_length=length)
  return jax.tree.map(jnp.array, rows)


@functools.partial(jax.jit, static_argnums=0)
def next_logprobs(model, params, tokens):
  """log p(. | tokens so far), [T, V], of one document by itself."""
  positions = jnp.arange(tokens.shape[0])[None]
  mask = jnp.tril(jnp.ones((1, *tokens.shape * 2), bool))
  hidden = model.hidden(params, tokens[None], positions, mask)
  return jax.nn.log_softmax(model.logits(params, hidden))[0]


def plain_loss(model, params, documents):
  """Sum and count over documents, one at a time."""
  total = count = 0
  for document in documents:
    padded = jnp.array(document + [0] * (8 - len(document)))
    logp = next_logprobs(model, params, padded)
    pairs = enumerate(document[1:])
    total -= sum(float(logp[t, token]) for t, token in pairs)
    count += len(document) - 1
  return total, count


@pytest.mark.parametrize('chunk', [4, 4096])
def test_packed_loss_is_that_of_the_documents_alone(network, chunk):
  model, params = network
  loss_fn = language_model.language_model_loss(model, chunk=chunk)
  rows = rows_of(DOCUMENTS)
  loss, metrics = loss_fn(params, rows, rows)
  total, count = plain_loss(model, params, DOCUMENTS)
  assert metrics['tokens'] == count
  assert float(metrics['loss_sum']) == pytest.approx(total, rel=1e-5)
  assert float(loss) == pytest.approx(total / count, rel=1e-5)


def test_padded_tokens_change_nothing(network):
  model, params = network
  rows = rows_of(DOCUMENTS[:1])
  filled = dataclasses.replace(
    rows, tokens=jnp.where(rows.segments == 0, 11, rows.tokens)
  )
  loss_fn = language_model.language_model_loss(model, chunk=4096)
  grad_fn = jax.grad(lambda p, b: loss_fn(p, b, b)[0])
  assert loss_fn(params, rows, rows)[0] == loss_fn(params, filled, filled)[0]
  grads = (grad_fn(params, rows), grad_fn(params, filled))
  for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import model as model_lib
from hh_jax.data import packing
from hh_jax.losses import context_distillation as loss_lib
from hh_jax.types import DistillBatch
from tests.losses import test_memory

V, BOS = 12, 2
CONTEXT = [BOS, 7, 4, 9]
DOCUMENTS = [[BOS, 9, 8, 3], [BOS, 7, 3], [BOS, 5, 6, 7, 8, 9, 3]]


@pytest.fixture(scope='module')
def network():
  config = model_lib.ModelConfig(
    num_layers=2, d_model=16, num_heads=2, d_mlp=32, vocab_size=V
  )
  model = model_lib.Transformer(config)
  # blocks that matter, so that the context does
  return model, jax.tree.map(lambda x: 1.5 * x, model.init(jax.random.key(0)))


def rows_of(documents, first_targets=None):
  rows = packing.pack_documents(
    documents, row_length=16, first_targets=first_targets
  )
  return jax.tree.map(jnp.array, rows)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def stored(model, params, hidden, rows, top_k, dtype=jnp.float32):
  """What recipes/teacher.py stores of hidden states that predict rows."""
  found = loss_lib.top_logprobs(model, params, hidden, top_k=top_k, chunk=5)
  ids, logprobs = (jnp.pad(x, [(0, 0), (1, 0), (0, 0)]) for x in found)
  return DistillBatch(rows, ids, logprobs.astype(dtype))


def with_context(network, rows, context=CONTEXT):
  return _with_context(*network, rows, jnp.array(context))


@functools.partial(jax.jit, static_argnums=0)
def _with_context(model, params, rows, context):
  return loss_lib.teacher_hidden(model, params, context, rows)


@functools.partial(jax.jit, static_argnums=(0, 3))
def value_and_grad(model, params, batch, chunk=4096):
  loss_fn = loss_lib.distillation_loss(model, chunk=chunk)
  (loss, metrics), grad = jax.value_and_grad(loss_fn, has_aux=True)(
    params, batch, batch
  )
  return loss, metrics, grad


@functools.partial(jax.jit, static_argnums=0)
def padded_logprobs(model, params, tokens):
  mask = jnp.tril(jnp.ones((1, *tokens.shape * 2), bool))
  positions = jnp.arange(tokens.shape[0])[None]
  hidden = model.hidden(params, tokens[None], positions, mask)
  return jax.nn.log_softmax(model.logits(params, hidden))[0]


def plain_logprobs(network, document):
  """log p(token t + 1 | tokens up to t), [T, V], of one document alone."""
  tokens = jnp.array(document + [0] * (12 - len(document)))
  logp = np.array(padded_logprobs(*network, tokens), np.float64)
  return logp[: len(document)]


def plain_kl(network, documents, context, top_k, teacher_network=None):
  """Mean over tokens, one document at a time, in float64."""
  values = []
  for document in documents:
    teacher = plain_logprobs(teacher_network or network, context + document[1:])
    student = plain_logprobs(network, document)
    both = zip(teacher[len(context) - 1 : -1], student[:-1], strict=True)
    for logp, logq in both:
      order = np.argsort(-logp)
      p, q = np.exp(logp[order]), np.exp(logq[order])
      if top_k < V:
        p, q = (np.append(x[:top_k], x[top_k:].sum()) for x in (p, q))
      values.append((p * np.log(p / q)).sum())
  return np.mean(values)


def test_three_categories_by_hand():
  """Teacher .5 .3 and .2 for the rest, student .25 .25 and .5."""
  logits = jnp.log(jnp.array([[0.25, 0.3, 0.25, 0.2]])) + 7
  logq = loss_lib.named_logprobs(logits, jnp.array([[2, 0]]))
  np.testing.assert_allclose(np.exp(logq), [[0.25, 0.25, 0.5]], rtol=1e-6)
  logp = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
  wanted = 0.5 * np.log(2) + 0.3 * np.log(1.2) + 0.2 * np.log(0.4)
  assert float(loss_lib.categorical_kl(logp, logq)[0]) == pytest.approx(
    wanted, rel=1e-6
  )


@pytest.mark.parametrize('top_k', [4, V])
def test_the_loss_is_the_kl_of_the_documents_alone(network, top_k):
  """Packing, positions, padding and chunks change nothing."""
  model, params = network
  rows = rows_of(DOCUMENTS)
  hidden = with_context(network, rows)
  batch = stored(model, params, hidden, rows, top_k)
  loss, metrics, _ = value_and_grad(model, params, batch, 4)
  wanted = plain_kl(network, DOCUMENTS, CONTEXT, top_k)
  assert wanted > 0.05
  assert float(loss) == pytest.approx(wanted, rel=1e-4)
  assert metrics['tokens'] == sum(len(d) - 1 for d in DOCUMENTS)
  exact = loss_lib.exact_kl(model, params, model, params, hidden, rows, chunk=4)
  full = plain_kl(network, DOCUMENTS, CONTEXT, V)
  assert float(exact) == pytest.approx(full, rel=1e-4)
  # fewer categories, less to tell apart
  assert wanted <= full + 1e-6 and (wanted < full) == (top_k < V)


def test_a_teacher_may_be_another_model(network):
  model, params = network
  teacher = model_lib.Transformer(
    model_lib.ModelConfig(
      num_layers=1, d_model=32, num_heads=2, d_mlp=32, vocab_size=V
    )
  )
  its = teacher.init(jax.random.key(1))
  rows = rows_of(DOCUMENTS)
  hidden = with_context((teacher, its), rows)
  batch = stored(teacher, its, hidden, rows, 4)
  loss, *_ = value_and_grad(model, params, batch)
  exact = loss_lib.exact_kl(
    model, params, teacher, {'embedding': its['embedding']}, hidden, rows,
    chunk=64,
  )  # fmt: skip
  for found, top_k in ((loss, 4), (exact, V)):
    wanted = plain_kl(network, DOCUMENTS, CONTEXT, top_k, (teacher, its))
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_a_student_that_reads_the_context_has_nothing_to_learn(network):
  model, params = network
  rows = rows_of(DOCUMENTS)
  batch = stored(model, params, with_context(network, rows), rows, 4)
  read = [CONTEXT + d[1:] for d in DOCUMENTS]
  long = rows_of(read, first_targets=[len(CONTEXT)] * len(read))
  # the stored entries of each document beside its tokens in the longer rows
  at, to = (np.argwhere(np.array(r.loss_mask)) for r in (rows, long))
  # both lists go row by row; here each document keeps its place in them
  np.testing.assert_array_equal(
    rows.tokens[tuple(at.T)], long.tokens[tuple(to.T)]
  )

  def moved(x):
    out = np.zeros((*long.tokens.shape, x.shape[-1]), np.array(x).dtype)
    out[tuple(to.T)] = np.array(x)[tuple(at.T)]
    return jnp.array(out)

  batch = DistillBatch(long, moved(batch.top_tokens), moved(batch.logprobs))
  loss, *_ = value_and_grad(model, params, batch)
  assert abs(float(loss)) < 1e-6


def test_a_teacher_without_a_context_is_its_own_student(network):
  model, params = network
  rows = rows_of(DOCUMENTS)
  hidden = with_context(network, rows, context=[BOS])
  np.testing.assert_allclose(
    np.where(rows.loss_mask[:, 1:, None], hidden, 0),
    np.where(
      rows.loss_mask[:, 1:, None],
      loss_lib.student_hidden(model, params, rows),
      0,
    ),
    atol=1e-5,
  )
  batch = stored(model, params, hidden, rows, 4)
  loss, _, grad = value_and_grad(model, params, batch)
  assert abs(float(loss)) < 1e-6
  assert max(float(abs(g).max()) for g in jax.tree.leaves(grad)) < 1e-5


@pytest.mark.parametrize(
  ('top_k', 'scale', 'dtype'), [(V, 1.0, jnp.float32), (3, 1e3, jnp.float16)]
)
def test_gradients_are_finite_where_nothing_remains(
  network, top_k, scale, dtype
):
  """All tokens named, or a teacher and a student sure of one."""
  model, params = network
  params = params | {'embedding': scale * params['embedding']}
  rows = rows_of(DOCUMENTS)
  hidden = with_context((model, params), rows)
  batch = stored(model, params, hidden, rows, top_k, dtype)
  rest = np.exp(np.array(batch.logprobs[..., -1], np.float64))
  assert (rest * np.array(rows.loss_mask)).max() == 0
  value, _, grad = value_and_grad(model, params, batch)
  assert np.isfinite(float(value)) and float(value) >= -1e-6
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grad))


def test_float16_moves_the_loss_by_less_than_a_thousandth(network):
  model, params = network
  rows = rows_of(DOCUMENTS)
  hidden = with_context(network, rows)
  exact, rounded = (
    float(
      value_and_grad(
        model, params, stored(model, params, hidden, rows, 4, dtype)
      )[0]
    )
    for dtype in (jnp.float32, jnp.float16)
  )
  assert 0 < abs(rounded - exact) < 1e-3 * exact


def test_padded_tokens_and_their_entries_change_nothing(network):
  model, params = network
  rows = rows_of(DOCUMENTS[:1])
  batch = stored(model, params, with_context(network, rows), rows, 4)
  is_pad = rows.segments == 0
  other = DistillBatch(
    dataclasses.replace(rows, tokens=jnp.where(is_pad, 11, rows.tokens)),
    jnp.where(is_pad[..., None], 1, batch.top_tokens),
    jnp.where(is_pad[..., None], -3.0, batch.logprobs),
  )
  loss, *_ = value_and_grad(model, params, batch)
  assert loss == value_and_grad(model, params, other)[0]


def test_logits_exist_a_chunk_at_a_time():
  v, chunk, k = test_memory.V, test_memory.CHUNK, 3
  b, t, d = test_memory.B, test_memory.T, test_memory.D
  rows = packing.pack_documents([[BOS] * t] * b, row_length=t)
  batch = DistillBatch(
    rows, np.zeros((b, t, k), np.uint16), np.zeros((b, t, k + 1), np.float16)
  )
  loss_fn = loss_lib.distillation_loss(test_memory.MODEL, chunk=chunk)
  shapes = test_memory.vocabulary_shapes(loss_fn, batch)
  assert shapes == {(v, d), (chunk, v)}

"""KL from a teacher that sees a context to a student that does not.

L = KL(p_teacher(X | C) || p_student(X)), over the teacher's K most likely
tokens and one category for all others (Bai et al. 2022, A.1). What is stored
of the teacher is types.DistillBatch; recipes/teacher.py makes it.

Axis letters: B batch, T time, D model, V vocab, K stored tokens, N tokens,
C columns of the context.
"""

import jax
import jax.numpy as jnp

from hh_jax import arrays, attention
from hh_jax.model import Transformer
from hh_jax.types import Array, DistillBatch, LossFn, Params, TokenBatch

# Logits of named tokens when the rest is summed: finite, so that a rest of
# nothing (K = V) has a gradient, and times a teacher's 0 is 0.
_LEFT_OUT = -1e9
_NOTHING = -1e4  # log-probability of a rest of nothing, also in float16


def student_hidden(
  model: Transformer, params: Params, rows: TokenBatch
) -> Array:
  """Hidden states that predict tokens 1 .. T - 1, float32 [B, T - 1, D]."""
  mask = attention.Packed(rows.segments)
  hidden = model.hidden(params, rows.tokens, rows.positions, mask)
  return arrays.predicting(hidden)


def teacher_hidden(
  model: Transformer, params: Params, context: Array, rows: TokenBatch
) -> Array:
  """As student_hidden, of a model that reads the context before each document.

  The context [C] opens with bos. It stands once before each row, and every
  document of the row sees it. A document's own bos is in the row but not seen:
  its first token is predicted by the context's last, and comes right after it.
  """
  (b, t), length = rows.tokens.shape, context.shape[0]
  is_bos = rows.positions == 0
  own = attention.Packed(rows.segments).dense() & ~is_bos[:, None, :]
  first = jnp.tril(jnp.ones((length, length), bool))
  first = jnp.pad(first, [(0, 0), (0, t)])[None]
  seen = jnp.concatenate([jnp.ones((b, t, length), bool), own], axis=-1)

  def before(x: Array, y: Array) -> Array:
    """x [1, C, ...] before y [B, T, ...]."""
    return jnp.concatenate([jnp.broadcast_to(x, (b, *x.shape[1:])), y], axis=1)

  hidden = model.hidden(
    params,
    before(context[None], rows.tokens),
    before(jnp.arange(length)[None], rows.positions + (length - 1)),
    before(first, seen),
  )
  last = hidden[:, length - 1 : length]
  return arrays.predicting(
    jnp.where(is_bos[..., None], last, hidden[:, length:])
  )


def _rest(logits: Array, top_tokens: Array) -> Array:
  """Log of the summed exp of the logits [N, V] that top_tokens [N, K] leave."""
  row = jnp.arange(logits.shape[0])[:, None]
  return jax.nn.logsumexp(logits.at[row, top_tokens].set(_LEFT_OUT), axis=-1)


def top_logprobs(
  model: Transformer, params: Params, hidden: Array, *, top_k: int, chunk: int
) -> tuple[Array, Array]:
  """The top_k most likely tokens of hidden [..., D], and their log-probs.

  Ids int32 [..., K]; log-probabilities float32 [..., K + 1], nats, that of all
  other tokens together last. Logits exist for `chunk` tokens at a time.
  """

  def top(h: Array) -> tuple[Array, Array]:
    logits = model.logits(params, h)
    total = jax.nn.logsumexp(logits, axis=-1)[:, None]
    best, ids = jax.lax.top_k(logits, top_k)
    both = jnp.concatenate([best, _rest(logits, ids)[:, None]], axis=-1)
    return ids, jnp.maximum(both - total, _NOTHING)

  flat = arrays.chunked(top, chunk, hidden.reshape(-1, hidden.shape[-1]))
  return jax.tree.map(lambda x: x.reshape(*hidden.shape[:-1], -1), flat)


def named_logprobs(logits: Array, top_tokens: Array) -> Array:
  """Log-probs of the named tokens and of the rest: [N, K + 1], nats.

  logits [N, V], top_tokens [N, K]. The rest is summed, not 1 less the others,
  so it is exact however small (-1e9 or so where every token is named).
  """
  total = jax.nn.logsumexp(logits, axis=-1)[:, None]
  named = jnp.take_along_axis(logits, top_tokens, axis=-1)
  both = jnp.concatenate([named, _rest(logits, top_tokens)[:, None]], axis=-1)
  return both - total


def categorical_kl(logp: Array, logq: Array) -> Array:
  """KL(p || q) over the last axis, nats: [..., K] twice -> [...]."""
  return (jnp.exp(logp) * (logp - logq)).sum(-1)


def token_kl(
  model: Transformer, params: Params, batch: DistillBatch, *, chunk: int
) -> Array:
  """KL(teacher || student) a token, nats, float32 [B, T - 1].

  Entry t is of token t + 1. The stored log-probabilities are normalised first:
  in float16 they sum to 1 only up to rounding.
  """
  hidden = student_hidden(model, params, batch.rows)
  logp = jax.nn.log_softmax(batch.logprobs[:, 1:].astype(jnp.float32), axis=-1)
  ids = batch.top_tokens[:, 1:].astype(jnp.int32)

  def kl(h: Array, ids: Array, logp: Array) -> Array:
    return categorical_kl(logp, named_logprobs(model.logits(params, h), ids))

  flat = [x.reshape(-1, x.shape[-1]) for x in (hidden, ids, logp)]
  return arrays.chunked(kl, chunk, *flat).reshape(hidden.shape[:2])


def exact_kl(
  model: Transformer,
  params: Params,
  teacher: Transformer,
  head: Params,
  hidden: Array,
  rows: TokenBatch,
  *,
  chunk: int,
) -> Array:
  """Mean KL(teacher || student) over the whole vocabulary, nats, [].

  `hidden` [B, T - 1, D] is teacher_hidden of the rows; of the teacher's
  parameters its embedding is enough for `head`.
  """

  def kl(h: Array, student: Array) -> Array:
    logp = jax.nn.log_softmax(teacher.logits(head, h), axis=-1)
    logq = jax.nn.log_softmax(model.logits(params, student), axis=-1)
    return categorical_kl(logp, logq)

  ours = student_hidden(model, params, rows)
  flat = [x.reshape(-1, x.shape[-1]) for x in (hidden, ours)]
  values = arrays.chunked(kl, chunk, *flat).reshape(ours.shape[:2])
  return arrays.masked_mean(values, rows.loss_mask[:, 1:])


def distillation_loss(model: Transformer, *, chunk: int = 4096) -> LossFn:
  """Mean KL(teacher || student) per target token, nats."""

  def loss_fn(params: Params, batch: DistillBatch, whole: DistillBatch):
    kl = token_kl(model, params, batch, chunk=chunk)
    mask = batch.rows.loss_mask[:, 1:]
    loss = arrays.masked_mean(kl, mask, whole.rows.loss_mask[:, 1:])
    return loss, {'tokens': mask.sum(), 'kl_sum': (kl * mask).sum()}

  return loss_fn

"""Next-token loss. Axis letters: B batch, T time, D model, N tokens."""

from hh_jax import arrays, attention
from hh_jax.model import Transformer
from hh_jax.types import Array, LossFn, Params, TokenBatch


def document_logprobs(
  model: Transformer, params: Params, batch: TokenBatch, *, chunk: int
) -> Array:
  """log p(token | its document so far), nats, float32 [B, T - 1].

  Entry t is of token t + 1. Logits exist for `chunk` tokens at a time.
  """
  mask = attention.Packed(batch.segments)
  hidden = model.hidden(params, batch.tokens, batch.positions, mask)
  hidden = arrays.predicting(hidden)
  flat = hidden.reshape(-1, hidden.shape[-1])

  def logprobs(h: Array, targets: Array) -> Array:
    return arrays.token_logprobs(model.logits(params, h), targets)

  out = arrays.chunked(logprobs, chunk, flat, batch.tokens[:, 1:].reshape(-1))
  return out.reshape(hidden.shape[:2])


def language_model_loss(model: Transformer, *, chunk: int = 4096) -> LossFn:
  """Mean negative log-likelihood per target token, nats."""

  def loss_fn(params: Params, batch: TokenBatch, whole: TokenBatch):
    logprobs = document_logprobs(model, params, batch, chunk=chunk)
    mask = batch.loss_mask[:, 1:]
    loss = -arrays.masked_mean(logprobs, mask, whole.loss_mask[:, 1:])
    return loss, {'tokens': mask.sum(), 'loss_sum': -(logprobs * mask).sum()}

  return loss_fn

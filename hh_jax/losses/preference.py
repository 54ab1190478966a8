"""Preference-model losses. Axis letters: B batch, T time, M pairs a row.

Three objectives on the same comparisons, as Askell et al. 2021 compare them:
'ranked' (Bradley-Terry on a scalar), 'binary' (is this reply the good one?) and
'imitation' (language modelling of the chosen reply, ranked by log-probability).
"""

import jax
import jax.numpy as jnp

from hh_jax import arrays, attention
from hh_jax.model import Transformer
from hh_jax.types import Array, LossFn, PackedPairs, Params

OBJECTIVES = ('ranked', 'binary', 'imitation')


def _hidden(
  model: Transformer,
  params: Params,
  batch: PackedPairs,
  columns: Array | None = None,
) -> Array:
  mask = attention.Packed(batch.segments, batch.branches)
  return model.hidden(params, batch.tokens, batch.positions, mask, columns)


def pair_scores(
  model: Transformer,
  params: Params,
  batch: PackedPairs,
  hidden: Array | None = None,
) -> tuple[Array, Array]:
  """Scores of the chosen and the rejected reply, PM units, [B, M] each.

  Read at the end-of-context token (Bai et al. 2022, A.2). No logits are
  computed. Entries where pair_mask is 0 mean nothing. `hidden` [B, T, D]: the
  final states, where they are there already.
  """
  ends = jnp.concatenate([batch.chosen_end, batch.rejected_end], axis=1)
  if hidden is None:
    at_ends = _hidden(model, params, batch, ends)
  else:
    at_ends = arrays.take_columns(hidden, ends)
  return tuple(jnp.split(model.scores(params, at_ends), 2, axis=1))


def _token_logprobs(
  model: Transformer,
  params: Params,
  hidden: Array,
  batch: PackedPairs,
  chunk: int,
) -> Array:
  """log p(token | its transcript), nats [B, T]; logits of `chunk` at a time."""
  before = arrays.take_columns(hidden, batch.parents)
  out = arrays.chunked(
    lambda h, t: arrays.token_logprobs(model.logits(params, h), t),
    chunk,
    before.reshape(-1, before.shape[-1]),
    batch.tokens.reshape(-1),
  )
  return out.reshape(batch.tokens.shape)


def _reply_masks(batch: PackedPairs) -> tuple[Array, Array]:
  """Which tokens are the chosen, the rejected reply's: float32 [B, M, T]."""
  number = 1 + jnp.arange(batch.pair_mask.shape[1])[None, :, None]
  own = batch.segments[:, None, :] == number
  return tuple(
    (own & (batch.branches[:, None, :] == branch)).astype(jnp.float32)
    for branch in (1, 2)
  )


def reply_logprobs(
  model: Transformer, params: Params, batch: PackedPairs, *, chunk: int = 4096
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  """log p(reply | prompt), nats, of chosen and rejected, and their tokens.

  Two pairs of [B, M]: sums over each reply with its end-of-context token, and
  the numbers of tokens, at least 1. Prompts are conditions only.
  """
  hidden = _hidden(model, params, batch)
  logprobs = _token_logprobs(model, params, hidden, batch, chunk)
  masks = _reply_masks(batch)
  sums = tuple((logprobs[:, None] * mask).sum(-1) for mask in masks)
  counts = tuple(jnp.maximum(mask.sum(-1), 1.0) for mask in masks)
  return sums, counts


def ranked_terms(
  chosen: Array, rejected: Array, batch: PackedPairs, *, smoothing: float
) -> Array:
  """Cross-entropy of sigmoid(score difference) with the labels, nats [B, M].

  With label 1, margin 0 and no smoothing it is log(1 + exp(r_rejected -
  r_chosen)) (Askell et al. 2021, 3.1). Smoothing moves a label to its mixture
  with 1/2; the margin is subtracted from the difference in favour of either
  side (Touvron et al. 2023, 3.2.2).
  """
  label = _smoothed(batch.labels, smoothing)
  gap = chosen - rejected
  lost = jax.nn.softplus(batch.margins - gap)
  won = jax.nn.softplus(batch.margins + gap)
  return label * lost + (1 - label) * won


def binary_terms(
  chosen: Array, rejected: Array, batch: PackedPairs, *, smoothing: float
) -> Array:
  """Mean cross-entropy of two judgements, good or bad, nats [B, M].

  sigmoid(score) is the probability that a reply is good, and the chosen one
  is (Askell et al. 2021, binary discrimination).
  """
  label = _smoothed(batch.labels, smoothing)
  right = jax.nn.softplus(-chosen) + jax.nn.softplus(rejected)
  wrong = jax.nn.softplus(chosen) + jax.nn.softplus(-rejected)
  return (label * right + (1 - label) * wrong) / 2


def _smoothed(labels: Array, smoothing: float) -> Array:
  return labels * (1 - smoothing) + smoothing / 2


def preference_loss(
  model: Transformer,
  *,
  objective: str = 'ranked',
  label_smoothing: float = 0.0,
  centring: float = 0.0,
  lm_coef: float = 0.0,
  chunk: int = 4096,
) -> LossFn:
  """Mean over pairs of weight times the objective's term.

  `centring` times the mean of (r_chosen + r_rejected)^2 holds scores around 0
  (Eisenstein et al. 2023); `lm_coef` times the mean negative log-likelihood of
  a token of the chosen reply keeps the language model (Askell et al. 2021, PMP
  with 1). 'imitation' is that last term alone; its accuracy is by mean
  log-probability of a token.
  """
  if objective == 'imitation':
    return _imitation_loss(model, chunk=chunk)
  terms_of = {'ranked': ranked_terms, 'binary': binary_terms}[objective]

  def loss_fn(params: Params, batch: PackedPairs, whole: PackedPairs):
    # only the language model needs the other columns
    hidden = _hidden(model, params, batch) if lm_coef else None
    chosen, rejected = pair_scores(model, params, batch, hidden)
    terms = terms_of(chosen, rejected, batch, smoothing=label_smoothing)
    masks = batch.pair_mask, whole.pair_mask
    loss = arrays.masked_mean(batch.weights * terms, *masks)
    if centring:
      square = jnp.square(chosen + rejected)
      loss += centring * arrays.masked_mean(square, *masks)
    metrics = _metrics(chosen - rejected, *masks)
    if lm_coef:
      logprobs = _token_logprobs(model, params, hidden, batch, chunk)
      metrics['lm_loss'] = _chosen_nll(logprobs, batch, whole)
      loss += lm_coef * metrics['lm_loss']
    return loss, metrics

  return loss_fn


def _imitation_loss(model: Transformer, *, chunk: int) -> LossFn:
  def loss_fn(params: Params, batch: PackedPairs, whole: PackedPairs):
    hidden = _hidden(model, params, batch)
    logprobs = _token_logprobs(model, params, hidden, batch, chunk)
    chosen, rejected = (
      (logprobs[:, None] * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1.0)
      for mask in _reply_masks(batch)
    )
    loss = _chosen_nll(logprobs, batch, whole)
    metrics = _metrics(chosen - rejected, batch.pair_mask, whole.pair_mask)
    return loss, metrics | {'lm_loss': loss}

  return loss_fn


def _chosen_nll(
  logprobs: Array, batch: PackedPairs, whole: PackedPairs
) -> Array:
  """Mean over tokens of chosen replies, each weighed as its pair; nats []."""
  chosen, _ = _reply_masks(batch)
  weights = (batch.weights[:, :, None] * chosen).sum(1)
  masks = batch.branches == 1, whole.branches == 1
  return -arrays.masked_mean(logprobs * weights, *masks)


def _metrics(margin: Array, mask: Array, whole: Array) -> dict[str, Array]:
  # a tie counts one half: a fresh scalar head ties every pair
  wins = (margin > 0) + 0.5 * (margin == 0)
  return {
    'accuracy': arrays.masked_mean(wins, mask, whole),
    'margin': arrays.masked_mean(margin, mask, whole),
    'pairs': mask.sum().astype(jnp.int32),
  }

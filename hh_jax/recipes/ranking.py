"""Scores of comparisons by a trained model, on the host; N pairs."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
from jax.sharding import Mesh
import numpy as np

from hh_jax import dialogue, sharding, types
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import loader, packing
from hh_jax.data.examples import Pair
from hh_jax.errors import InputError
from hh_jax.losses import preference
from hh_jax.model import Transformer
from hh_jax.rl import ensemble
from hh_jax.types import Params

# How a language model ranks replies: log p(reply | prompt) a token or in all,
# or log p(reply | prompt) / p(reply) (Askell et al. 2021).
RANKINGS = ('mean', 'sum', 'mutual_information')
# pair ids, scores of the chosen and of the rejected replies, [N] each
Scores = tuple[np.ndarray, np.ndarray, np.ndarray]


def pack(
  pairs: Sequence[Pair],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  row_length: int,
  max_pairs: int,
) -> tuple[types.PackedPairs, dict[str, int]]:
  """Rows of pairs, and how many were kept, cut or dropped."""
  tokens, counts = packing.encode_pairs(pairs, tokenizer, row_length=row_length)
  if not counts['kept']:
    raise InputError(f'no pair fits a row of {row_length} tokens: {counts}')
  rows = packing.pack_pairs(tokens, row_length=row_length, max_pairs=max_pairs)
  return rows, counts


def without_prompts(pairs: Sequence[Pair]) -> list[Pair]:
  """The same replies to nothing: what p(reply) is taken to be."""
  return [dataclasses.replace(p, prompt=dialogue.ASSISTANT) for p in pairs]


def make_scorer(
  model: Transformer,
  mesh: Mesh,
  *,
  batch_size: int,
  objective: str = 'ranked',
  combine: ensemble.CombineFn | None = None,
) -> Callable[[Params, types.PackedPairs], Scores]:
  """(params, rows) -> Scores: PM units, or mean log-probabilities a token.

  `combine` makes one score of those of a tuple of params, an ensemble.
  """
  score = preference.pair_scores
  if objective == 'imitation':
    score = _mean_logprobs

  def scores(params: Params, batch: types.PackedPairs):
    return ensemble.over_members(
      lambda member: score(model, member, batch), params, combine
    )

  return _over_rows(scores, mesh, batch_size)


def rankings(
  model: Transformer,
  mesh: Mesh,
  params: Params,
  rows: types.PackedPairs,
  bare_rows: types.PackedPairs,
  *,
  batch_size: int,
) -> dict[str, Scores]:
  """Scores of a language model by name of RANKINGS, nats.

  `bare_rows` are the same pairs `without_prompts`; a pair that only they hold
  is left out.
  """

  def sums(params: Params, batch: types.PackedPairs):
    sums, counts = preference.reply_logprobs(model, params, batch)
    return *sums, *counts

  collect = _over_rows(sums, mesh, batch_size)
  ids, *given = collect(params, rows)
  bare_ids, *bare = collect(params, bare_rows)
  at = {pair: i for i, pair in enumerate(bare_ids.tolist())}
  same = [at[pair] for pair in ids.tolist()]
  total, count, free = given[:2], given[2:], [x[same] for x in bare[:2]]
  return {
    'mean': (ids, *(s / n for s, n in zip(total, count, strict=True))),
    'sum': (ids, *total),
    'mutual_information': (
      ids,
      *(s - f for s, f in zip(total, free, strict=True)),
    ),
  }


def _mean_logprobs(model: Transformer, params: Params, batch):
  sums, counts = preference.reply_logprobs(model, params, batch)
  return tuple(s / n for s, n in zip(sums, counts, strict=True))


def _over_rows(fn: Callable, mesh: Mesh, batch_size: int) -> Callable:
  """(params, rows) -> pair ids and the outputs [B, M] of fn, real pairs only.

  fn is compiled once for all calls.
  """
  compiled = jax.jit(fn)

  def collect(params: Params, rows: types.PackedPairs):
    parts = []
    for batch in loader.eval_batches(rows, batch_size=batch_size):
      out = sharding.fetch(compiled(params, sharding.place(mesh, batch)))
      real = batch.pair_mask > 0
      parts.append([x[real] for x in (batch.pair_ids, *out)])
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))

  return collect

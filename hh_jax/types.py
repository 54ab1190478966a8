"""Array containers that cross file borders.

Axis letters: B batch, T time, P prompt columns, R reply columns, M pairs a row,
K tokens that a teacher's distribution names.
Every per-token array is aligned with its token: entry t belongs to token t.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax

Array = jax.Array
Params = Any  # nested dict of float32 arrays
# loss_fn(params, batch, whole) -> (loss [], metrics), the one signature of all.
# `batch` is `whole`, or a micro-batch of it: sums over the rows of the one are
# means over the counts of the other, so that micro-batches add up.
LossFn = Callable[[Params, Any, Any], tuple[Array, dict[str, Array]]]


@flax.struct.dataclass
class TokenBatch:
  """Documents packed into rows, for language modelling."""

  tokens: Array  # int32 [B, T]
  positions: Array  # int32 [B, T], restart at 0 in every document
  segments: Array  # int32 [B, T], 1.. for documents, 0 for padding
  loss_mask: Array  # float32 [B, T], 1 where the token is a target


@flax.struct.dataclass
class DistillBatch:
  """Documents packed into rows, and what a teacher with a context predicts.

  Entry t of the last two is the distribution of token t; where loss_mask is 0
  it means nothing.
  """

  rows: TokenBatch
  top_tokens: Array  # integers [B, T, K], the teacher's most likely tokens
  logprobs: Array  # float32 or float16 [B, T, K + 1], nats, the rest last


@flax.struct.dataclass
class PackedPairs:
  """Comparisons packed into rows, each prompt stored once.

  A pair lies as [prompt | chosen | rejected]; branch 0 is the prompt, 1 the
  chosen reply, 2 the rejected one. A token sees the earlier tokens of its own
  pair whose branch is 0 or its own.
  """

  tokens: Array  # int32 [B, T]
  positions: Array  # int32 [B, T], both replies go on after the prompt
  segments: Array  # int32 [B, T], 1.. for pairs, 0 for padding
  branches: Array  # int32 [B, T], 0 prompt, 1 chosen, 2 rejected
  chosen_end: Array  # int32 [B, M], column of the end-of-context token
  rejected_end: Array  # int32 [B, M], the same for the rejected reply
  parents: Array  # int32 [B, T], column of the token before it in its pair
  pair_mask: Array  # float32 [B, M], 1 where there is a pair
  labels: Array  # float32 [B, M], P(chosen is better) in the raters' eyes
  margins: Array  # float32 [B, M], PM units by which chosen should win
  weights: Array  # float32 [B, M], of the pair in the loss, 0 without a pair
  pair_ids: Array  # int32 [B, M], index into the source, -1 where none


@flax.struct.dataclass
class Prompts:
  """Prompts that end with the Assistant marker, padded on the left."""

  tokens: Array  # int32 [B, P]
  lengths: Array  # int32 [B], real tokens a row
  ids: Array  # int32 [B], index into the source


@flax.struct.dataclass
class Samples:
  """Replies drawn from a policy, each beside its prompt."""

  tokens: Array  # int32 [B, P + R], prompt padded left, reply padded right
  prompt_lengths: Array  # int32 [B]
  reply_lengths: Array  # int32 [B], sampled tokens, the stop token included
  reply_mask: Array  # float32 [B, R], 1 on sampled tokens
  is_stopped: Array  # bool [B], whether a stop token was drawn
  logprobs: Array  # float32 [B, R], nats, as drawn


@flax.struct.dataclass
class Rollout:
  """Scored replies, ready for policy updates; reply arrays are [B, R]."""

  tokens: Array  # int32 [B, P + R]
  prompt_lengths: Array  # int32 [B]
  reply_mask: Array  # float32 [B, R], 1 on sampled tokens
  logprobs: Array  # float32 [B, R], nats, of the policy that sampled
  ref_logprobs: Array  # float32 [B, R], nats, of the reference
  values: Array  # float32 [B, R], PM units, before each token
  advantages: Array  # float32 [B, R]
  returns: Array  # float32 [B, R], PM units
  kl_coef: Array  # float32 [B], units of advantages a nat; of KL in the loss


@flax.struct.dataclass
class PolicyBatch:
  """What one policy update, or a micro-batch of it, learns from.

  Losses are sums of `weights` (and of `text.loss_mask`) times a quantity, so
  that the losses of micro-batches add up to that of their minibatch.
  """

  rollout: Rollout
  weights: Array  # float32 [B, R], what a token counts
  text: TokenBatch | None  # ordinary text (PPO-ptx), rows [M, T]


@flax.struct.dataclass
class TrainState:
  """All that a step changes, and the root key it folds the step into."""

  step: Array  # int32 [], optimizer steps taken
  params: Params
  opt_state: Any
  key: Array  # typed PRNG key []

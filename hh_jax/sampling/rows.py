"""Left-padded prompts with right-padded replies, and passes over them.

Axis letters: B batch, P prompt, R reply, S = P + R, D model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hh_jax import arrays, attention, sharding
from hh_jax.model import Transformer
from hh_jax.types import Array, Params, Samples


def default_widths(max_prompt: int) -> tuple[int, ...]:
  """Powers of two from 32 up, and max_prompt itself."""
  widths, width = [], 32
  while width < max_prompt:
    widths.append(width)
    width *= 2
  return (*widths, max_prompt)


def column_positions(prompt_lengths: Array, prompt_width: int, total: int):
  """Positions [B, S] and realness [B, S] of left-padded rows.

  The first prompt token is at position 0; padding before it also gets 0.
  """
  columns = jnp.arange(total)[None, :]
  offset = (prompt_width - prompt_lengths)[:, None]
  return jnp.maximum(columns - offset, 0), columns >= offset


def row_mask(
  prompt_lengths: Array, prompt_width: int, total: int
) -> attention.Packed:
  """Who sees whom in left-padded rows [B, S]."""
  _, is_real = column_positions(prompt_lengths, prompt_width, total)
  return attention.Packed(is_real.astype(jnp.int32))


def row_keys(key: Array, ids: Array) -> Array:
  """One key a row from its id: the same whatever the batch around it."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def reply_hidden(
  model: Transformer,
  params: Params,
  tokens: Array,
  prompt_lengths: Array,
  *,
  max_reply: int,
) -> Array:
  """Hidden states that predict the reply tokens, float32 [B, R, D].

  tokens [B, P + R]; a teacher-forced pass over prompt and reply.
  """
  total = tokens.shape[1]
  width = total - max_reply
  positions, _ = column_positions(prompt_lengths, width, total)
  mask = row_mask(prompt_lengths, width, total)
  columns = arrays.predicting_columns(width, total)
  return model.hidden(params, tokens, positions, mask, columns)


def end_scores(
  model: Transformer,
  params: Params,
  samples: Samples,
  *,
  end_id: int,
) -> Array:
  """Scalar-head score of every sampled reply, PM units [B].

  The stop token gives way to the end-of-context token `end_id`; a reply cut by
  the length limit gets it appended. Where it stands the score is read.
  """
  max_reply = samples.reply_mask.shape[1]
  width = samples.tokens.shape[1] - max_reply
  end_column = width + samples.reply_lengths - samples.is_stopped
  columns = jnp.arange(width + max_reply + 1)[None, :]
  tokens = jnp.pad(samples.tokens, [(0, 0), (0, 1)])
  tokens = jnp.where(columns == end_column[:, None], end_id, tokens)
  positions, _ = column_positions(
    samples.prompt_lengths, width, tokens.shape[1]
  )
  mask = row_mask(samples.prompt_lengths, width, tokens.shape[1])
  hidden = model.hidden(params, tokens, positions, mask, end_column[:, None])
  return model.scores(params, hidden[:, 0])


def reply_tokens(samples: Samples) -> Sequence[list[int]]:
  """Host side: the sampled ids of every row without the stop token."""
  host = sharding.fetch(samples)
  width = host.tokens.shape[1] - host.reply_mask.shape[1]
  ends = width + host.reply_lengths - host.is_stopped
  return [
    row[width:end].tolist() for row, end in zip(host.tokens, ends, strict=True)
  ]

"""Replies that go on into another turn without the marker's token. Host side.

A stop token ends a reply, but a policy can also spell '\\n\\nHuman:' in other
pieces, and write both sides of a dialogue as one reply.
"""

from collections.abc import Callable, Sequence

import numpy as np

from hh_jax import dialogue, sharding
from hh_jax.sampling.rows import reply_tokens
from hh_jax.types import Samples


def tokens_of_turn(
  ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> int:
  """How many of a reply's tokens come before a spelt marker; at least 1."""
  text = decode(ids)
  turn = dialogue.truncate_reply(text)
  if turn == text:
    return len(ids)
  kept = (
    n for n in range(len(ids), 0, -1) if len(decode(ids[:n])) <= len(turn)
  )
  return next(kept, 1)


def cut_at_markers(
  samples: Samples, decode: Callable[[Sequence[int]], str]
) -> tuple[Samples, np.ndarray]:
  """Samples that end where a next turn begins, and which were cut, bool [B].

  A reply that was cut has not ended by itself. Where none was the samples are
  the ones given; otherwise they are on the host.
  """
  replies = reply_tokens(samples)
  lengths = np.array([tokens_of_turn(ids, decode) for ids in replies])
  is_cut = lengths < np.array([len(ids) for ids in replies])
  if not is_cut.any():
    return samples, is_cut
  host = sharding.fetch(samples)
  lengths = np.where(is_cut, lengths, host.reply_lengths).astype(np.int32)
  mask = np.arange(host.reply_mask.shape[1])[None] < lengths[:, None]
  width = host.tokens.shape[1] - mask.shape[1]
  tokens = host.tokens.copy()
  tokens[:, width:] *= mask
  return Samples(
    tokens=tokens,
    prompt_lengths=host.prompt_lengths,
    reply_lengths=lengths,
    reply_mask=mask.astype(np.float32),
    is_stopped=host.is_stopped & ~is_cut,
    logprobs=host.logprobs * mask,
  ), is_cut

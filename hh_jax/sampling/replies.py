"""Replies to a batch of prompts, in the order of the prompts."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from hh_jax import sharding
from hh_jax.model import Transformer
from hh_jax.sampling import decode, rows
from hh_jax.sampling.distribution import SamplingDistribution
from hh_jax.types import Array, Params, Prompts, Samples


def _by_length(prompts: Prompts) -> Array:
  """The order of the prompts: short ones first, those without tokens last."""
  lengths = prompts.lengths
  past = jnp.iinfo(lengths.dtype).max
  return jnp.argsort(jnp.where(lengths > 0, lengths, past), stable=True)


def at_once(slots: int, num_samples: int) -> int:
  """Slots that are refilled at once: a quarter, or a few less.

  All samples of some prompts, or an equal part of those of one.
  """
  most = max(slots // 4, 1)
  if num_samples <= most:
    return most - most % num_samples
  return max(a for a in range(1, most + 1) if num_samples % a == 0)


def _collect(
  task: decode.Task, prompts: Prompts, end: decode.Slots, order: Array | None
) -> Samples:
  """Samples in the order of `prompts`; those of the task came in `order`."""
  replies = (end.tokens, end.logprobs, end.lengths, end.is_stopped)
  if order is not None:
    where = jnp.argsort(order)[:, None] * task.num_samples
    where = (where + jnp.arange(task.num_samples)[None]).reshape(-1)
    replies = tuple(x[where] for x in replies)
  tokens, logprobs, lengths, is_stopped = replies
  prompts = jax.tree.map(
    lambda x: jnp.repeat(x, task.num_samples, axis=0), prompts
  )
  reply_mask = jnp.arange(task.max_reply)[None, :] < lengths[:, None]
  return Samples(
    tokens=jnp.concatenate([prompts.tokens, tokens], axis=1),
    prompt_lengths=prompts.lengths,
    reply_lengths=lengths,
    reply_mask=reply_mask.astype(jnp.float32),
    is_stopped=is_stopped,
    logprobs=logprobs,
  )


def sample(
  model: Transformer,
  params: Params,
  prompts: Prompts,
  key: Array,
  *,
  distribution: SamplingDistribution,
  max_reply: int,
  row_ids: Array,
  num_samples: int = 1,
  slots: int = 0,
  widths: Sequence[int] | None = None,
) -> Samples:
  """Draws num_samples replies of up to max_reply tokens for every prompt.

  A prompt is read once for all its samples, which lie in adjacent rows. The
  loop ends when every reply has drawn a stop token or is full. With slots > 0
  only so many replies decode at a time, those to short prompts first; one that
  ends gives way to the next, and a prompt is padded to the first of `widths`
  that holds it (ascending; default_widths; P is the last one anyhow). A prompt
  of length 0 gets replies of length 0; with slots it costs nothing.

  On a mesh that splits rows alone each device draws the replies to its own
  prompts, in its share of the slots (rounded up), until they are done: nothing
  travels, and `params` are whole on each.

  `row_ids`, of the prompts, name their random streams: the same key and id
  give the same replies in any batch. (With num_samples > 1, reply j of a
  prompt has the stream id * num_samples + j.)
  """
  mesh = sharding.mesh_of(prompts.tokens)
  is_queue = 0 < slots < row_ids.shape[0] * num_samples
  is_split = is_queue and 1 < mesh.size == sharding.ways(mesh)
  draw = functools.partial(
    _sample,
    model,
    distribution=distribution,
    max_reply=max_reply,
    num_samples=num_samples,
    slots=-(-slots // mesh.size) if is_split else slots,
    widths=widths,
  )
  if is_split:
    by_rows = P(sharding.ROWS)
    draw = jax.shard_map(
      draw,
      mesh=mesh,
      in_specs=(P(), by_rows, P(), by_rows),
      out_specs=by_rows,
      check_vma=False,
    )
  return draw(params, prompts, key, row_ids)


def _sample(
  model: Transformer,
  params: Params,
  prompts: Prompts,
  key: Array,
  row_ids: Array,
  *,
  distribution: SamplingDistribution,
  max_reply: int,
  num_samples: int,
  slots: int,
  widths: Sequence[int] | None,
) -> Samples:
  """As sample, in one loop over all slots."""
  n = row_ids.shape[0] * num_samples
  is_queue = 0 < slots < n
  slots = slots if is_queue else n
  order = jnp.arange(row_ids.shape[0])
  if is_queue:
    order = _by_length(prompts)
  ids = row_ids[order, None] * num_samples + jnp.arange(num_samples)[None]
  longest = prompts.tokens.shape[1]
  task = decode.Task(
    model=model,
    params=params,
    decode_params=model.by_layer(params),
    prompts=jax.tree.map(lambda x: x[order], prompts),
    keys=rows.row_keys(key, ids.reshape(-1)),
    count=(prompts.lengths > 0).sum() * num_samples if is_queue else n,
    distribution=distribution,
    num_samples=num_samples,
    at_once=at_once(slots, num_samples) if is_queue else n,
    width=longest,
    max_reply=max_reply,
  )
  if widths is None:
    widths = rows.default_widths(longest)
  end = decode.run(task, slots, [*(w for w in widths if w < longest), longest])
  return _collect(task, prompts, end, order if is_queue else None)

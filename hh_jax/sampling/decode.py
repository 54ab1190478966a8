"""The decode loop, with continuous batching on the device.

`slots` rows decode together; each holds one reply at a time. The reply columns
of the cache are a ring that all slots share: in a step every slot writes the
same column, and a mask says which columns are of its present reply. So a slot
can begin its next reply at any step, at fixed shapes.

Axis letters: N replies, B slots, A slots that are refilled at once, P prompt,
R reply, S = P + R, V vocab.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from hh_jax.model import KVCache, Transformer
from hh_jax.sampling import rows
from hh_jax.sampling.distribution import SamplingDistribution
from hh_jax.types import Array, Params, Prompts, Samples


@flax.struct.dataclass
class _Slots:
  """What the decode loop carries."""

  cache: KVCache  # of S columns
  ring: Array  # int32 [], the reply column of the next step
  seen: Array  # bool [B, S], columns of the slot's present reply
  reply: Array  # int32 [B], which one it is; N before the first
  drawn: Array  # int32 [B], tokens drawn of it
  token: Array  # int32 [B], the last one
  is_done: Array  # bool [B]
  next_reply: Array  # int32 [], the first one that no slot has begun
  tokens: Array  # int32 [N, R]
  logprobs: Array  # float32 [N, R]
  lengths: Array  # int32 [N]
  is_stopped: Array  # bool [N]


class _Task(NamedTuple):
  """What the loop is about; nothing here changes in it."""

  model: Transformer
  params: Params
  decode_params: Params  # the same, as model.by_layer lays them out
  prompts: Prompts  # [N / num_samples, P]
  keys: Array  # [N]
  distribution: SamplingDistribution
  num_samples: int
  at_once: int  # A
  max_reply: int

  @property
  def num_replies(self) -> int:
    return self.keys.shape[0]

  @property
  def width(self) -> int:
    return self.prompts.tokens.shape[1]


def _empty(task: _Task, slots: int) -> _Slots:
  n, total = task.num_replies, task.width + task.max_reply
  zeros = jnp.zeros(slots, jnp.int32)
  return _Slots(
    cache=task.model.empty_cache(slots, total),
    ring=jnp.int32(0),
    seen=jnp.zeros((slots, total), bool),
    reply=zeros + n,
    drawn=zeros,
    token=zeros,
    is_done=jnp.ones(slots, bool),
    next_reply=jnp.int32(0),
    tokens=jnp.zeros((n, task.max_reply), jnp.int32),
    logprobs=jnp.zeros((n, task.max_reply), jnp.float32),
    lengths=jnp.zeros(n, jnp.int32),
    is_stopped=jnp.zeros(n, bool),
  )


def _draw(task: _Task, state: _Slots, where: Array, logits: Array) -> _Slots:
  """Draws the next token of the slots `where` [A] from logits [A, V]."""
  n, nowhere = task.num_replies, state.is_done.shape[0]
  is_done, drawn = state.is_done[where], state.drawn[where]
  reply = jnp.where(is_done, n, state.reply[where])  # n: written nowhere
  keys = task.keys[jnp.minimum(reply, n - 1)]
  step_keys = jax.vmap(jax.random.fold_in)(keys, drawn)
  token, logprob = task.distribution.draw(logits, step_keys)
  is_stop = task.distribution.is_stop(token)
  drawn += 1
  # slots that are done stay as they are
  where = jnp.where(is_done, nowhere, where)

  def put(x: Array, index, values) -> Array:
    return x.at[index].set(values, mode='drop')

  return state.replace(
    token=put(state.token, where, token),
    drawn=put(state.drawn, where, drawn),
    is_done=put(state.is_done, where, is_stop | (drawn == task.max_reply)),
    tokens=put(state.tokens, (reply, drawn - 1), token),
    logprobs=put(state.logprobs, (reply, drawn - 1), logprob),
    lengths=put(state.lengths, reply, drawn),
    is_stopped=put(state.is_stopped, reply, is_stop),
  )


def _row_axis(x: Array) -> int:
  """The B axis of an array of a cache, with or without an L axis before it."""
  return x.ndim - 4


def _prefill(task: _Task, prompts: Prompts) -> tuple[Array, KVCache]:
  """Logits of the first token and the prompts' columns; a sample a row."""
  positions, _ = rows.column_positions(prompts.lengths, task.width, task.width)
  mask = rows.row_mask(prompts.lengths, task.width, task.width)
  hidden, cache = task.model.prefill(
    task.params, prompts.tokens, positions, mask, length=task.width
  )
  logits = task.model.logits(task.params, hidden)
  n = task.num_samples
  return (
    jnp.repeat(logits, n, axis=0),
    jax.tree.map(lambda x: jnp.repeat(x, n, axis=_row_axis(x)), cache),
  )


def _refill(task: _Task, state: _Slots) -> _Slots:
  """A slots that are done begin the next A replies."""
  n, a, width = task.num_replies, task.at_once, task.width
  where = jnp.argsort(~state.is_done, stable=True)[:a]
  reply = state.next_reply + jnp.arange(a)
  index = state.next_reply // task.num_samples + jnp.arange(
    a // task.num_samples
  )
  last = task.prompts.tokens.shape[0] - 1
  prompts = jax.tree.map(lambda x: x[jnp.minimum(index, last)], task.prompts)
  logits, new = _prefill(task, prompts)

  def write(i: Array, cache: KVCache) -> KVCache:
    def of(x: Array, y: Array) -> Array:
      axis = _row_axis(x)
      row = jax.lax.dynamic_slice_in_dim(y, i, 1, axis=axis)
      start = [where[i] if j == axis else 0 for j in range(x.ndim)]
      return jax.lax.dynamic_update_slice(x, row, start)

    return jax.tree.map(of, cache, new)

  _, is_real = rows.column_positions(
    jnp.repeat(prompts.lengths, task.num_samples), width, state.seen.shape[1]
  )
  in_prompt = is_real & (jnp.arange(state.seen.shape[1]) < width)[None]
  state = state.replace(
    cache=jax.lax.fori_loop(0, a, write, state.cache),
    seen=state.seen.at[where].set(in_prompt),
    reply=state.reply.at[where].set(reply),
    drawn=state.drawn.at[where].set(0),
    is_done=state.is_done.at[where].set(reply >= n),
    next_reply=jnp.minimum(state.next_reply + a, n),
  )
  return _draw(task, state, where, logits)


def _step(task: _Task, state: _Slots) -> _Slots:
  """Every slot takes in its last token and draws the next one."""
  column = task.width + state.ring
  lengths = jnp.repeat(task.prompts.lengths, task.num_samples)
  lengths = lengths[jnp.minimum(state.reply, task.num_replies - 1)]
  seen = state.seen.at[:, column].set(True)
  hidden, cache = task.model.decode(
    task.decode_params,
    state.token,
    lengths + state.drawn - 1,
    seen,
    state.cache,
    column,
  )
  state = state.replace(
    cache=cache,
    seen=seen,
    ring=(state.ring + 1) % task.max_reply,
  )
  logits = task.model.logits(task.params, hidden)
  return _draw(task, state, jnp.arange(lengths.shape[0]), logits)


def _run(task: _Task, slots: int) -> _Slots:
  """All replies, in `slots` slots."""
  n = task.num_replies

  def waits(state: _Slots) -> Array:
    return state.next_reply < n

  def can_refill(state: _Slots) -> Array:
    return waits(state) & (state.is_done.sum() >= task.at_once)

  def body(state: _Slots) -> _Slots:
    state = _step(task, state)
    if slots == n:  # all have begun
      return state
    return jax.lax.while_loop(can_refill, refill, state)

  def refill(state: _Slots) -> _Slots:
    return _refill(task, state)

  def go_on(state: _Slots) -> Array:
    return waits(state) | ~state.is_done.all()

  state = _empty(task, slots)
  if slots == n:
    state = refill(state)
  else:
    state = jax.lax.while_loop(can_refill, refill, state)
  return jax.lax.while_loop(go_on, body, state)


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
) -> Samples:
  """Draws num_samples replies of up to max_reply tokens for every prompt.

  A prompt is read once for all its samples, which lie in adjacent rows. The
  loop ends when every reply has drawn a stop token or is full. With slots > 0
  only so many replies decode at a time; one that ends gives way to the next
  (a quarter of the slots at once).

  `row_ids`, of the prompts, name their random streams: the same key and id
  give the same replies in any batch. (With num_samples > 1, reply j of a
  prompt has the stream id * num_samples + j.)
  """
  n = row_ids.shape[0] * num_samples
  slots = n if not 0 < slots < n else slots
  at_once = n if slots == n else max(slots // 4, 1)
  if at_once % num_samples:
    raise ValueError(
      f'slots {slots}: a quarter of them is no multiple of num_samples '
      f'{num_samples}'
    )
  ids = row_ids[:, None] * num_samples + jnp.arange(num_samples)[None]
  task = _Task(
    model=model,
    params=params,
    decode_params=model.by_layer(params),
    prompts=prompts,
    keys=rows.row_keys(key, ids.reshape(-1)),
    distribution=distribution,
    num_samples=num_samples,
    at_once=at_once,
    max_reply=max_reply,
  )
  end = _run(task, slots)
  reply_mask = jnp.arange(max_reply)[None, :] < end.lengths[:, None]
  prompts = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), prompts)
  return Samples(
    tokens=jnp.concatenate([prompts.tokens, end.tokens], axis=1),
    prompt_lengths=prompts.lengths,
    reply_lengths=end.lengths,
    reply_mask=reply_mask.astype(jnp.float32),
    is_stopped=end.is_stopped,
    logprobs=end.logprobs,
  )

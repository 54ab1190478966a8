"""The decode loop, with continuous batching on the device.

What it is called with, and what becomes of its results: see replies.py.

`slots` rows decode together; each holds one reply at a time. The reply columns
of the cache are a ring that all slots share: in a step every slot writes the
same column, and a mask says which columns are of its present reply. So a slot
can begin its next reply at any step, at fixed shapes.

Waiting prompts come in the order of their lengths: the columns for prompts grow
with them (`widths`), and the slots become fewer when no reply waits.

Axis letters: N replies, B slots, A slots that are refilled at once, P prompt,
R reply, S = P + R, V vocab.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from hh_jax import sharding
from hh_jax.model import KVCache, Transformer
from hh_jax.sampling import rows
from hh_jax.sampling.distribution import SamplingDistribution
from hh_jax.types import Array, Params, Prompts


@flax.struct.dataclass
class _Read:
  """Prompts that were read, a row each."""

  logits: Array  # float32 [., V], of the first token of a reply
  lengths: Array  # int32 [.]
  cache: KVCache  # of P columns


@flax.struct.dataclass
class Slots:
  """What the decode loop carries."""

  cache: KVCache  # of S columns
  ring: Array  # int32 [], the reply column of the next step
  seen: Array  # bool [B, S], columns of the slot's present reply
  reply: Array  # int32 [B], which one it is; N before the first
  drawn: Array  # int32 [B], tokens drawn of it
  token: Array  # int32 [B], the last one
  is_done: Array  # bool [B]
  next_reply: Array  # int32 [], the first one that no slot has begun
  read: Any  # _Read of a prompt some of whose samples wait, or None
  tokens: Array  # int32 [N, R]
  logprobs: Array  # float32 [N, R]
  lengths: Array  # int32 [N]
  is_stopped: Array  # bool [N]


class Task(NamedTuple):
  """What the loop is about; nothing here changes in it."""

  model: Transformer
  params: Params
  decode_params: Params  # the same, as model.by_layer lays them out
  prompts: Prompts  # [N / num_samples, ...]
  keys: Array  # [N]
  count: Array  # int32 [], replies to draw: the first ones
  distribution: SamplingDistribution
  num_samples: int
  at_once: int  # A
  width: int  # P
  max_reply: int

  @property
  def num_replies(self) -> int:
    return self.keys.shape[0]

  @property
  def read_at_once(self) -> int:
    """Prompts of the A replies."""
    return max(self.at_once // self.num_samples, 1)


def _empty(task: Task, slots: int) -> Slots:
  n, total = task.num_replies, task.width + task.max_reply
  zeros = jnp.zeros(slots, jnp.int32)
  read = None
  if task.num_samples > task.at_once:
    shapes = jax.eval_shape(lambda: _prefill(task, jnp.int32(0)))
    read = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return Slots(
    cache=task.model.empty_cache(slots, total),
    ring=jnp.int32(0),
    seen=jnp.zeros((slots, total), bool),
    reply=zeros + n,
    drawn=zeros,
    token=zeros,
    is_done=jnp.ones(slots, bool),
    next_reply=jnp.int32(0),
    read=read,
    tokens=jnp.zeros((n, task.max_reply), jnp.int32),
    logprobs=jnp.zeros((n, task.max_reply), jnp.float32),
    lengths=jnp.zeros(n, jnp.int32),
    is_stopped=jnp.zeros(n, bool),
  )


def _draw(task: Task, state: Slots, where: Array, logits: Array) -> Slots:
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


def _prefill(task: Task, first: Array) -> _Read:
  """Reads the prompts whose replies begin next, from prompt `first` on."""
  last = task.prompts.tokens.shape[0] - 1
  index = jnp.minimum(first + jnp.arange(task.read_at_once), last)
  prompts = jax.tree.map(lambda x: x[index], task.prompts)
  width = task.width
  positions, _ = rows.column_positions(prompts.lengths, width, width)
  mask = rows.row_mask(prompts.lengths, width, width)
  hidden, cache = task.model.prefill(
    *(task.params, prompts.tokens[:, -width:], positions, mask), length=width
  )
  logits = task.model.logits(task.params, hidden)
  return _Read(logits, prompts.lengths, cache)


def _read(task: Task, state: Slots) -> _Read:
  """What the next A replies begin with: read now, or for earlier samples."""
  first, sample = jnp.divmod(state.next_reply, task.num_samples)
  if task.num_samples <= task.at_once:
    return _prefill(task, first)
  return jax.lax.cond(
    sample == 0, lambda: _prefill(task, first), lambda: state.read
  )


def _refill(task: Task, state: Slots) -> Slots:
  """A slots that are done begin the next A replies."""
  a, width, slots = task.at_once, task.width, state.is_done.shape[0]
  where = jnp.argsort(~state.is_done, stable=True)[:a]
  reply = state.next_reply + jnp.arange(a)
  read = _read(task, state)
  copies = a // task.read_at_once

  def write(i: Array, cache: KVCache) -> KVCache:
    def of(x: Array, y: Array) -> Array:
      axis = _row_axis(x)
      row = jax.lax.dynamic_slice_in_dim(y, i // copies, 1, axis=axis)
      start = [where[i] if j == axis else 0 for j in range(x.ndim)]
      return jax.lax.dynamic_update_slice(x, row, start)

    return jax.tree.map(of, cache, read.cache)

  def write_all(x: Array, y: Array) -> Array:
    # row after row, each would travel to all devices
    y = jnp.repeat(y, copies, axis=_row_axis(y))
    return jax.lax.dynamic_update_slice(x, y, (0,) * x.ndim)

  if a == slots:
    cache = jax.tree.map(write_all, state.cache, read.cache)
  else:
    cache = jax.lax.fori_loop(0, a, write, state.cache)
  lengths = jnp.repeat(read.lengths, copies)
  _, is_real = rows.column_positions(lengths, width, state.seen.shape[1])
  in_prompt = is_real & (jnp.arange(state.seen.shape[1]) < width)[None]
  state = state.replace(
    cache=cache,
    seen=state.seen.at[where].set(in_prompt),
    reply=state.reply.at[where].set(reply),
    drawn=state.drawn.at[where].set(0),
    is_done=state.is_done.at[where].set((reply >= task.count) | (lengths == 0)),
    next_reply=jnp.minimum(state.next_reply + a, task.count),
    read=read if task.num_samples > a else None,
  )
  return _draw(task, state, where, jnp.repeat(read.logits, copies, axis=0))


def _step(task: Task, state: Slots) -> Slots:
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


def _widen(state: Slots, by: int) -> Slots:
  """`by` more columns for prompts, on the left."""

  def left(x: Array, axis: int) -> Array:
    return jnp.pad(x, [(by if i == axis else 0, 0) for i in range(x.ndim)])

  def widen(cache: KVCache) -> KVCache:
    return KVCache(
      jax.tree.map(lambda x: left(x, x.ndim - 1), cache.keys),
      jax.tree.map(lambda x: left(x, x.ndim - 2), cache.values),
    )

  read = state.read
  return state.replace(
    cache=widen(state.cache),
    seen=left(state.seen, 1),
    read=read and read.replace(cache=widen(read.cache)),
  )


def _narrow(state: Slots, slots: int) -> Slots:
  """Only so many slots: those that are not done first."""
  kept = jnp.argsort(state.is_done, stable=True)[:slots]
  return state.replace(
    cache=jax.tree.map(
      lambda x: jnp.take(x, kept, axis=_row_axis(x)), state.cache
    ),
    **{
      name: getattr(state, name)[kept]
      for name in ('seen', 'reply', 'drawn', 'token', 'is_done')
    },
  )


def _begin(task: Task, state: Slots) -> Slots:
  """Until every reply to a prompt of up to task.width tokens has begun."""
  ends = jnp.repeat(task.prompts.lengths, task.num_samples)

  def fits(state: Slots) -> Array:
    # the longest of the next A: they are sorted
    last = jnp.minimum(state.next_reply + task.at_once, task.count) - 1
    return (state.next_reply < task.count) & (ends[last] <= task.width)

  def can_refill(state: Slots) -> Array:
    return fits(state) & (state.is_done.sum() >= task.at_once)

  def body(state: Slots) -> Slots:
    state = jax.lax.while_loop(can_refill, lambda s: _refill(task, s), state)
    return _step(task, state)

  return jax.lax.while_loop(fits, body, state)


def _finish(task: Task, state: Slots) -> Slots:
  """Until all are done; in fewer slots as soon as half of them are."""
  slots = state.is_done.shape[0]
  sizes = [slots]
  # on several devices the slots of each would have to travel
  is_here = sharding.mesh_of(state.token).size <= 1
  while sizes[-1] >= 8 and len(sizes) < 4 and is_here:
    sizes.append(sizes[-1] // 2)
  for size, smaller in zip(sizes, [*sizes[1:], 0], strict=True):
    state = jax.lax.while_loop(
      lambda s, n=smaller: (~s.is_done).sum() > n,
      lambda s: _step(task, s),
      _narrow(state, size) if size < slots else state,
    )
  return state


def run(task: Task, slots: int, widths: Sequence[int]) -> Slots:
  """All replies, in `slots` slots."""
  if slots == task.num_replies:  # all at once
    return _finish(task, _refill(task, _empty(task, slots)))
  task = task._replace(width=widths[0])
  state = _empty(task, slots)
  for width in widths:
    state = _widen(state, width - task.width)
    task = task._replace(width=width)
    state = _begin(task, state)
  return _finish(task, state)

"""What a reply token is drawn from. Axis letters: B batch, V vocab."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from hh_jax.types import Array

_BLOCK = 128  # entries of a row that `draw` looks at one by one
# Logits of up to 1,000 divided by it stay above what nothing is drawn with.
MIN_TEMPERATURE = 1e-6


@dataclasses.dataclass(frozen=True)
class SamplingDistribution:
  """The one distribution of sampler, log-probs, ratios and KLs.

  Logits are divided by the temperature; then only the top_k largest stay, and
  of these the fewest whose probabilities reach top_p (ties: the lower id).
  With either of them (`is_truncated`) two policies have different supports,
  so that no ratio or KL between them is finite: `ppo` has neither.
  """

  temperature: float
  banned: tuple[int, ...]  # ids never drawn: padding, markers, controls
  stop: tuple[int, ...]  # ids that end a reply (and belong to it)
  top_k: int = 0  # 0: all
  top_p: float = 1.0  # 1: all

  def __post_init__(self):
    if not MIN_TEMPERATURE <= self.temperature < math.inf:
      raise ValueError(
        f'temperature {self.temperature} is not finite and '
        f'{MIN_TEMPERATURE:g} or more'
      )
    if self.top_k < 0:
      raise ValueError(f'top_k {self.top_k} is not 0 or more')
    if not 0 < self.top_p <= 1:
      raise ValueError(f'top_p {self.top_p} is not in (0, 1]')
    if set(self.banned) & set(self.stop):
      raise ValueError(f'banned {self.banned} and stop {self.stop} overlap')

  @property
  def is_truncated(self) -> bool:
    return self.top_k > 0 or self.top_p < 1

  def log_softmax(self, logits: Array) -> Array:
    """Log-probabilities, nats: logits [..., V] float32 -> [..., V]."""
    return jax.nn.log_softmax(self.adjust(logits), axis=-1)

  def token_logprobs(self, logits: Array, tokens: Array):
    """log p(token) [...] and the whole log-softmax [..., V], nats."""
    logp = self.log_softmax(logits)
    picked = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    return picked, logp

  def adjust(self, logits: Array) -> Array:
    """Logits [..., V] of this distribution; -1e9 where it draws nothing."""
    banned = (
      jnp.zeros(logits.shape[-1], bool).at[jnp.array(self.banned)].set(True)
    )
    banned = banned.reshape((1,) * (logits.ndim - 1) + banned.shape)
    # finite, so that 0 * log 0 terms of entropy and KL stay 0
    logits = jnp.where(banned, -1e9, logits / self.temperature)
    if not self.is_truncated:
      return logits
    rows = logits.reshape(-1, logits.shape[-1])
    keep = jax.vmap(self._support)(rows).reshape(logits.shape)
    return jnp.where(keep, logits, -1e9)

  def _support(self, logits: Array) -> Array:
    """Which entries of one row [V] can be drawn, bool [V]."""
    order = jnp.argsort(-logits, stable=True)
    rank = jnp.arange(logits.shape[0])
    keep = rank < (self.top_k or logits.shape[0])
    probs = jax.nn.softmax(jnp.where(keep, logits[order], -1e9))
    before = jnp.cumsum(probs) - probs
    if self.top_p < 1:
      keep &= (before < self.top_p) | (rank == 0)
    return jnp.zeros(logits.shape, bool).at[order].set(keep)

  def draw(self, logits: Array, keys: Array) -> tuple[Array, Array]:
    """One token a row, int32 [B], and its log-prob, nats [B].

    logits [B, V], one key a row. By inversion of the cumulative distribution,
    from one uniform number a row: first the block of the vocabulary, then the
    entry in it, so that no sum is over many numbers.
    """
    logits = self.adjust(logits)
    batch, vocab = logits.shape
    top = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - top)
    blocks = jnp.pad(weights, [(0, 0), (0, -vocab % _BLOCK)])
    blocks = blocks.reshape(batch, -1, _BLOCK)
    by_block = jnp.cumsum(blocks.sum(axis=-1), axis=-1)
    total = by_block[:, -1]
    at = jax.vmap(jax.random.uniform)(keys) * total
    block, left = _invert(by_block, at)
    within = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    entry, _ = _invert(jnp.cumsum(within, axis=-1), left)
    token = (block * _BLOCK + entry).astype(jnp.int32)
    picked = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token, picked - top[:, 0] - jnp.log(total)

  def is_stop(self, tokens: Array) -> Array:
    """Whether each token ends a reply, bool like `tokens`."""
    out = jnp.zeros(tokens.shape, bool)
    for stop in self.stop:
      out |= tokens == stop
    return out


def _invert(cumulative: Array, at: Array) -> tuple[Array, Array]:
  """First entry whose cumulative sum [B, N] is above `at` [B], and what of
  `at` lies within it.

  Never one of weight 0: rounding must not carry `at` to the end.
  """
  last = cumulative[:, -1]
  at = jnp.minimum(at, jnp.nextafter(last, jnp.zeros_like(last)))
  index = (cumulative <= at[:, None]).sum(axis=-1)
  before = jnp.concatenate(
    [jnp.zeros_like(cumulative[:, :1]), cumulative[:, :-1]], axis=-1
  )
  return index, at - jnp.take_along_axis(before, index[:, None], axis=-1)[:, 0]


def reply_distribution(
  tokenizer, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> SamplingDistribution:
  """Replies over ordinary text: a reply ends at the document end or where the
  next human turn begins; padding, unknown and markers are never drawn."""
  return SamplingDistribution(
    temperature=temperature,
    banned=(
      tokenizer.pad_id,
      tokenizer.unk_id,
      tokenizer.bos_id,
      tokenizer.eoc_id,
      tokenizer.assistant_id,
    ),
    stop=(tokenizer.eos_id, tokenizer.human_id),
    top_k=top_k,
    top_p=top_p,
  )

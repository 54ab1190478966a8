"""Prompts of a file of make_prompts, and replies that end where it says."""

import dataclasses
from typing import NamedTuple
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from hh_jax import sampling
from hh_jax.types import Array

EOS = 2  # as benchmarks of other frameworks number it
_SALT = 7  # of the random stream that ends replies


@dataclasses.dataclass(frozen=True)
class EndsByChance(sampling.SamplingDistribution):
  """Every token is an EOS with probability `chance`, whatever the model says.

  Which ones depends on the row's key alone, so that the lengths are known
  beforehand: see reply_lengths. EOS has to be among `banned`.
  """

  chance: float = 0.0

  def draw(self, logits: Array, keys: Array) -> tuple[Array, Array]:
    token, logprob = super().draw(logits, keys)
    return jnp.where(_ends(keys, self.chance), EOS, token), logprob

  def is_stop(self, tokens: Array) -> Array:
    return tokens == EOS


def _ends(keys: Array, chance: float) -> Array:
  uniform = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, _SALT)))
  return uniform(keys) < chance


def reply_lengths(
  num: int, *, seed: int, chance: float, longest: int
) -> np.ndarray:
  """Tokens of replies 0 .. num - 1 as EndsByChance ends them, int32 [num].

  The EOS is counted; `longest` where there is none before.
  """
  rows = sampling.row_keys(jax.random.key(seed), jnp.arange(num))

  def at(step: Array) -> Array:
    return _ends(jax.vmap(lambda k: jax.random.fold_in(k, step))(rows), chance)

  ends = np.array(jax.lax.map(at, jnp.arange(longest)))  # [longest, num]
  first = np.where(ends.any(0), ends.argmax(0) + 1, longest)
  return first.astype(np.int32)


class PromptFile(NamedTuple):
  prompts: list[list[int]]
  lengths: np.ndarray  # int32 [pool], of the replies at each place of a pool
  seed: int
  chance: float


def read(args) -> PromptFile:
  """The prompts that the flags ask for, the last --prompt-len tokens of each.

  SystemExit for a file that does not hold them, or an id that is not below
  --vocab.
  """
  num = args.pool * (args.warmup + args.steps)
  try:
    data = np.load(args.prompts)
    ids, ends, lengths = (
      data[name] for name in ('prompts', 'offsets', 'reply_lengths')
    )
    seed, chance = int(data['seed']), float(data['eos_prob'])
  except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
    raise SystemExit(f'error: --prompts {args.prompts}: {error}') from None
  if len(ends) - 1 < num:
    raise SystemExit(
      f'error: {args.prompts} has {len(ends) - 1} prompts, {num} are asked for'
    )
  prompts = [
    ids[ends[i] : ends[i + 1]][-args.prompt_len :].tolist() for i in range(num)
  ]
  if (largest := max(map(max, prompts))) >= args.vocab:
    raise SystemExit(
      f'error: {args.prompts} has the token id {largest}: --vocab '
      f'{args.vocab} is too small'
    )
  lengths = np.minimum(lengths[: args.pool], args.new_tokens)
  return PromptFile(prompts, lengths, seed, chance)

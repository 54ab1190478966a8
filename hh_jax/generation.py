"""Replies to any number of prompts of any length. Host side.

Prompts are sorted by length and padded to a few widths (buckets), each a fixed
shape that is compiled once; results come back in the order of the prompts.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math

import jax
from jax.sharding import Mesh
import numpy as np

from hh_jax import sampling, sharding
from hh_jax.data import packing
from hh_jax.errors import InputError
from hh_jax.model import Transformer
from hh_jax.types import Array, Params, Prompts, Samples


@dataclasses.dataclass(frozen=True)
class Reply:
  """One sampled reply, without its stop token."""

  ids: list[int]
  logprob: float  # nats, of all tokens drawn, the stop token among them
  is_stopped: bool  # or cut by the length limit


def shared_samples(num_samples: int, batch_size: int, mesh: Mesh) -> int:
  """How many samples of a prompt may share a row of prompts.

  So many that rows of num_samples / result samples each make up batches of
  batch_size replies, and their prompts are divisible by the mesh.
  """
  return math.gcd(num_samples, batch_size // sharding.ways(mesh))


@dataclasses.dataclass(frozen=True)
class Generator:
  """Samples num_samples replies a prompt.

  The same key gives the same replies to a prompt at the same position in the
  list, whatever batch_size, widths, slots and devices (up to rounding: a draw
  can differ where two probabilities meet to the last bit).
  """

  model: Transformer
  distribution: sampling.SamplingDistribution
  max_reply: int
  batch_size: int  # prompts a device call
  widths: tuple[int, ...]  # ascending; the last one is the longest prompt
  mesh: Mesh
  num_samples: int = 1
  slots: int = 0  # replies that decode at a time; 0: all of a call

  def __post_init__(self):
    if self.batch_size % sharding.ways(self.mesh):
      raise InputError(
        f'a batch of {self.batch_size} prompts is not divisible by '
        f'{sharding.sizes(self.mesh)}'
      )
    if self.max_reply < 1 or self.num_samples < 1:
      raise InputError(
        f'max_reply {self.max_reply} and num_samples {self.num_samples} must '
        'be 1 or more'
      )
    if self.slots < 0:
      raise InputError(f'slots {self.slots} is not 0 or more')

  @functools.cached_property
  def _sample(self) -> Callable[..., Samples]:
    def sample(params: Params, prompts: Prompts, key: Array) -> Samples:
      return sampling.sample(
        self.model,
        params,
        prompts,
        key,
        distribution=self.distribution,
        max_reply=self.max_reply,
        row_ids=prompts.ids,
        num_samples=self.num_samples,
        slots=self.slots,
        widths=self.widths,
      )

    return jax.jit(sample)

  def samples(
    self, params: Params, prompts: Sequence[Sequence[int]], key: Array
  ) -> Iterator[tuple[list[int], Samples]]:
    """(positions of prompts, samples on the host) of one batch after another.

    Short prompts come first. Samples of one prompt lie in adjacent rows; rows
    that only fill the last batch are cut off.
    """
    order = self._by_length(prompts)
    for start in range(0, len(order), self.batch_size):
      part = order[start : start + self.batch_size]
      longest = len(prompts[part[-1]])
      width = next(w for w in self.widths if longest <= w)
      rows, _ = packing.pad_prompts([prompts[i] for i in part], length=width)
      pad = self.batch_size - len(part)
      filled = Prompts(
        tokens=np.pad(rows.tokens, [(0, pad), (0, 0)]),
        lengths=np.pad(rows.lengths, (0, pad)),  # no tokens, no reply
        ids=np.pad(np.array(part, np.int32), (0, pad)),
      )
      out = self._sample(params, sharding.place(self.mesh, filled), key)
      kept = len(part) * self.num_samples
      yield part, jax.tree.map(lambda x, n=kept: x[:n], sharding.fetch(out))

  def __call__(
    self, params: Params, prompts: Sequence[Sequence[int]], key: Array
  ) -> list[list[Reply]]:
    """Replies by prompt, [N][num_samples]; prompts are token ids.

    Raises InputError for a prompt that is empty or longer than the last width.
    """
    out: list[list[Reply]] = [[] for _ in prompts]
    for positions, samples in self.samples(params, prompts, key):
      ids = sampling.reply_tokens(samples)
      for row, reply in enumerate(ids):
        out[positions[row // self.num_samples]].append(
          Reply(
            ids=reply,
            logprob=float(samples.logprobs[row].sum()),
            is_stopped=bool(samples.is_stopped[row]),
          )
        )
    return out

  def _by_length(self, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Positions of the prompts, short ones first."""
    for i, prompt in enumerate(prompts):
      if not 0 < len(prompt) <= self.widths[-1]:
        raise InputError(
          f'prompt {i} has {len(prompt)} tokens: want 1 to {self.widths[-1]}'
        )
    return sorted(range(len(prompts)), key=lambda i: len(prompts[i]))

"""Replies of a policy to fixed prompts, judged: evaluations and best of n."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from hh_jax import generation, sampling, sharding
from hh_jax.data import loader
from hh_jax.types import Array, Params, Prompts, Samples

Values = dict[str, np.ndarray]  # name -> [prompts, samples a prompt], float64


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Draws and judges num_samples replies to every prompt, a batch at a time.

  A reply depends on the key, on the number that its prompt is given and on its
  own number alone, so batches do not change it.
  """

  draw: Callable[..., Samples]  # of rl.rollout.make_draw
  judge: Callable[[Any, Params, Samples], dict[str, Array]]  # jitted; [B] each
  decode: Callable[[Sequence[int]], str]  # of the tokenizer
  mesh: Mesh
  key: jax.Array
  batch_size: int  # replies
  num_samples: int
  # of rl.rollout.make_reshard; None: drawn from the policy as it lies
  reshard: Callable[[Params], Params] | None = None

  def __call__(
    self, policy: Params, frozen: Any, prompts: Prompts, numbers: np.ndarray
  ) -> tuple[Values, list[str]]:
    """Values, and the replies in the order of prompts, then samples.

    numbers [prompts] name the random streams. Beside what `judge` says:
    `length`, `stop_rate`, and `spelt_marker_rate` of replies that were cut
    where another turn began.
    """
    n = self.num_samples
    shared = generation.shared_samples(n, self.batch_size, self.mesh)
    copies = n // shared
    rows = jax.tree.map(lambda x: np.repeat(x, copies, axis=0), prompts)
    ids = (numbers[:, None] * copies + np.arange(copies)).astype(np.int32)
    batches = loader.eval_batches(
      (rows, ids.reshape(-1)), batch_size=self.batch_size // shared
    )
    drawn_from = self.reshard(policy) if self.reshard else policy
    parts, replies = [], []
    for batch in batches:
      values, texts = self._batch(
        *(policy, drawn_from, frozen), *batch, num_samples=shared
      )
      parts.append(values)
      replies += texts
    total = loader.num_rows(prompts) * n
    return {
      name: np.concatenate([part[name] for part in parts])[:total]
      .astype(np.float64)
      .reshape(-1, n)
      for name in parts[0]
    }, replies[:total]

  def _batch(
    self,
    policy: Params,
    drawn_from: Params,
    frozen: Any,
    prompts: Prompts,
    row_ids: np.ndarray,
    *,
    num_samples: int,
  ) -> tuple[dict[str, np.ndarray], list[str]]:
    prompts, row_ids = sharding.place(self.mesh, (prompts, row_ids))
    samples = self.draw(drawn_from, prompts, self.key, row_ids, num_samples)
    samples, is_cut = sampling.cut_at_markers(samples, self.decode)
    if is_cut.any():
      samples = sharding.place(self.mesh, samples)
    values, samples = sharding.fetch(
      (self.judge(policy, frozen, samples), samples)
    )
    return values | {
      'length': samples.reply_lengths,
      'stop_rate': samples.is_stopped,
      'spelt_marker_rate': is_cut,
    }, [*map(self.decode, sampling.reply_tokens(samples))]

"""Best-of-n from one set of samples, for every k up to n.

Axis letters: M prompts, N samples a prompt, K values of k. Sampling k replies
and keeping the one that ranks highest needs no training, so it is what a
trained policy is compared with (Bai et al. 2022, B.6; Gao et al. 2022).
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def kl(k: int) -> float:
  """KL(best of k || policy), ln k - (k - 1) / k nats.

  Exact where no two replies rank alike, an upper bound otherwise.
  """
  return log_k(k) - (k - 1) / k


def log_k(k: int) -> float:
  """ln k, what Bai et al. 2022 (B.6) write for this KL; above the exact one."""
  if k < 1:
    raise ValueError(f'best of {k}: want 1 or more')
  return math.log(k)


def weights(num: int, k: int) -> np.ndarray:
  """P(the best of k drawn without replacement is the one of rank i), [N].

  C(i - 1, k - 1) / C(N, k) for ranks i = 1 (lowest) .. N: a product from the
  top, k / N times (j - k + 1) / j for j = N - 1 .. i, which neither overflows
  nor cancels.
  """
  if not 1 <= k <= num:
    raise ValueError(f'best of {k} from {num} samples: want 1 <= k <= {num}')
  j = np.arange(num - 1, 0, -1, dtype=np.float64)
  steps = np.maximum(j - k + 1, 0.0) / j
  return (k / num) * np.cumprod(np.concatenate([[1.0], steps]))[::-1]


def _checked(ranking: ArrayLike, target: ArrayLike | None) -> tuple:
  ranking = np.asarray(ranking, np.float64)
  target = ranking if target is None else np.asarray(target, np.float64)
  if ranking.ndim != 2 or not ranking.size or ranking.shape != target.shape:
    raise ValueError(
      f'want scores [M, N], not ranking {ranking.shape}, target {target.shape}'
    )
  for name, scores in (('ranking', ranking), ('target', target)):
    if not np.isfinite(scores).all():
      prompt = int(np.argwhere(~np.isfinite(scores))[0, 0])
      raise ValueError(f'{name}: a score of prompt {prompt} is not finite')
  return ranking, target


def _by_rank(ranking: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Targets from the lowest rank to the highest, [M, N].

  Samples that rank alike each get the mean of their targets: any of them may
  be the one that is kept.
  """
  order = np.argsort(ranking, axis=1, kind='stable')
  ranked = np.take_along_axis(ranking, order, axis=1)
  sorted_target = np.take_along_axis(target, order, axis=1)
  is_new = np.ones(ranked.shape, bool)  # each prompt opens a block
  is_new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
  block = np.cumsum(is_new.ravel()) - 1
  means = np.bincount(block, sorted_target.ravel()) / np.bincount(block)
  return means[block].reshape(ranked.shape)


def expected_best(
  ranking: ArrayLike,
  target: ArrayLike | None = None,
  *,
  ks: Sequence[int] | None = None,
) -> np.ndarray:
  """Unbiased E[target of the best of k] for each prompt, [M, K].

  Scores [M, N]: `ranking` picks the reply (the training PM), `target` is what
  is reported about it (a held-out PM, gold); None: the same. The estimator of
  Gao et al. 2022: the mean over all subsets of k of the N samples. `ks`, by
  default 1 .. N. ValueError on scores that are not finite and on k > N.
  """
  ranking, target = _checked(ranking, target)
  num = ranking.shape[1]
  sorted_target = _by_rank(ranking, target)
  ks = range(1, num + 1) if ks is None else ks
  return np.stack([sorted_target @ weights(num, k) for k in ks], axis=1)


@dataclasses.dataclass(frozen=True)
class Curve:
  """Best of k, means over prompts, [K] each.

  Standard errors are over prompts: the samples of one prompt are not
  independent news about others.
  """

  k: np.ndarray
  mean: np.ndarray  # score units
  se: np.ndarray
  gain: np.ndarray  # over k = 1, prompt by prompt
  gain_se: np.ndarray

  @property
  def kl(self) -> np.ndarray:
    """Nats; see kl()."""
    return np.array([kl(int(k)) for k in self.k])

  def report(self) -> dict[str, list[Any]]:
    return {
      field.name: getattr(self, field.name).tolist()
      for field in dataclasses.fields(self)
    }


def curve(
  ranking: ArrayLike,
  target: ArrayLike | None = None,
  *,
  ks: Sequence[int] | None = None,
) -> Curve:
  """Best of k over 2 or more prompts; arguments and errors as expected_best."""
  ranking, target = _checked(ranking, target)
  num_prompts, num = ranking.shape
  if num_prompts < 2:
    raise ValueError('standard errors need 2 prompts, there is 1')
  ks = range(1, num + 1) if ks is None else ks
  best = expected_best(ranking, target, ks=ks)
  # one sum, not the difference of two: exactly 0 at k = 1
  above = _by_rank(ranking, target)
  above -= above[:, :1]
  first = weights(num, 1)
  gain = np.stack([above @ (weights(num, k) - first) for k in ks], axis=1)

  def error(values: np.ndarray) -> np.ndarray:
    return values.std(axis=0, ddof=1) / math.sqrt(num_prompts)

  return Curve(
    k=np.array(ks),
    mean=best.mean(axis=0),
    se=error(best),
    gain=gain.mean(axis=0),
    gain_se=error(gain),
  )

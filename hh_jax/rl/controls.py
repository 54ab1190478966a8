"""What an iteration changes beside the networks. Host side.

Saved with every checkpoint: a resumed run has the same penalty and the same
scale of scores.
"""

import dataclasses

import numpy as np

from hh_jax.rl import kl

SCORE_NORMS = ('centre', 'whiten', 'running')


@dataclasses.dataclass
class Controls:
  """KL coefficient and score normaliser."""

  kl_coef: float  # PM units a nat
  score_mean: float  # of the replies seen so far, PM units
  score_var: float  # PM units squared; 1 where scores are only centred
  score_count: int  # replies

  def __post_init__(self):
    if not (np.isfinite(self.score_mean) and 0 < self.score_var < np.inf):
      raise ValueError(
        f'scores of mean {self.score_mean} and variance {self.score_var} '
        'cannot be normalised'
      )

  def arrays(self) -> dict[str, np.float32]:
    """As rollout.make_score takes them."""
    return {
      'kl_coef': np.float32(self.kl_coef),
      'score_mean': np.float32(self.score_mean),
      'score_std': np.float32(self.score_var**0.5),
    }

  def seen_scores(self, mean: float, std: float, count: int) -> None:
    """Takes a batch of raw scores into the running moments."""
    total = self.score_count + count
    shift = mean - self.score_mean
    squares = self.score_var * self.score_count + std**2 * count
    squares += shift**2 * self.score_count * count / total
    self.score_mean += shift * count / total
    self.score_var = squares / total
    self.score_count = total

  def seen_kl(
    self, nats: float, *, target: float, samples: int, horizon: int
  ) -> None:
    """Adapts the coefficient to a batch at `nats` a reply."""
    self.kl_coef = kl.adapted_coef(
      self.kl_coef, nats, target=target, samples=samples, horizon=horizon
    )


def initial(
  reference_scores: np.ndarray, *, kl_coef: float, score_norm: str
) -> Controls:
  """Before training: normalised on the reference policy's own scores.

  'centre' takes off their mean, 'whiten' divides by their deviation too, and
  'running' goes on with the scores of all replies. Raises ValueError for
  scores that are not finite, or all alike.
  """
  if score_norm not in SCORE_NORMS:
    raise ValueError(f'score_norm {score_norm!r} is none of {SCORE_NORMS}')
  scores = np.asarray(reference_scores, np.float64)
  if not np.isfinite(scores).all():
    raise ValueError("the preference model's scores are not finite")
  if np.ptp(scores) == 0:
    raise ValueError(
      f'the preference model gives all {scores.size} replies the score '
      f'{scores.flat[0]}: there is nothing to learn'
    )
  var = 1.0 if score_norm == 'centre' else float(scores.var())
  return Controls(kl_coef, float(scores.mean()), var, scores.size)

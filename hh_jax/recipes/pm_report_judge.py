"""Scores of comparisons by a finished preference model."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from jax.sharding import Mesh
import ml_collections
import numpy as np

from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import packing
from hh_jax.data.examples import Pair
from hh_jax.errors import InputError
from hh_jax.model import Transformer
from hh_jax.recipes import common, ensembles, ranking
from hh_jax.rl import ensemble
from hh_jax.types import Params


class Scores(NamedTuple):
  """Pairs that fit a row, and what the PM says of them."""

  ids: np.ndarray  # int [K], rising, into the pairs that were given
  scores: np.ndarray  # float64 [K, 2], chosen and rejected, PM units
  is_cut: np.ndarray  # bool [K], whether the prompt lost its start
  counts: dict[str, int]  # kept, prompt_cut, dropped_over_long

  def whole(self, count: int) -> np.ndarray:
    """[count, 2], the scores of all pairs that were given; NaN for those that
    do not fit a row with their whole prompt."""
    found = np.full((count, 2), np.nan)
    found[self.ids[~self.is_cut]] = self.scores[~self.is_cut]
    return found

  def notes(self, label: str, row_length: int) -> list[str]:
    """A remark on the pairs that are cut or left out, if there are any."""
    kept, cut, dropped = (
      self.counts[key] for key in ('kept', 'prompt_cut', 'dropped_over_long')
    )
    if not dropped and not cut:
      return []
    return [
      f'{label}: of {kept + dropped} pairs {dropped} do not fit a row of '
      f'{row_length} tokens and are left out; {cut} lost the start of the '
      'prompt.'
    ]


@dataclasses.dataclass(frozen=True)
class Judge:
  """A preference model that scores pairs in packed rows."""

  model: Transformer
  params: Params
  mesh: Mesh
  tokenizer: tokenizer_lib.Tokenizer
  row_length: int
  max_pairs: int
  batch_size: int
  combine: ensemble.CombineFn  # where params is a tuple of members

  @functools.cached_property
  def _scorer(self) -> Callable:
    return ranking.make_scorer(
      self.model,
      self.mesh,
      batch_size=self.batch_size,
      combine=self.combine,
    )

  def __call__(self, pairs: Sequence[Pair]) -> Scores:
    """Raises InputError where a score is not finite."""
    tokens, counts = packing.encode_pairs(
      pairs, self.tokenizer, row_length=self.row_length
    )
    if not counts['kept']:
      return Scores(
        np.empty(0, int), np.empty((0, 2)), np.empty(0, bool), counts
      )
    rows = packing.pack_pairs(
      tokens, row_length=self.row_length, max_pairs=self.max_pairs
    )
    ids, chosen, rejected = self._scorer(self.params, rows)
    order = np.argsort(ids)
    scores = np.stack([chosen, rejected], axis=1)[order].astype(np.float64)
    broken = int((~np.isfinite(scores).all(axis=1)).sum())
    if broken:
      raise InputError(
        f'config.pm: the scores of {broken} of {len(ids)} pairs are not finite'
      )
    ids = ids[order]
    is_cut = np.array([tokens[i].is_cut for i in ids])
    return Scores(ids, scores, is_cut, counts)


def make_judge(
  config: ml_collections.ConfigDict, there: Mapping[str, Any]
) -> Judge:
  """The PM of config.pm (and its ensemble), in rows as it was trained on."""
  mesh = common.make_mesh(config.mesh)
  common.check_batches(config, mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  model = common.make_model(
    ml_collections.ConfigDict(there['model']), tokenizer
  )
  params = ensembles.load(
    config, model, mesh, fingerprint=tokenizer.fingerprint
  )
  return Judge(
    *(model, params, mesh, tokenizer),
    row_length=config.row_length or there['row_length'],
    max_pairs=config.max_pairs or there['max_pairs'],
    batch_size=config.batch_size,
    combine=ensembles.make_combine(config),
  )

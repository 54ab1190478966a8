"""The preference model of config.pm, alone or with config.ensemble.others."""

import functools
import pathlib
from typing import Any

from jax.sharding import Mesh
import numpy as np

from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.model import Transformer
from hh_jax.recipes import common
from hh_jax.rl import ensemble
from hh_jax.types import Params

PAIR = ('source', 'conversation', 'chosen_chars', 'rejected_chars')
SCORES = ('score_chosen', 'score_rejected')


def check(config: Any) -> None:
  """Raises InputError for settings of config.ensemble that cannot work."""
  settings = config.ensemble
  if settings.how not in ensemble.HOW:
    raise InputError(
      f'config.ensemble.how {settings.how!r} is none of {ensemble.HOW}'
    )
  if not 0 <= settings.k < float('inf'):
    raise InputError(f'config.ensemble.k {settings.k} is not 0 or more')
  seen = set()
  for run in members(config):
    path = pathlib.Path(common.split_step(run)[0]).resolve()
    if path in seen:
      raise InputError(f'config.ensemble.others: {run} is there twice')
    seen.add(path)


def members(config: Any) -> tuple[str, ...]:
  """The runs: config.pm, then config.ensemble.others."""
  for run in config.ensemble.others:
    if not isinstance(run, str) or not run:
      raise InputError(f'config.ensemble.others: {run!r} names no run')
  return (config.pm, *config.ensemble.others)


def check_apart(config: Any) -> None:
  """Raises InputError where config.heldout_pm is one of the members."""
  if not config.heldout_pm:
    return
  held_out = pathlib.Path(common.split_step(config.heldout_pm)[0]).resolve()
  for run in members(config):
    if pathlib.Path(common.split_step(run)[0]).resolve() == held_out:
      raise InputError(
        f'config.heldout_pm {config.heldout_pm} is a PM that trains or ranks'
      )


def name(config: Any) -> str:
  """'pm', or 'mean of pm, pm1': the directories of the runs."""
  names = [pathlib.Path(run).resolve().name for run in members(config)]
  if len(names) == 1:
    return names[0]
  return f'{config.ensemble.how.replace("_", " ")} of {", ".join(names)}'


def notes(config: Any) -> list[str]:
  """What a report has to say about an ensemble."""
  settings = config.ensemble
  if not settings.others:
    return []
  k = f', k = {settings.k}' if settings.how == 'mean_minus_variance' else ''
  return [
    f'The scores are those of an ensemble of {len(members(config))} preference '
    f'models ({settings.how}{k}), each centred on its held-out pairs.'
  ]


def make_combine(config: Any) -> ensemble.CombineFn:
  """Scores [E, ...] -> [...], as config.ensemble says."""
  settings = config.ensemble
  return functools.partial(ensemble.combine, how=settings.how, k=settings.k)


def load(
  config: Any, model: Transformer, mesh: Mesh, *, fingerprint: str
) -> Params | tuple[Params, ...]:
  """The parameters of config.pm; a tuple, each centred, with others.

  All members must be of the model's shape and tokenizer. Centred: a member's
  mean score of both replies of its held-out pairs is taken off its bias; these
  pairs must be the same for all.
  """
  check(config)
  runs = members(config)
  links = ['pm'] + ['ensemble.others'] * (len(runs) - 1)
  trees = [
    common.load_params({link: run}, link, model, mesh, fingerprint=fingerprint)
    for run, link in zip(runs, links, strict=True)
  ]
  if len(runs) == 1:
    return trees[0]
  return tuple(
    tree | {'scalar_bias': tree['scalar_bias'] - mean}
    for tree, mean in zip(trees, held_out_means(runs), strict=True)
  )


def held_out_means(runs: tuple[str, ...]) -> list[np.float32]:
  """Mean score of each run's held-out replies, PM units, from eval.jsonl."""
  means, first = [], None
  for run in runs:
    if common.split_step(run)[1] is not None:
      raise InputError(
        f'{run}: members of an ensemble are centred on the held-out scores of '
        'finished runs: name it without a step'
      )
    path = pathlib.Path(run) / 'eval.jsonl'
    rows = workdir_lib.read_rows(path, PAIR + SCORES)
    pairs = [[row[key] for key in PAIR] for row in rows]
    first = pairs if first is None else first
    if not pairs or pairs != first:
      raise InputError(
        f'{path}: not the held-out pairs of {runs[0]}: the members of an '
        'ensemble cannot be centred alike'
      )
    mean = np.mean([[row[key] for key in SCORES] for row in rows])
    if not np.isfinite(mean):
      raise InputError(f'{path}: scores are not finite')
    means.append(np.float32(mean))
  return means

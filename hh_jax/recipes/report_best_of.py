"""Best of n of a policy's start: what the policy is compared with."""

from collections.abc import Mapping
import dataclasses
import pathlib

import numpy as np

from hh_jax import workdir
from hh_jax.errors import InputError
from hh_jax.evals import frontier

SERIES = {  # as plots name them -> metric
  'training PM': 'pm_score',
  'held-out PM': 'heldout_pm_score',
  'gold': 'gold_score',
}
# ppo config -> best_of_n config: what has to be the same
LINKS = {'init_from': 'run', 'pm': 'pm', 'heldout_pm': 'heldout_pm'}
SAME = (
  'temperature', 'max_prompt', 'max_reply', 'ensemble', 'no_stop_penalty',
)  # fmt: skip
# ppo settings under which its reward before KL is what best of n ranks by
RANKED = {'no_stop': 'subtract', 'score_norm': 'centre'}


@dataclasses.dataclass(frozen=True)
class BestOf:
  """Best of k of one run, for k = 1 .. n; [n] each."""

  path: pathlib.Path
  k: np.ndarray
  kl: np.ndarray  # ln k - (k - 1) / k, nats
  gains: Mapping[str, np.ndarray]  # of SERIES, over k = 1
  errors: Mapping[str, np.ndarray]  # of the gains, over prompts
  std: tuple[float, float]  # within prompts, of the ranking PM; its error
  num_prompts: int

  @property
  def sqrt_kl(self) -> np.ndarray:
    return frontier.sqrt_kl(self.kl)


def read(path: str | pathlib.Path) -> BestOf:
  """A finished best_of_n run, from its summary."""
  path = pathlib.Path(path)
  recipe = workdir.read_config(path)['recipe']
  if recipe != 'best_of_n':
    raise InputError(f'{path} is a {recipe} run, not a best_of_n run')
  summary = workdir.read_summary(path)
  curves = {
    name: summary[f'curve/{key}']
    for name, key in SERIES.items()
    if f'curve/{key}' in summary
  }
  std = 'within_prompt_std/pm_score'
  return BestOf(
    path=path,
    k=np.array(curves['training PM']['k']),
    kl=np.array(summary['kl']),
    gains={name: np.array(curve['gain']) for name, curve in curves.items()},
    errors={name: np.array(curve['gain_se']) for name, curve in curves.items()},
    std=(summary[std], summary[f'{std}_se']),
    num_prompts=summary['samples/prompts'],
  )


def check_same(ppo: pathlib.Path, best_of: pathlib.Path) -> None:
  """InputError unless best of n is of the policy's start, PMs and sampling."""
  there, here = (workdir.read_config(x)['config'] for x in (ppo, best_of))
  for key, other in LINKS.items():
    one, two = there[key], here[other]
    if (
      one != two and pathlib.Path(one).resolve() != pathlib.Path(two).resolve()
    ):
      raise InputError(
        f'{best_of}: {other} is {two!r}, {key} of {ppo} is {one!r}'
      )
  for key, value in RANKED.items():
    if there[key] != value:
      raise InputError(
        f'{ppo}: {key} is {there[key]}, best of n ranks by {value}'
      )
  for key in SAME:
    if there[key] != here[key]:
      raise InputError(
        f'{best_of}: {key} is {here[key]}, that of {ppo} is {there[key]}'
      )

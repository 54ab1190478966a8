"""Scores of texts by the preference models of a sweep, kept as JSONL.

The rows of WORKDIR/scored/WHAT/SIZE/seedN.jsonl hold numbers and labels, never
text, and are all that a plot reads.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from configs import pm_report as pm_report_config
from experiments import analysis
from hh_jax import workdir as workdir_lib
from hh_jax.data.examples import Pair
from hh_jax.recipes import common, pm_report_judge
from hh_jax.recipes.pm_report_judge import Judge

Rows = list[dict[str, Any]]


def load(run: pathlib.Path) -> Judge:
  """The preference model of a finished pm run, with its tokenizer."""
  config = pm_report_config.get_config()
  config.pm = str(run)
  there = common.read_link(config, 'pm')['config']
  config.tokenizer = there['tokenizer']
  return pm_report_judge.make_judge(config, there)


def reply_scores(
  judge: Judge, prompts: Sequence[str], replies: Sequence[str]
) -> np.ndarray:
  """[N], PM units; NaN for a reply that fits no row.

  Replies to one prompt are scored two a pair, and an odd one with itself.
  """
  by_prompt: dict[str, list[int]] = {}
  for i, prompt in enumerate(prompts):
    by_prompt.setdefault(prompt, []).append(i)
  places = [
    (group[i], group[min(i + 1, len(group) - 1)])
    for group in by_prompt.values()
    for i in range(0, len(group), 2)
  ]
  pairs = [
    Pair(prompts[i], replies[i], replies[j], conversation='', source='scored')
    for i, j in places
  ]
  judged = judge(pairs)
  scores = np.full(len(prompts), np.nan)
  for place, two in zip(judged.ids, judged.scores, strict=True):
    scores[list(places[place])] = two
  return scores


def keep(
  workdir: Any,
  what: str,
  runs: Mapping[tuple[str, int], pathlib.Path],
  make: Callable[[Judge], Rows],
  *,
  texts: str,
) -> None:
  """Writes the rows make(judge) of every run that has none yet.

  `texts` says what is scored, such as a file's path. InputError where the rows
  that are there are of other texts.
  """
  workdir_lib.open_run(_path(workdir, what), {'texts': texts}, 'scored')
  for (size, seed), run in runs.items():
    path = _path(workdir, what) / size / f'seed{seed}.jsonl'
    if not path.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      workdir_lib.write_rows(path, make(load(run)))


def kept(
  workdir: Any, what: str, required: Sequence[str] = ()
) -> dict[tuple[str, int], Rows]:
  """(size, seed) -> rows, of the seeds that all sizes have.

  InputError where a row lacks a required field.
  """
  found = {
    (path.parent.name, int(path.stem.removeprefix('seed'))): path
    for path in sorted(_path(workdir, what).glob('*/seed*.jsonl'))
  }
  seeds = analysis.shared_seeds(found)
  return {
    key: workdir_lib.read_rows(path, required)
    for key, path in found.items()
    if key[1] in seeds
  }


def column(rows: Rows, name: str) -> np.ndarray:
  return np.array([row[name] for row in rows])


def _path(workdir: Any, what: str) -> pathlib.Path:
  return pathlib.Path(workdir) / 'scored' / what

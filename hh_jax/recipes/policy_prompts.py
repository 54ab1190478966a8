"""What a policy is asked: prompts of a source, and files of more of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from hh_jax import dialogue
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import hh_rlhf, loader, packing, sources
from hh_jax.data.examples import Prompt
from hh_jax.errors import InputError
from hh_jax.recipes import common
from hh_jax.types import Prompts

GROUPS = ('helpful', 'harmless', 'extra')
_EXTRA = 'prompts'  # source of prompts that come from a file


class TrainPrompts(NamedTuple):
  """Training prompts by group, and what became of the others."""

  rows: Prompts  # those that are drawn from, group by group
  groups: dict[str, int]  # how many each has, in that order; empty: one
  weights: dict[str, float]  # empty: in proportion to their numbers
  counts: dict[str, int]


def pack(
  prompts: Sequence[Prompt],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  max_prompt: int,
) -> tuple[Prompts, int]:
  """Left-padded prompts that fit max_prompt, and how many did not."""
  ids = tokenizer.encode_batch([prompt.text for prompt in prompts])
  ids = [[tokenizer.bos_id, *prompt] for prompt in ids]
  rows, dropped = packing.pad_prompts(ids, length=max_prompt)
  if not loader.num_rows(rows):
    raise InputError(f'no prompt fits config.max_prompt {max_prompt}')
  return rows, dropped


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for weights and files that are none."""
  for name in GROUPS:
    common.check_range(config.prompt_weights, name, 0, section='prompt_weights')
  for path in config.prompt_files:
    if not isinstance(path, str):
      raise InputError(f'config.prompt_files: {path!r} is no path')
  if config.prompt_weights.extra and not config.prompt_files:
    raise InputError(
      'config.prompt_weights.extra is a weight of config.prompt_files, and '
      'there are none'
    )


def group_of(prompt: Prompt) -> str:
  """One of GROUPS, by the prompt's source."""
  if prompt.source == _EXTRA:
    return 'extra'
  return 'harmless' if 'harmless' in prompt.source else 'helpful'


def _extra(
  files: Sequence[str], source: sources.Source, known: set[str]
) -> tuple[list[Prompt], int]:
  """Prompts of files, and how many were left out.

  Left out are those of test conversations and those that are there already.
  """
  held_out = {dialogue.conversation_key(p.text) for p in source.prompts('test')}
  kept, dropped = [], 0
  for path in files:
    for text in hh_rlhf.read_prompts(path)[0]:
      if text in known or dialogue.conversation_key(text) in held_out:
        dropped += 1
        continue
      known.add(text)
      kept.append(Prompt(text, _EXTRA, is_sensitive=True))
  return kept, dropped


def load(
  config: ml_collections.ConfigDict,
  source: sources.Source,
  tokenizer: tokenizer_lib.Tokenizer,
) -> TrainPrompts:
  """The training prompts of the source and of config.prompt_files."""
  prompts = list(source.prompts('train'))
  known = {prompt.text for prompt in prompts}
  extra, repeated = _extra(config.prompt_files, source, known)
  prompts += extra
  rows, over_long = pack(prompts, tokenizer, max_prompt=config.max_prompt)
  counts = {
    'prompts': loader.num_rows(rows),
    'prompts_dropped_over_long': over_long,
    'prompts_dropped_repeated': repeated,
  }
  weights = {k: w for k, w in config.prompt_weights.items() if w > 0}
  if not weights:
    return TrainPrompts(rows, {}, {}, counts)
  names = np.array([group_of(prompts[i]) for i in rows.ids])
  members = {name: np.flatnonzero(names == name) for name in weights}
  for name, found in members.items():
    if not found.size:
      raise InputError(
        f'config.prompt_weights.{name} is {weights[name]}, and no {name} '
        'prompt fits'
      )
    counts[f'prompts_{name}'] = found.size
  rows = loader.take(rows, np.concatenate(list(members.values())))
  groups = {name: found.size for name, found in members.items()}
  return TrainPrompts(rows, groups, weights, counts)


def batches(prompts: TrainPrompts, *, batch_size: int, seed: int) -> Any:
  """Endless batches of prompts; every group in random order."""
  if not prompts.weights:
    return loader.train_batches(prompts.rows, batch_size=batch_size, seed=seed)
  return loader.mixed_batches(
    prompts.rows,
    list(prompts.groups.values()),
    list(prompts.weights.values()),
    batch_size=batch_size,
    seed=seed,
  )

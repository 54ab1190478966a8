"""Prompts of two classes for OOD detection: to fit, to test, and outliers."""

from collections.abc import Sequence
import pathlib
from typing import Any

import ml_collections

from hh_jax import dialogue
from hh_jax.data import examples, hh_rlhf, web_pairs
from hh_jax.errors import InputError
from hh_jax.evals import external
from hh_jax.recipes import common

# Texts that end with '\n\nAssistant:', by 'fit', 'test' and 'outliers'.
Sets = dict[str, list[str]]


def read(
  config: ml_collections.ConfigDict,
) -> tuple[Sets, dict[str, Any]]:
  """The prompts that config names, and what was dropped.

  One of: config.inliers and config.outliers (files of prompts); config.xstest
  (safe against unsafe); config.data (prompts of its training pairs, helpful
  against harmless by tranche). Inliers are split by conversation,
  config.test_share to test on. A conversation is there once, and not at all
  where both classes have it. InputError for a class without prompts.
  """
  common.check_range(config, 'test_share', 1e-9, 1 - 1e-9)
  named = {
    'inliers and config.outliers': bool(config.inliers or config.outliers),
    'xstest': bool(config.xstest),
    'data': config.data is not None,
  }
  if sum(named.values()) != 1:
    raise InputError(
      'want prompts of one origin: one of config.inliers and config.outliers, '
      f'config.xstest and config.data; there is {_names(named)}'
    )
  if config.data is not None:
    sets, report = _of_pairs(config.data, config.test_share)
  elif config.xstest:
    rows = external.read_xstest(config.xstest)
    inliers = [text for text, is_safe in rows if is_safe]
    outliers = [text for text, is_safe in rows if not is_safe]
    sets, report = _split(inliers, outliers, config.test_share), {}
  else:
    sets, report = _of_files(config)
  sets, dropped = distinct(sets)
  for name, texts in sets.items():
    if not texts:
      share = f' (config.test_share {config.test_share})'
      raise InputError(
        f'there are no prompts of {name}'
        f'{"" if name == "outliers" else share}: {dropped} dropped'
      )
  return sets, {'files': report, 'dropped': dropped}


def _names(named: dict[str, bool]) -> str:
  found = [f'config.{name}' for name, is_there in named.items() if is_there]
  return ' beside '.join(found) or 'none'


def _of_files(config: ml_collections.ConfigDict) -> tuple[Sets, dict[str, Any]]:
  found, report = [], {}
  for name in ('inliers', 'outliers'):
    if not config[name]:
      raise InputError(f'config.{name} is empty: one class is not two')
    texts, drops = hh_rlhf.read_prompts(config[name])
    report[name] = drops.to_dict()
    found.append(texts)
  if pathlib.Path(config.inliers).resolve() == (
    pathlib.Path(config.outliers).resolve()
  ):
    raise InputError(f'config.outliers {config.outliers} is config.inliers')
  return _split(*found, config.test_share), report


def _of_pairs(data: Any, test_share: float) -> tuple[Sets, dict[str, Any]]:
  if not isinstance(data, ml_collections.ConfigDict):
    raise InputError(
      f'config.data is {data!r}: name the data with the size of the config '
      'file, as in configs/ood.py:hh_rlhf'
    )
  source = common.load_source(data)
  kinds: dict[bool, list[str]] = {False: [], True: []}
  for pair in source.pairs('train'):
    kinds[examples.is_harmless(pair)].append(pair.prompt)
  return _split(kinds[False], kinds[True], test_share), source.report()


def _split(
  inliers: Sequence[str], outliers: Sequence[str], test_share: float
) -> Sets:
  sets: Sets = {'fit': [], 'test': [], 'outliers': list(outliers)}
  for text in inliers:
    key = dialogue.conversation_key(text)
    name = 'test' if web_pairs.is_test(key, test_share) else 'fit'
    sets[name].append(text)
  return sets


def distinct(sets: Sets) -> tuple[Sets, dict[str, int]]:
  """One prompt a conversation, the first one; none that both classes have.

  Also counts what was dropped: `repeated` and `in_both_classes`.
  """
  keys = {
    name: [dialogue.conversation_key(text) for text in texts]
    for name, texts in sets.items()
  }
  both = {*keys['fit'], *keys['test']} & {*keys['outliers']}
  seen, kept = set(), {}
  counts = {'repeated': 0, 'in_both_classes': 0}
  for name, texts in sets.items():
    kept[name] = []
    for key, text in zip(keys[name], texts, strict=True):
      if key in both:
        counts['in_both_classes'] += 1
      elif key in seen:
        counts['repeated'] += 1
      else:
        kept[name].append(text)
        seen.add(key)
  return kept, counts

"""Tells prompts unlike the known ones by a run's activations (OOD detection).

Bai et al. 2022, 5.4 and B.9: a language model, preference model or policy reads
prompts; at the last token of each, after every layer, a Gaussian of the inliers
to fit, or one linear layer that saw a few outliers, tells the rest apart. Which
token the paper reads is not stated. Writes summary.json, ood.jsonl (a line a
layer and method, see evals/ood.ood_rows), scores.jsonl (distances of every
tested prompt by layer; no text) and data_report.json.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from hh_jax import distributed, sampling, sharding
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.data import loader
from hh_jax.data.examples import Prompt
from hh_jax.errors import InputError
from hh_jax.evals import ood
from hh_jax.model import Transformer
from hh_jax.recipes import common, ood_prompts, policy_prompts
from hh_jax.types import Params, Prompts

KINDS = ('pretrain', 'distill', 'sft', 'pmp', 'pm', 'ppo')
SETTINGS = ('exposures', 'ridge', 'weight_decay', 'num_splits', 'num_samples',
            'seed')  # fmt: skip


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, 'max_prompt', 'num_samples')
  common.check_range(config, 'num_splits', 3)
  for name in ('max_fit', 'max_test', 'max_outliers', 'ridge'):
    common.check_range(config, name, 0)
  common.check_range(config, 'weight_decay', ood.MIN_WEIGHT_DECAY)
  common.check_seed(config.seed)
  for name in ('layers', 'exposures'):
    _check_whole(config, name)
  if min(config.exposures, default=1) < 1:
    raise InputError(f'config.exposures {config.exposures}: all are 1 or more')
  if 0 in config.layers:
    raise InputError(
      'config.layers: layer 0 is the embedding of the last token, the same for '
      'all prompts; blocks are layers 1 and up'
    )
  common.check_batches(config, common.make_mesh(config.mesh))


def _check_whole(config: ml_collections.ConfigDict, name: str) -> None:
  """Raises InputError unless config[name] holds integers, each once."""
  values = config[name]
  if any(type(value) is not int for value in values):
    raise InputError(f'config.{name} {values}: all are integers')
  if len(set(values)) < len(values):
    raise InputError(f'config.{name} {values}: one is there twice')


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """AUROCs of the run config.run (or RUN@STEP); returns the summary."""
  check(config)
  folder = workdir_lib.open_run(workdir, config.to_dict(), 'ood')
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  there = common.read_link(config, 'run', kinds=KINDS)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  model = common.make_model(
    ml_collections.ConfigDict(there['config']['model']), tokenizer
  )
  layers = _layers(config.layers, model.config.num_layers)
  params = common.load_params(
    *(config, 'run', model, mesh),
    fingerprint=tokenizer.fingerprint,
    kinds=KINDS,
  )
  texts, report = ood_prompts.read(config)
  packed, too_long = _pack_all(config, texts, tokenizer)
  report['dropped'] |= too_long
  _say(packed, report['dropped'])
  activations = make_activations(model, mesh, batch_size=config.batch_size)
  found = {name: activations(params, x) for name, x in packed.items()}
  rows = ood.ood_rows(
    **found, layers=layers, **{name: config[name] for name in SETTINGS}
  )
  workdir_lib.write_rows(folder / 'ood.jsonl', rows)
  scores = distances(found, layers, ridge=config.ridge)
  workdir_lib.write_rows(folder / 'scores.jsonl', scores)
  report['used'] = {name: len(x) for name, x in found.items()}
  workdir_lib.write_json(folder / 'data_report.json', report)
  summary = {
    **{f'ood/num_{name}': len(x) for name, x in found.items()},
    **{f'dropped/{name}': n for name, n in report['dropped'].items()},
    # what the number of tokens alone tells: 1/2 is nothing, above: longer
    'ood/length/auroc': ood.auroc(
      packed['test'].lengths, packed['outliers'].lengths
    ),
    **ood.ood_report(rows),
  }
  workdir_lib.write_summary(workdir, summary)
  print(folder / 'ood.jsonl')
  return summary


def _layers(wanted: Sequence[int], num_layers: int) -> list[int]:
  """The blocks whose output is read: those of config.layers, or all."""
  for layer in wanted:
    if not 1 <= layer <= num_layers:
      raise InputError(
        f'config.layers: layer {layer} is not in 1 .. {num_layers}'
      )
  return list(wanted or range(1, num_layers + 1))


def _pack_all(
  config: ml_collections.ConfigDict,
  texts: ood_prompts.Sets,
  tokenizer: tokenizer_lib.Tokenizer,
) -> tuple[dict[str, Prompts], dict[str, int]]:
  """At most config.max_<name> rows of every set, and how many did not fit.

  InputError where the sets are too small for what config asks of them.
  """
  packed, too_long = {}, {}
  for name, part in texts.items():
    rows, too_long[f'over_long_{name}'] = pack(config, part, tokenizer)
    limit = config[f'max_{name}'] or loader.num_rows(rows)
    packed[name] = loader.spread(rows, limit)
  num = {name: loader.num_rows(rows) for name, rows in packed.items()}
  if num['fit'] < 2:
    raise InputError(
      'there is one prompt to fit: lower config.test_share or raise '
      'config.max_fit'
    )
  if max(config.exposures, default=0) >= num['outliers']:
    raise InputError(
      f'config.exposures {config.exposures}: {num["outliers"]} outliers leave '
      'none to test on'
    )
  return packed, too_long


def _say(packed: Mapping[str, Prompts], dropped: Mapping[str, int]) -> None:
  """What is read and what was left out."""
  num = {name: loader.num_rows(rows) for name, rows in packed.items()}
  too_long = sum(n for name, n in dropped.items() if 'over_long' in name)
  distributed.say(
    f'{num["fit"]} prompts to fit, {num["test"]} to test, {num["outliers"]} '
    f'outliers; left out: {dropped["repeated"]} repeated, '
    f'{dropped["in_both_classes"]} in both classes, {too_long} over-long'
  )


def pack(
  config: ml_collections.ConfigDict,
  texts: Sequence[str],
  tokenizer: tokenizer_lib.Tokenizer,
) -> tuple[Prompts, int]:
  """Left-padded prompts of at most config.max_prompt, and how many are not."""
  prompts = [Prompt(text, '', is_sensitive=True) for text in texts]
  return policy_prompts.pack(prompts, tokenizer, max_prompt=config.max_prompt)


def make_activations(
  model: Transformer, mesh: Mesh, *, batch_size: int
) -> Callable[[Params, Prompts], np.ndarray]:
  """(params, rows) -> the residual stream at the last token, [N, L + 1, D].

  Short prompts share batches, whose width is the next power of two.
  """

  @jax.jit
  def read(params: Params, batch: Prompts):
    width = batch.tokens.shape[1]
    positions, _ = sampling.column_positions(batch.lengths, width, width)
    mask = sampling.row_mask(batch.lengths, width, width)
    # prompts are padded on the left, so all end in the last column
    return model.activations(
      params, batch.tokens, positions, mask, lambda x: x[:, -1]
    )

  def activations(params: Params, rows: Prompts) -> np.ndarray:
    num, shape = loader.num_rows(rows), model.config
    out = np.empty((num, shape.num_layers + 1, shape.d_model), np.float32)
    order = np.argsort(rows.lengths, kind='stable')
    for start in range(0, num, batch_size):
      index = order[start : start + batch_size]
      batch = loader.take(rows, index)
      width = 1 << int(batch.lengths.max() - 1).bit_length()
      width = min(width, rows.tokens.shape[1])
      batch = dataclasses.replace(batch, tokens=batch.tokens[:, -width:])
      batch = sharding.place(mesh, loader.pad_rows(batch, batch_size))
      out[index] = sharding.fetch(read(params, batch))[: len(index)]
    return out

  return activations


def distances(
  found: Mapping[str, np.ndarray], layers: Sequence[int], *, ridge: float
) -> list[dict[str, Any]]:
  """Both distances of every tested prompt, lists by layer; in no order."""
  gaussians = [
    ood.fit_gaussian(found['fit'][:, layer], ridge=ridge) for layer in layers
  ]
  rows = []
  for name in ('test', 'outliers'):
    both = [
      (g.mahalanobis(x), g.relative_mahalanobis(x))
      for g, layer in zip(gaussians, layers, strict=True)
      for x in [found[name][:, layer]]
    ]
    rows += [
      {
        'is_outlier': name == 'outliers',
        'layers': list(layers),
        'mahalanobis': plain,
        'relative_mahalanobis': relative,
      }
      for plain, relative in np.array(both).transpose(2, 1, 0).tolist()
    ]
  return rows

"""OOD detection with the language models of a sweep: Figs 22, 23 and 39.

WORKDIR/ood/SIZE/seedN is what `python -m hh_jax ood` finds with the language
model WORKDIR/pretrain/base/SIZE/seedN (experiments/sweep.py). Inliers are
helpful prompts, outliers harmless ones: first human turns of DATA_DIR/prompts
at the scales that read HH-RLHF, else comparisons of the gold world. Every size
and seed has the same splits, so that methods, layers and models are paired.
"""

from collections.abc import Iterable
import pathlib
from typing import Any

from configs import ood as ood_config
from experiments import analysis, sweep
from hh_jax import model as model_lib
from hh_jax import workdir as workdir_lib

FILES = {'inliers': 'helpful-base', 'outliers': 'harmless-base'}
EXPOSURES = (1, 3, 10, 30, 100)  # outliers shown (Fig 23)
SRM, PLAIN = 'relative_mahalanobis', 'mahalanobis'
# (size, seed) -> (layer, method) -> row of ood.jsonl
Found = dict[tuple[str, int], dict[tuple[int, str], dict[str, Any]]]


def run(config: sweep.Config, workdir: str) -> None:
  """Every size and language model of the config; finished ones are kept."""
  for size in config.sizes:
    for seed in range(config.language_models):
      settings = _settings(config)
      settings.run = str(sweep.pretrain(config, workdir, size=size, seed=seed))
      settings.tokenizer = str(sweep.tokenizer(config, workdir))
      _run(settings, pathlib.Path(workdir) / 'ood' / size / f'seed{seed}')


def _settings(config: sweep.Config) -> sweep.Config:
  if 'data_dir' in config:
    settings = ood_config.get_config('files')
    folder = pathlib.Path(config.data_dir) / 'prompts'
    for name, tranche in FILES.items():
      path = folder / f'{tranche}.train-first-turns.jsonl.gz'
      settings[name] = str(path)
  else:
    settings = ood_config.get_config('gold_world')
    settings.data.options.num_pairs = 8_000  # most say what others say
  # many times the dimensions of the small sizes; large ones need all
  is_small = all(model_lib.SIZES[size][1] <= 512 for size in config.sizes)
  limits = (8_000, 2_000, 4_000) if is_small else (0, 0, 0)
  settings.max_fit, settings.max_test, settings.max_outliers = limits
  settings.exposures = EXPOSURES
  return settings


def _run(settings: sweep.Config, path: pathlib.Path) -> None:
  from hh_jax.recipes import ood

  with workdir_lib.ours(path):
    ood.run(settings, str(path))


def paths(workdir: str) -> dict[tuple[str, int], pathlib.Path]:
  """(size, seed) -> finished directories; InputError where there is none."""
  found = {
    (path.parent.name, int(path.name.removeprefix('seed'))): path
    for path in sorted((pathlib.Path(workdir) / 'ood').glob('*/seed*'))
    if workdir_lib.is_finished(path)
  }
  analysis.require(found, 'ood run', workdir)
  return found


def read(workdir: str) -> Found:
  """The rows of ood.jsonl of every finished run, from JSONL alone."""
  required = ('layer', 'method', 'auroc_mean', 'auroc_sd', 'over_splits')
  return {
    key: {
      (row['layer'], row['method']): row
      for row in workdir_lib.read_rows(path / 'ood.jsonl', required)
    }
    for key, path in paths(workdir).items()
  }


def sizes(found: Iterable[tuple[str, int]]) -> list[str]:
  """Sizes, from small to large."""
  return analysis.in_order(size for size, _ in found)


def seeds(found: Iterable[tuple[str, int]], *wanted: str) -> list[int]:
  """The seeds that all of these sizes have."""
  return analysis.shared_seeds(key for key in found if key[0] in wanted)


def num_layers(size: str) -> int:
  return model_lib.SIZES[size][0]


def middle(size: str) -> int:
  """The middle layer, chosen without a look at the AUROCs."""
  return (num_layers(size) + 1) // 2


def values(found: Found, size: str, layer: int, method: str) -> list[float]:
  """Mean AUROC over splits, one value a seed."""
  return [
    found[size, seed][layer, method]['auroc_mean']
    for seed in seeds(found, size)
  ]


def spread(found: Found, size: str, layer: int, method: str) -> float:
  """Standard deviation over splits (and draws), mean over seeds."""
  rows = [
    found[size, seed][layer, method]['auroc_sd'] for seed in seeds(found, size)
  ]
  return float(sum(rows) / len(rows))


def report(found: Found, size: str, layer: int, method: str) -> dict[str, Any]:
  """Mean and standard error over seeds, and the deviation over splits."""
  estimate = analysis.estimate(values(found, size, layer, method))
  return estimate.report() | {
    'sd_over_splits': spread(found, size, layer, method)
  }


def larger(
  found: Found, text: str, method: str, layers: dict[str, int], **paper: Any
) -> list[dict[str, Any]]:
  """Claims that every larger size is better than the smallest, seed by seed.

  `layers` says which layer of each size is read.
  """
  small, *others = sizes(found)
  claims = []
  for size in others:
    common = seeds(found, small, size)
    gains = [
      found[size, seed][layers[size], method]['auroc_mean']
      - found[small, seed][layers[small], method]['auroc_mean']
      for seed in common
    ]
    claims.append(
      analysis.claim(f'{text}: {size} over {small}', gains, **paper)
    )
  return claims

"""Preference models for many figures, trained once in one directory.

A run's place says what it is, so figures that need the same runs share them:

  WORKDIR/tokenizer
  WORKDIR/pretrain/NAME/SIZE/seedN    language models ('base', ...)
  WORKDIR/pmp/NAME/SIZE/seedN         pre-trained on web comparisons
  WORKDIR/pm/NAME/SIZE/seedN          preference models
  WORKDIR/compiled                    programs, for the next run of a shape

Every function returns the directory of a finished run: the one that is there,
or one that it trains or resumes. Configs are those of configs/pm_sweep.py. A
seed decides which training comparisons are drawn and in which order, and (with
config.language_models above 1) the language model; the test set never changes,
so comparisons between runs are paired.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import importlib
import json
import pathlib
import re
import sys
from typing import Any

import ml_collections

from hh_jax import cli
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError

CONFIG = pathlib.Path(__file__).resolve().parent.parent / 'configs/pm_sweep.py'
Config = ml_collections.ConfigDict
Path = str | pathlib.Path


def tokenizer(config: Config, workdir: Path) -> pathlib.Path:
  """The tokenizer of all runs in workdir."""
  path = pathlib.Path(workdir) / 'tokenizer'
  return run_stage('tokenizer', _copy(config, 'tokenizer'), path)


def pretrain(
  config: Config,
  workdir: Path,
  *,
  size: str,
  seed: int,
  name: str = 'base',
  rate: float = 1.0,
  **changes,
) -> pathlib.Path:
  """The language model of this size and seed; 'base' is where runs start.

  `rate` is times the size's own; `changes` as for pm, under a name of theirs.
  """
  number = seed % config.language_models
  section = _stage(config, workdir, 'pretrain', size, number, rate)
  _change(section, changes)
  return run_stage(
    'pretrain', section, place(workdir, 'pretrain', name, size, number)
  )


def pmp(
  config: Config, workdir: Path, *, size: str, seed: int, name: str, **changes
) -> pathlib.Path:
  """A preference model pre-trained on web comparisons; `changes` as for pm."""
  number = seed % config.language_models
  section = _stage(config, workdir, 'pmp', size, number, rate=config.pmp_rate)
  section.init_from = str(pretrain(config, workdir, size=size, seed=seed))
  _change(section, changes)
  return run_stage('pmp', section, place(workdir, 'pmp', name, size, number))


def pm(
  config: Config,
  workdir: Path,
  *,
  size: str,
  seed: int,
  name: str,
  rate: float | None = None,
  **changes,
) -> pathlib.Path:
  """A preference model on config.total comparisons at config.helpful_share.

  `changes` are fields of the pm recipe, sections as dicts, such as
  harmless_weight=3.0 or mixture={'helpful_share': 1.0}. `name` stands for
  them: another change under one name is refused. It starts from `init_from`,
  or the language model of its size and seed. `rate` is times the pretraining
  rate, config.pm_rate where it is None.
  """
  rate = config.pm_rate if rate is None else rate
  section = _stage(config, workdir, 'pm', size, seed, rate)
  section.mixture.update(
    total=config.total, helpful_share=config.helpful_share, seed=seed
  )
  _change(section, changes)
  if not section.init_from:
    section.init_from = str(pretrain(config, workdir, size=size, seed=seed))
  return run_stage('pm', section, place(workdir, 'pm', name, size, seed))


def mixed(
  config: Config,
  workdir: Path,
  *,
  size: str,
  seed: int,
  total: int,
  share: float,
  harmless_weight: float = 1.0,
) -> pathlib.Path:
  """The preference model of a mixture, under the name that mixture_name has.

  It is evaluated at both ends only: mixtures have no learning curves.
  """
  return pm(
    config,
    workdir,
    size=size,
    seed=seed,
    name=mixture_name(total, share, harmless_weight),
    mixture={'total': total, 'helpful_share': share},
    harmless_weight=harmless_weight,
    eval_every=10**9,
  )


def mixture_name(total: int, share: float, harmless_weight: float = 1.0) -> str:
  """Such as 'n4000_helpful0.25', with '_lambda3' at a weight of 3."""
  name = f'n{total}_helpful{share:g}'
  return name + (f'_lambda{harmless_weight:g}' if harmless_weight != 1 else '')


def by_size(
  config: Config, workdir: Path
) -> dict[tuple[str, int], pathlib.Path]:
  """(size, seed) -> the preference model 'mix', on config.total comparisons."""
  return {
    (size, seed): pm(config, workdir, size=size, seed=seed, name='mix')
    for size in config.sizes
    for seed in range(config.num_seeds)
  }


def finished(
  workdir: Path, name: str, *, recipe: str = 'pm'
) -> dict[tuple[str, int], pathlib.Path]:
  """(size, seed) -> the finished runs of that name; nothing is trained."""
  found = {}
  for path in sorted((pathlib.Path(workdir) / recipe / name).glob('*/seed*')):
    if workdir_lib.is_finished(path):
      found[path.parent.name, int(path.name.removeprefix('seed'))] = path
  return found


def names(workdir: Path, pattern: str) -> dict[str, re.Match]:
  """Names of preference models that match the whole pattern -> the match."""
  matches = {
    path.name: re.fullmatch(pattern, path.name)
    for path in sorted((pathlib.Path(workdir) / 'pm').glob('*'))
  }
  return {name: match for name, match in matches.items() if match}


def load(
  scale: str,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  file: pathlib.Path = CONFIG,
) -> ml_collections.ConfigDict:
  """The config file at a scale; overrides are (dotted key, text)."""
  return cli.load_config(f'{file}:{scale}', overrides)


def main(
  doc: str,
  run: Callable[[Config, str], None],
  plot: Callable[[str], dict],
  argv: Sequence[str] | None = None,
  *,
  file: pathlib.Path = CONFIG,
) -> None:
  """The command line of an experiment; prints what plot returns.

  Flags: --workdir, --scale, --plot-only and --config.KEY=VALUE, keys of the
  config file. A mistake is one line, and exit code 2.
  """
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--scale', default='cpu')
  parser.add_argument('--plot-only', action='store_true')
  args, rest = parser.parse_known_args(argv)
  try:
    config = load(args.scale, list(_overrides(rest)), file=file)
    if not args.plot_only:
      _prepare(args.workdir)
      run(config, args.workdir)
    print(json.dumps(plot(args.workdir), indent=1))
  except InputError as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2)


def _overrides(words: Sequence[str]) -> Iterator[tuple[str, str]]:
  for word in words:
    key, found, value = word.partition('=')
    if not key.startswith('--config.') or not found:
      raise InputError(f'no option {word!r}: give --config.KEY=VALUE')
    yield key.removeprefix('--config.'), value


def _prepare(workdir: Path) -> None:
  """Before the first array; runs of one shape are compiled once."""
  from hh_jax import host

  host.keep_freed_memory()
  import jax

  cache = pathlib.Path(workdir).resolve() / 'compiled'
  jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def _copy(config: Config, stage: str) -> Config:
  return config[stage].copy_and_resolve_references()


def _stage(
  config: Config, workdir: Path, stage: str, size: str, seed: int, rate: float
) -> Config:
  """The stage's section for a size and seed; `rate` x the size's own."""
  if size not in config.sizes:
    raise InputError(f'size {size!r} is none of config.sizes {config.sizes}')
  if len(config.rates) != len(config.sizes):
    raise InputError(
      f'config.rates {config.rates} are not one for each of config.sizes '
      f'{config.sizes}'
    )
  section = _copy(config, stage).lock()
  if section.optimizer.lr:
    raise InputError(f'{stage}.optimizer.lr is that of config.rates')
  section.model.size = size
  section.optimizer.lr = rate * config.rates[config.sizes.index(size)]
  section.seed = seed
  section.tokenizer = str(tokenizer(config, workdir))
  return section


def _change(section: Config, changes: dict[str, Any]) -> None:
  """Fields of the section; what is a ConfigDict replaces a whole section."""
  for key, value in changes.items():
    if isinstance(value, dict):
      section[key].update(value)
    else:
      section[key] = value


def place(workdir: Path, *parts: Any) -> pathlib.Path:
  """Where a run stands: workdir, folders, and the seed last."""
  *folders, seed = map(str, parts)
  return pathlib.Path(workdir).joinpath(*folders, f'seed{seed}')


def run_stage(recipe: str, section: Config, path: pathlib.Path) -> pathlib.Path:
  """Runs the recipe unless it is finished there; another config is refused."""
  module = importlib.import_module(f'hh_jax.recipes.{recipe}')
  with workdir_lib.ours(path):
    module.run(section, str(path))
  return path

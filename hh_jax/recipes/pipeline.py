"""The whole chain in one directory: tokenizer to report."""

from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any

import ml_collections

from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.recipes import best_of_n, pm, ppo, pretrain, report, tokenizer

# Stage -> (recipe, config links to the directories of earlier stages).
STAGES = {
  'tokenizer': (tokenizer, {}),
  'pretrain': (pretrain, {'tokenizer': 'tokenizer'}),
  'pm': (pm, {'tokenizer': 'tokenizer', 'init_from': 'pretrain'}),
  'heldout_pm': (pm, {'tokenizer': 'tokenizer', 'init_from': 'pretrain'}),
  'ppo': (
    ppo,
    {
      'tokenizer': 'tokenizer',
      'init_from': 'pretrain',
      'pm': 'pm',
      'heldout_pm': 'heldout_pm',
    },
  ),
  'best_of_n': (
    best_of_n,
    {
      'tokenizer': 'tokenizer',
      'run': 'pretrain',
      'pm': 'pm',
      'heldout_pm': 'heldout_pm',
    },
  ),
  'report': (
    report,
    {
      'pretrain': 'pretrain',
      'pm': 'pm',
      'heldout_pm': 'heldout_pm',
      'ppo': 'ppo',
      'best_of_n': 'best_of_n',
    },
  ),
}
# Stage -> (another stage, its config fields that are this one's too): what
# stands once in the config cannot differ.
SHARED = {
  'best_of_n': (
    'ppo',
    (
      'data', 'mesh', 'seed', 'model', 'pm_model', 'ensemble', 'max_prompt',
      'max_reply', 'temperature', 'slots', 'head_chunk', 'no_stop_penalty',
    ),
  ),
}  # fmt: skip


def sections(
  config: ml_collections.ConfigDict, root: pathlib.Path
) -> dict[str, ml_collections.ConfigDict]:
  """A copy of each stage's section, with the links between stages filled in."""
  found = {}
  for stage, (_, links) in STAGES.items():
    if not isinstance(config.get(stage), ml_collections.ConfigDict):
      raise InputError(
        f'the config has no section {stage}: it is none for this recipe'
      )
    section = found[stage] = config[stage].copy_and_resolve_references()
    for key, earlier in links.items():
      if section.get(key):
        raise InputError(f'{stage}.{key} is filled in by the pipeline')
      section[key] = str(root / earlier)
  for stage, (other, names) in SHARED.items():
    with found[stage].unlocked():
      for name in names:
        if name in found[stage]:
          raise InputError(f'{stage}.{name} is filled in by the pipeline')
        found[stage][name] = found[other][name]
  return found


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
  """Puts the stage in front of what an InputError says."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{stage}: {error}') from error


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Runs every stage in workdir/STAGE; finished ones are not run again.

  `config` has one section a stage; the links between stages are filled in
  here. Prints the path of the report last.
  """
  found = sections(config, pathlib.Path(workdir))
  for stage, section in found.items():
    with _named(stage):
      STAGES[stage][0].check(section)
  # Only the stages are of record here. Each stage compares its own config: a
  # mistake in a late one, corrected, does not cost the stages before it.
  root = workdir_lib.open_run(workdir, {'stages': list(STAGES)}, 'pipeline')
  summary = {}
  for stage, section in found.items():
    with _named(stage), workdir_lib.ours(root / stage):
      result = STAGES[stage][0].run(section, str(root / stage))
    summary |= {f'{stage}/{name}': value for name, value in result.items()}
  workdir_lib.write_summary(workdir, summary)
  print(pathlib.Path(root) / 'report' / 'report.html')
  return summary

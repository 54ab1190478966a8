"""What `python -m hh_jax NAME` runs.

Each module has `run(config, workdir)` (of OWN_OPTIONS: `run(config, options)`
-> exit code); the first line of its docstring is its line in the command's
help.
"""

RECIPES = {
  'tokenizer': 'hh_jax.recipes.tokenizer',
  'pretrain': 'hh_jax.recipes.pretrain',
  'distill': 'hh_jax.recipes.distill',
  'sft': 'hh_jax.recipes.sft',
  'prompts': 'hh_jax.recipes.prompts',
  'pmp': 'hh_jax.recipes.pmp',
  'pm': 'hh_jax.recipes.pm',
  'pm_report': 'hh_jax.recipes.pm_report',
  'ppo': 'hh_jax.recipes.ppo',
  'best_of_n': 'hh_jax.recipes.best_of_n',
  'sample': 'hh_jax.recipes.sample',
  'ood': 'hh_jax.recipes.ood',
  'report': 'hh_jax.recipes.report',
  'pipeline': 'hh_jax.recipes.pipeline',
  'sweep': 'hh_jax.sweep',
  'plan': 'hh_jax.plan.command',
}
WITHOUT_WORKDIR = ('sample', 'plan')  # those that run without --workdir too
# Those that have options of their own, and no run directory.
OWN_OPTIONS = {
  'plan': {
    '--topology': str,
    '--vocab': int,
    '--steps': int,
    '--json': bool,
    '--fix': bool,
    '--quick': bool,
    '--sweep': bool,
    '--kept': str,
    '--fresh': bool,
    '--write': str,
  }
}

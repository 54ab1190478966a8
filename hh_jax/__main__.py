"""`python -m hh_jax RECIPE --config=configs/X.py[:SIZE] --workdir=DIR`."""

import ast
from collections.abc import Sequence
import contextlib
import errno
import importlib
import importlib.util
import os
import pathlib
import signal
import sys

from hh_jax import (
  cli,
  distributed,
  host,
  launch,
  recipes,
  stopping,
  workdir,
)  # fmt: skip
from hh_jax.errors import InputError

USAGE = """\
usage: python -m hh_jax RECIPE --config=configs/X.py[:SIZE] --workdir=DIR
                               [--config.KEY=VALUE ...]
                               [--coordinator=HOST:PORT --num_processes=N
                                --process_id=I]

The same command resumes a run that was interrupted. `sample` needs no run
directory: --workdir keeps what it prints. Several processes are found under
Slurm, GKE and on Cloud TPU; elsewhere start each with the last three options.

`launch --on=local|slurm|xpk RECIPE ...` does that: see `launch --help`.

`RECIPE --help` says more. Recipes:"""
_MODULES = {**recipes.RECIPES, 'launch': 'hh_jax.launch'}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a recipe; returns the exit code (2: a mistake in what was given)."""
  argv = sys.argv[1:] if argv is None else argv
  if not argv or '--help' in argv or '-h' in argv:
    print(_help_on(argv[0]) if argv and argv[0] in _MODULES else _help())
    return 0
  resumes = any(word.startswith('--workdir') for word in argv)
  try:
    with stopping.at_once():
      return _run(argv)
  except InputError as error:
    print(f'hh_jax: error: {" ".join(str(error).split())}', file=sys.stderr)
    return 2
  except KeyboardInterrupt as stop:
    hint = '; the same command resumes' if resumes else ''
    print(f'hh_jax: {str(stop) or "interrupted"}{hint}', file=sys.stderr)
    return 128 + getattr(stop, 'signum', signal.SIGINT)  # as shells say it
  except BrokenPipeError:  # who read stdout has seen enough, as `head` has
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141  # as a shell says of a program that SIGPIPE ended
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    hint = '; free some, and the same command resumes' if resumes else ''
    print(f'hh_jax: error: no space left on the device{hint}', file=sys.stderr)
    return 2


def _run(argv: Sequence[str]) -> int:
  if argv[0] == 'launch':
    return launch.main(argv[1:])
  command = cli.parse(
    argv,
    recipes.RECIPES,
    without_workdir=recipes.WITHOUT_WORKDIR,
    own_options=recipes.OWN_OPTIONS,
  )
  config = cli.load_config(command.config, command.overrides)
  # Imported only now: JAX takes seconds, and most mistakes are found above.
  host.keep_freed_memory()
  recipe = importlib.import_module(recipes.RECIPES[command.recipe])
  if command.recipe in recipes.OWN_OPTIONS:
    if command.workdir:
      raise InputError(f'{command.recipe} takes no --workdir: it prints')
    return recipe.run(config, command.options)
  with contextlib.ExitStack() as stack:
    stack.enter_context(distributed.session(command.processes))
    if command.workdir:
      stack.enter_context(workdir.ours(command.workdir))
    recipe.run(config, command.workdir)
  return 0


def _help() -> str:
  width = max(map(len, recipes.RECIPES))
  lines = [
    f'  {name:{width}}  {_first_line(module)}'
    for name, module in recipes.RECIPES.items()
  ]
  return '\n'.join([USAGE, *lines])


def _help_on(name: str) -> str:
  """All that a module says of itself, and the options that it has."""
  options = recipes.OWN_OPTIONS.get(name)
  lines = [_docstring(_MODULES[name])]
  if name == 'launch':
    lines += ['', launch.options_in_words()]
  elif options:
    words = (x if of is bool else f'{x}=...' for x, of in options.items())
    lines += ['', f'options: {" ".join(words)}']
  else:
    lines += ['', f'the keys of its config: configs/{name}.py']
  return '\n'.join(lines)


def _docstring(module: str) -> str:
  """Of a module, without importing it."""
  spec = importlib.util.find_spec(module)
  text = pathlib.Path(spec.origin).read_text(encoding='utf-8')
  return ast.get_docstring(ast.parse(text)) or ''


def _first_line(module: str) -> str:
  return _docstring(module).partition('\n')[0]


if __name__ == '__main__':
  sys.exit(main())

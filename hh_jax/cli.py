"""Command line -> recipe name, locked config, run directory.

Not absl's flags: every mistake is one InputError that names the nearest valid
choices, and a flag changes exactly the one key it names.
"""

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import difflib
import importlib.util
import inspect
import math
import pathlib
import sys
from typing import Any

import ml_collections

from hh_jax import distributed
from hh_jax.errors import InputError

# Which of several processes this one is: see hh_jax/distributed.py.
PROCESS_OPTIONS = tuple(
  f'--{field.name}' for field in dataclasses.fields(distributed.Asked)
)
OPTIONS = ('--config', '--workdir', '--help', *PROCESS_OPTIONS)
KINDS = {
  bool: 'true or false',
  int: 'an integer',
  float: 'a number',
  tuple: "a tuple such as (1, 2) or ('a',)",
  list: "a list such as [1, 2] or ['a']",
}


@dataclasses.dataclass(frozen=True)
class Command:
  """A command line that has a recipe, a config file and a run directory."""

  recipe: str
  config: str  # PATH or PATH:SIZE
  workdir: str  # '' where none is named and the recipe needs none
  overrides: tuple[tuple[str, str], ...]  # (dotted key, value as typed)
  options: dict[str, Any]  # those that only this recipe has
  processes: distributed.Asked


def parse(
  argv: Sequence[str],
  recipes: Collection[str],
  *,
  without_workdir: Collection[str] = (),
  own_options: Mapping[str, Mapping[str, type]] | None = None,
) -> Command:
  """Reads `RECIPE --config=PATH[:SIZE] [--config.KEY=VALUE ...] --workdir=DIR`.

  Raises InputError on anything else; `--option value` is the same as
  `--option=value`, and of an option given twice the last one counts. Recipes
  of `without_workdir` do without --workdir. `own_options` are those that one
  recipe has and their types; one of bool stands alone.
  """
  recipe, *rest = argv
  if recipe not in recipes:
    raise InputError(f'no recipe {recipe!r}: {nearest(recipe, recipes)}')
  own = (own_options or {}).get(recipe, {})
  known = (*OPTIONS, *own)
  found: dict[str, str] = {}
  words = iter(rest)
  for word in words:
    option, has_value, value = word.partition('=')
    if option not in known and not option.startswith('--config.'):
      has = f'; {recipe} has {", ".join(own)}' if own else ''
      raise InputError(f'no option {option!r}: {nearest(option, known)}{has}')
    if not has_value and own.get(option) is bool:
      value = 'true'
    elif not has_value:
      value = next(words, None)
    if value is None:
      raise InputError(f'{option} has no value: write {option}=VALUE')
    found[option] = value
  required = {'--config': 'PATH[:SIZE]', '--workdir': 'DIR'}
  if recipe in without_workdir and '--workdir' not in found:
    del required['--workdir']
  for option, name in required.items():
    if not found.get(option):
      raise InputError(f'{option} is missing: add {option}={name}')
  overrides = [
    (option.removeprefix('--config.'), value)
    for option, value in found.items()
    if option.startswith('--config.')
  ]
  workdir = found.get('--workdir', '')
  options = {
    option: _parse_value(option, found[option], kind, kind())
    for option, kind in own.items()
    if option in found
  }
  return Command(
    recipe,
    found['--config'],
    workdir,
    (*overrides,),
    options,
    _processes(found),
  )


def _processes(found: dict[str, str]) -> distributed.Asked:
  said = {}
  for option in PROCESS_OPTIONS:
    if (value := found.get(option)) is None:
      continue
    name = option.removeprefix('--')
    is_count = name != 'coordinator'
    if is_count and not value.isdecimal():
      raise InputError(f'{option} takes an integer, not {value!r}')
    said[name] = int(value) if is_count else value
  return distributed.Asked(**said)


def load_config(
  name: str, overrides: Sequence[tuple[str, str]]
) -> ml_collections.ConfigDict:
  """The locked config of `PATH[:SIZE]`, with the overrides applied.

  The file's `get_config(size)` gets None where no size is named. The folder
  above the file's own is importable, for `from configs import pm`.
  """
  file, _, size = name.partition(':')
  config = _get_config(pathlib.Path(file), size or None)
  if not isinstance(config, ml_collections.ConfigDict):
    raise InputError(f'{file}: get_config returns no ConfigDict')
  config = _unshared(config)
  for key, text in overrides:
    _override(config, key, text)
  _check_finite(config)
  return config.lock()


def _get_config(path: pathlib.Path, size: str | None) -> Any:
  if not path.is_file():
    others = [str(p) for p in path.parent.glob('*.py')]
    raise InputError(f'no config file {path}: {nearest(str(path), others)}')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if spec is None:
    raise InputError(f'the config {path} is not a Python file')
  above = str(path.resolve().parent.parent)
  if above not in sys.path:
    sys.path.insert(0, above)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise InputError(f'{path} defines no get_config')
  signature = inspect.signature(module.get_config)
  if signature.parameters:
    try:
      signature.bind(size)
    except TypeError:
      raise InputError(
        f'{path} is no config by itself: its get_config takes '
        f'{", ".join(signature.parameters)}'
      ) from None
    return module.get_config(size)
  if size is not None:
    raise InputError(f'{path} has no sizes: leave out :{size}')
  return module.get_config()


def _unshared(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A copy in which no section stands in two places.

  A section object that a config file uses twice would change in both; what is
  meant to follow another field is a FieldReference, and is kept.
  """
  return ml_collections.ConfigDict(
    {
      key: _unshared(value) if _is_section(value) else value
      for key, value in config.items(preserve_field_references=True)
    }
  )


def _is_section(value: Any) -> bool:
  return isinstance(value, ml_collections.ConfigDict)


def _leaves(
  config: ml_collections.ConfigDict, prefix: str = ''
) -> Iterator[str]:
  for key, value in config.items():
    if _is_section(value):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}'


def _check_finite(config: ml_collections.ConfigDict, prefix: str = '') -> None:
  """Raises InputError for a number that no run could write down."""
  for key, value in config.items():
    if _is_section(value):
      _check_finite(value, f'{prefix}{key}.')
      continue
    for x in value if isinstance(value, list | tuple) else (value,):
      if isinstance(x, float) and not math.isfinite(x):
        raise InputError(
          f'--config.{prefix}{key} is {x}: numbers have to be finite'
        )


def _override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
  *sections, name = key.split('.')
  section = config
  for part in sections:
    section = section.get(part) if _is_section(section) else None
  if not _is_section(section) or name not in section:
    leaves = list(_leaves(config))
    same_name = [leaf for leaf in leaves if leaf.split('.')[-1] == name]
    raise InputError(
      f'no config key {key!r}: {nearest(key, same_name[:4] or leaves)}'
    )
  if _is_section(section[name]):
    inside = list(_leaves(section[name], f'{key}.'))
    raise InputError(f'{key} is a section: {nearest(key, inside)}')
  kind = section.get_type(name)
  section[name] = _parse_value(key, text, kind, section[name])


def _parse_value(key: str, text: str, kind: type, old: Any) -> Any:
  """`text` as the type of the field; `old` is the value it replaces."""
  if old is None and text == 'None':
    return None
  if kind is str:
    return text
  try:
    value = ast.literal_eval(text.title() if kind is bool else text)
  except (SyntaxError, TypeError, ValueError):
    value = text
  if kind is float and type(value) is int:
    value = float(value)
  if kind in (list, tuple) and isinstance(value, list | tuple):
    of = {type(x) for x in old or ()}
    value = kind(
      float(x) if of == {float} and type(x) is int else x for x in value
    )
    fits = not of or {type(x) for x in value} <= of
  else:
    fits = kind is type(None) or type(value) is kind
  if not fits:
    expected = KINDS.get(kind, kind.__name__)
    key = key if key.startswith('--') else f'config key {key}'
    raise InputError(f'{key} takes {expected}, not {text!r}')
  return value


def nearest(word: str, valid: Collection[str]) -> str:
  """'nearest: a, b', or all the valid words where none is near."""
  if not valid:
    return 'there is none to choose from'
  if near := difflib.get_close_matches(word, valid, n=3):
    return f'nearest: {", ".join(near)}'
  more = f' and {len(valid) - 8} more' if len(valid) > 8 else ''
  return f'there are {", ".join(list(valid)[:8])}{more}'

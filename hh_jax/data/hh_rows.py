"""Rows of the HH-RLHF files, and what they are turned into.

A bad line is a drop with a reason, never an exception; a bad file is an
InputError. Dropped rows are counted, not hidden: see DropReport.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import functools
import gzip
import json
import math
import os
import pathlib
from typing import Any, NamedTuple, TypeVar
import zlib

from hh_jax import dialogue
from hh_jax.data.examples import Pair
from hh_jax.data.hh_report import BadRow, DropReport
from hh_jax.errors import InputError

MAX_CHARS = 200_000  # a longer transcript is junk; the longest known has 6k

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class RedTeamAttempt:
  """One attempt to make a model misbehave (Ganguli et al. 2022, 3).

  A score or flag the file does not hold is None; text it does not hold is ''.
  """

  transcript: str
  min_harmlessness_score_transcript: float | None  # PM units, of the worst turn
  num_params: str  # of the model, such as '52B'
  model_type: str
  rating: float | None  # by the attacker: 0 (failed) .. 4 (succeeded)
  task_description: str
  task_description_harmlessness_score: float | None  # PM units
  red_team_member_id: str
  is_upworker: bool | None
  tags: tuple[str, ...]


class Row(NamedTuple):
  """A JSON object of a file, or the reason why there is none."""

  line: int  # from 1
  record: Mapping[str, Any]  # empty where reason is not None
  reason: str | None


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
  """Rows of a '.jsonl' or '.jsonl.gz' file; lines end with '\\n' only.

  Raises InputError for a missing, empty or damaged file.
  """
  line = 0
  for line, raw in enumerate(read_lines(pathlib.Path(path)), 1):
    if line == 1:
      raw = raw.removeprefix(codecs.BOM_UTF8)
    yield _parse_line(line, raw)
  if not line:
    raise InputError(f'{path}: the file has no rows')


def read_converted(
  path: str | os.PathLike, convert: Callable[[Mapping[str, Any]], T]
) -> list[T]:
  """convert(record) of every row of a file that has to be whole.

  Raises InputError, which names the line, where a row cannot be read or
  convert raises KeyError, TypeError or ValueError; and for a file without rows.
  """
  found = []
  for row in read_rows(path):
    if row.reason == 'blank_line':
      continue
    try:
      if row.reason is not None:
        raise ValueError(row.reason)
      found.append(convert(row.record))
    except (KeyError, TypeError, ValueError) as e:
      what = f'lacks {e}' if isinstance(e, KeyError) else e
      raise InputError(f'{path}:{row.line}: {what}') from e
  if not found:
    raise InputError(f'{path}: the file has no rows')
  return found


def read_array_rows(path: str | os.PathLike) -> Iterator[Row]:
  """As read_rows, but the file may be one JSON array.

  The official red-team file is an array in spite of its '.jsonl' name. `line`
  is then the position in the array, from 1.
  """
  path = pathlib.Path(path)
  first = next(read_lines(path), b'').removeprefix(codecs.BOM_UTF8)
  if not first.lstrip().startswith(b'['):
    yield from read_rows(path)
    return
  try:
    array = json.loads(b''.join(read_lines(path)).decode('utf-8-sig'))
  except (ValueError, RecursionError) as error:
    raise InputError(f'{path}: not a JSON array: {error}') from error
  if not array:
    raise InputError(f'{path}: the file has no rows')
  for line, record in enumerate(array, 1):
    yield _as_row(line, record)


def convert_rows(
  rows: Iterable[Row],
  convert: Callable[[Mapping[str, Any]], T],
  report: DropReport,
) -> Iterator[tuple[int, T]]:
  """(index from 0, convert(record)) of the rows `convert` does not refuse."""
  for row in rows:
    report.rows += 1
    try:
      if row.reason is not None:
        raise BadRow(row.reason)
      converted = convert(row.record)
    except (BadRow, dialogue.TranscriptError) as error:
      report.drop(error.reason, row.line)
      continue
    yield row.line - 1, converted


def pair_rows(
  path: str | os.PathLike,
  report: DropReport,
  *,
  source: str,
  max_chars: int = MAX_CHARS,
) -> Iterator[tuple[int, Pair]]:
  """(index from 0, comparison) of the usable rows of an official file."""
  convert = functools.partial(as_pair, source=source, max_chars=max_chars)
  return convert_rows(read_rows(path), convert, report)


def red_team_rows(
  path: str | os.PathLike, report: DropReport, *, max_chars: int = MAX_CHARS
) -> Iterator[tuple[int, RedTeamAttempt]]:
  """(index from 0, attempt) of the usable rows of the red-team file."""
  convert = functools.partial(as_red_team, max_chars=max_chars)
  return convert_rows(read_array_rows(path), convert, report)


def as_pair(
  record: Mapping[str, Any], *, source: str, max_chars: int = MAX_CHARS
) -> Pair:
  """A comparison of an official row; BadRow or TranscriptError drops it."""
  chosen = text_field(record, 'chosen', max_chars)
  rejected = text_field(record, 'rejected', max_chars)
  parts = dialogue.split_pair(chosen, rejected)
  if parts.chosen == parts.rejected:
    raise BadRow('identical_replies')
  if not (parts.chosen.strip() and parts.rejected.strip()):
    raise BadRow('empty_reply')
  return Pair(
    *parts, conversation=dialogue.conversation_key(parts.prompt), source=source
  )


def as_red_team(
  record: Mapping[str, Any], *, max_chars: int = MAX_CHARS
) -> RedTeamAttempt:
  """An official red-team row; only the transcript must be there.

  The files spell one key 'task_descripton_...'; the documentation does not.
  """
  transcript = text_field(record, 'transcript', max_chars)
  dialogue.first_human_turn(transcript)  # refuses what is no transcript
  score = 'task_description_harmlessness_score'
  misspelt = record.get('task_descripton_harmlessness_score')
  is_upworker, tags = record.get('is_upworker'), record.get('tags')
  return RedTeamAttempt(
    transcript=transcript,
    num_params=_label(record, 'num_params'),
    model_type=_label(record, 'model_type'),
    rating=_number(record.get('rating')),
    min_harmlessness_score_transcript=_number(
      record.get('min_harmlessness_score_transcript')
    ),
    task_description=_label(record, 'task_description'),
    task_description_harmlessness_score=_number(record.get(score, misspelt)),
    red_team_member_id=_label(record, 'red_team_member_id'),
    is_upworker=is_upworker if isinstance(is_upworker, bool) else None,
    tags=tuple(map(_clean, tags)) if isinstance(tags, list) else (),
  )


def as_prompt(record: Mapping[str, Any], *, max_chars: int = MAX_CHARS) -> str:
  """The prompt of a `{"prompt": ...}` row: it ends with '\\n\\nAssistant:'."""
  prompt = text_field(record, 'prompt', max_chars)
  if not dialogue.first_human_turn(prompt).strip():
    raise BadRow('empty_prompt')
  if not prompt.endswith(dialogue.ASSISTANT):
    raise BadRow('not_a_prompt')
  return prompt


def text_field(record: Mapping[str, Any], key: str, max_chars: int) -> str:
  """The text under `key`; BadRow unless it can be stored as UTF-8."""
  if key not in record:
    raise BadRow('missing_key')
  text = record[key]
  if not isinstance(text, str):
    raise BadRow('not_text')
  if len(text) > max_chars:
    raise BadRow('too_long')
  if '\0' in text:
    raise BadRow('nul_character')
  if _clean(text) != text:
    raise BadRow('lone_surrogate')
  return text


def _label(record: Mapping[str, Any], key: str) -> str:
  value = record.get(key)
  return '' if value is None else _clean(value)


def _clean(value: Any) -> str:
  """Text that can be stored as UTF-8: lone surrogates become '?'."""
  return str(value).encode('utf-8', 'replace').decode('utf-8')


def _number(value: Any) -> float | None:
  try:
    number = float(value)
  except (TypeError, ValueError, OverflowError):
    return None
  return number if math.isfinite(number) else None


def _parse_line(line: int, raw: bytes) -> Row:
  if not raw.strip():
    return Row(line, {}, 'blank_line')
  try:
    return _as_row(line, json.loads(raw.decode('utf-8')))
  except UnicodeDecodeError:
    return Row(line, {}, 'bad_utf8')
  except (ValueError, RecursionError):
    return Row(line, {}, 'bad_json')


def _as_row(line: int, record: Any) -> Row:
  if isinstance(record, dict):
    return Row(line, record, None)
  return Row(line, {}, 'not_object')


def read_lines(path: pathlib.Path) -> Iterator[bytes]:
  """Lines of a plain or gzip'd file; InputError where that fails."""
  check_file(path)
  open_file = gzip.open if path.suffix == '.gz' else open
  try:
    with open_file(path, 'rb') as f:
      yield from f
  except EOFError as error:
    raise InputError(f'{path}: the gzip file is cut short') from error
  except (gzip.BadGzipFile, zlib.error) as error:
    raise InputError(f'{path}: damaged gzip file: {error}') from error
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from error


def check_file(path: pathlib.Path) -> None:
  """InputError for what is plainly no data file, by its first bytes."""
  try:
    with open(path, 'rb') as f:
      head = f.read(64)
  except FileNotFoundError as error:
    raise InputError(f'{path}: no such file') from error
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from error
  is_gzip = head.startswith(b'\x1f\x8b')
  if not head:
    raise InputError(f'{path}: the file is empty')
  if head.startswith(b'version https://git-lfs'):
    raise InputError(f'{path}: a git-LFS pointer, not the data (git lfs pull)')
  if path.suffix == '.gz' and not is_gzip:
    raise InputError(f"{path}: named '.gz' but not gzip data")
  if is_gzip and path.suffix != '.gz':
    raise InputError(f"{path}: gzip data, but the name does not end in '.gz'")

"""Prompts that a user gives: lines of text, or of JSON."""

import codecs
from collections.abc import Iterable, Sequence
import json

from hh_jax import dialogue
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.errors import InputError


def as_prompt(text: str) -> str:
  """A transcript that ends with '\\n\\nAssistant:', of a message or of one.

  A transcript opens with 'Human:' or 'Assistant:' and stays as it is, up to an
  open Assistant turn at its end. Raises InputError on one that is answered
  already, and on text without words.
  """
  if not text.strip():
    raise InputError('the prompt is empty')
  opened = f'\n\n{text.lstrip()}'
  if not dialogue.num_turns(opened):
    return f'{dialogue.HUMAN} {text.strip()}{dialogue.ASSISTANT}'
  turns = dialogue.parse(opened)
  if turns[-1].speaker == 'Assistant':
    if turns[-1].text.strip():
      raise InputError(
        'the transcript ends with an Assistant turn, so there is nothing to '
        "answer: end it with a Human turn or with '\\n\\nAssistant:'"
      )
    turns = turns[:-1]
  human = [turn.text for turn in turns if turn.speaker == 'Human']
  if not human or not all(map(str.strip, human)):
    what = 'an empty' if human else 'no'
    raise InputError(f'the transcript has {what} Human turn')
  return dialogue.render(turns) + dialogue.ASSISTANT


def read(lines: Iterable[bytes], name: str) -> list[str]:
  """A prompt a line, by as_prompt; blank lines at the end are none.

  Where the first line opens with '{' all lines are JSON objects with a text
  `prompt`. Raises InputError, which names the line, on one that is no prompt.
  """
  rows = [line.rstrip(b'\r\n') for line in lines]
  while rows and not rows[-1].strip():
    rows.pop()
  if not rows:
    raise InputError(f'there is no prompt in {name}')
  rows[0] = rows[0].removeprefix(codecs.BOM_UTF8)
  is_json = rows[0].lstrip().startswith(b'{')
  prompts = []
  for number, row in enumerate(rows, 1):
    try:
      text = _decode(row)
      prompts.append(as_prompt(_json_prompt(text) if is_json else text))
    except InputError as error:
      raise InputError(f'{name}:{number}: {error}') from error
  return prompts


def encode(
  prompts: Sequence[str], tokenizer: tokenizer_lib.Tokenizer, *, max_prompt: int
) -> list[list[int]]:
  """Token ids of prompts; InputError names the number of one that is long."""
  out = []
  for number, prompt in enumerate(prompts, 1):
    try:
      ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    except InputError as error:
      raise InputError(f'prompt {number}: {error}') from error
    if len(ids) > max_prompt:
      raise InputError(
        f'prompt {number} has {len(ids)} tokens, more than config.max_prompt '
        f'{max_prompt}'
      )
    out.append(ids)
  return out


def _decode(row: bytes) -> str:
  try:
    return row.decode()
  except UnicodeDecodeError as error:
    raise InputError('not UTF-8 text') from error


def _json_prompt(text: str) -> str:
  try:
    record = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InputError(f'not JSON: {error}') from error
  if not isinstance(record, dict) or 'prompt' not in record:
    raise InputError('not a JSON object with the key prompt')
  if not isinstance(record['prompt'], str):
    raise InputError(f'prompt is {record["prompt"]!r}, not text')
  return record['prompt']

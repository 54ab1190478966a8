"""A chat with a policy: a dialogue that grows until it no longer fits."""

from collections.abc import Callable, Sequence
import importlib
import importlib.util
import sys

from hh_jax import dialogue, distributed
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.errors import InputError

# a prompt and its ids -> the text of the reply
ReplyFn = Callable[[str, Sequence[int]], str]


def fit(
  turns: Sequence[dialogue.Turn],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  max_prompt: int,
) -> tuple[list[dialogue.Turn], str, list[int]]:
  """The newest turns that fit max_prompt tokens, as a prompt and its ids.

  Turns are the human's and the Assistant's by turns, the human's last; they are
  dropped two by two. Raises InputError where the last one alone is too long.
  """
  for start in range(0, len(turns), 2):
    prompt = dialogue.render(turns[start:]) + dialogue.ASSISTANT
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    if len(ids) <= max_prompt:
      return list(turns[start:]), prompt, ids
  raise InputError(
    f'the message has {len(ids)} tokens, more than config.max_prompt '
    f'{max_prompt}'
  )


def talk(
  reply: ReplyFn,
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  max_prompt: int,
  turns: Sequence[dialogue.Turn] = (),
) -> None:
  """Answers messages from the terminal until it ends, after `turns`.

  What cannot be answered is said on stderr and left out of the dialogue.
  """
  while (line := _ask()) is not None:
    message = line.strip()
    if not message:
      continue
    try:
      asked = [*turns, dialogue.Turn('Human', f' {message}')]
      kept, prompt, ids = fit(asked, tokenizer, max_prompt=max_prompt)
    except InputError as error:
      distributed.say(f'not sent: {error}')
      continue
    if left_out := len(asked) - len(kept):
      distributed.say(
        f'the oldest {left_out} turns no longer fit config.max_prompt '
        f'{max_prompt} and are left out'
      )
    turns = [*kept, dialogue.Turn('Assistant', reply(prompt, ids))]


def with_line_editing() -> None:
  """Lets `input` edit a line and recall earlier ones, where Python can."""
  if importlib.util.find_spec('readline'):
    importlib.import_module('readline')


def _ask() -> str | None:
  """The next line; None where the terminal was closed (Ctrl-D)."""
  try:
    if sys.stdout.isatty():
      return input('Human: ')
    print('Human: ', end='', file=sys.stderr, flush=True)
    return input()
  except UnicodeDecodeError:
    distributed.say('not sent: the message is not UTF-8 text')
    return ''
  except EOFError:
    print(file=sys.stderr)
    return None

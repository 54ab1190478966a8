"""Prompts with the one reply to learn, for supervised fine-tuning (SFT)."""

from collections.abc import Iterable, Mapping, Sequence
import functools
import os
from typing import Any, NamedTuple

from hh_jax import dialogue, types
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import hh_rows, packing
from hh_jax.data.examples import Pair
from hh_jax.data.hh_report import BadRow, DropReport
from hh_jax.errors import InputError


class Dialogue(NamedTuple):
  """A prompt that ends with '\\n\\nAssistant:' and the reply to it."""

  prompt: str
  reply: str  # usually with a leading space
  conversation: str


def chosen(pairs: Iterable[Pair]) -> list[Dialogue]:
  """The better reply of each comparison."""
  return [Dialogue(p.prompt, p.chosen, p.conversation) for p in pairs]


def read(
  path: str | os.PathLike,
  *,
  max_broken: float,
  max_chars: int = hh_rows.MAX_CHARS,
) -> tuple[list[Dialogue], DropReport]:
  """Dialogues of a '.jsonl[.gz]' file of `{"prompt": ..., "reply": ...}` rows.

  Other keys are ignored. Raises InputError for a missing, empty or damaged
  file, too many broken rows, or none that can be used.
  """
  report = DropReport(str(path))
  convert = functools.partial(as_dialogue, max_chars=max_chars)
  rows = hh_rows.convert_rows(hh_rows.read_rows(path), convert, report)
  found = [row for _, row in rows]
  report.check(max_broken)
  return found, report


def as_dialogue(record: Mapping[str, Any], *, max_chars: int) -> Dialogue:
  """The dialogue of a row; BadRow or TranscriptError drops it."""
  prompt = hh_rows.as_prompt(record, max_chars=max_chars)
  reply = hh_rows.text_field(record, 'reply', max_chars)
  if not reply.strip():
    raise BadRow('empty_reply')
  dialogue.Turn('Assistant', reply)  # refuses a reply of several turns
  return Dialogue(prompt, reply, dialogue.conversation_key(prompt))


def distinct(dialogues: Iterable[Dialogue]) -> list[Dialogue]:
  """The first of those with the same prompt and reply."""
  return list(
    {(d.prompt, d.reply): d for d in reversed([*dialogues])}.values()
  )[::-1]


def pack(
  dialogues: Sequence[Dialogue],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  row_length: int,
) -> tuple[types.TokenBatch, dict[str, int]]:
  """Rows whose targets are replies and the eos after each, and counts.

  A prompt that is too long loses its oldest tokens; a reply that leaves no
  room for one prompt token is dropped and counted. InputError where none fits.
  """
  counts = {'kept': 0, 'prompt_cut': 0, 'dropped_over_long': 0}
  prompts = tokenizer.encode_batch([d.prompt for d in dialogues])
  replies = tokenizer.encode_batch([d.reply for d in dialogues])
  documents, firsts = [], []
  for prompt, reply in zip(prompts, replies, strict=True):
    prompt, reply = [tokenizer.bos_id, *prompt], [*reply, tokenizer.eos_id]
    room = row_length - len(reply)
    if room < 1:
      counts['dropped_over_long'] += 1
      continue
    counts['kept'] += 1
    counts['prompt_cut'] += len(prompt) > room
    prompt = prompt[-room:]
    documents.append(prompt + reply)
    firsts.append(len(prompt))
  if not documents:
    raise InputError(f'no reply fits a row of {row_length} tokens: {counts}')
  rows = packing.pack_documents(
    documents, row_length=row_length, first_targets=firsts
  )
  return rows, counts

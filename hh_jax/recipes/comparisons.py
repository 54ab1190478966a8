"""Which held-out comparisons a preference model is judged on.

`pm`, `pmp` and `pm_report` all ask here, so that what they leave out or warn
of is the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hh_jax import distributed
from hh_jax.data import examples
from hh_jax.data.examples import Pair
from hh_jax.errors import InputError


class HeldOut(NamedTuple):
  """Pairs to judge a PM on, and what became of the others."""

  pairs: list[Pair]
  counts: dict[str, int]  # identical_replies, in_training_conversations
  notes: list[str]  # the same in words, where there is something to say


def held_out(
  given: Sequence[Pair],
  trained: Sequence[Any] | None,
  *,
  drop_overlap: bool,
  trainee: str = 'the PM',
) -> HeldOut:
  """The test pairs, compared by conversation with those trained on.

  Pairs of two identical transcripts are left out and counted. Those of
  conversations that the trainee learnt from (those that items of `trained`
  name as theirs) are counted and warned of, and left out with drop_overlap;
  with None nobody knows them. Raises InputError where nothing is left.
  """
  pairs, notes = examples.distinct(given), []
  counts = {'identical_replies': len(given) - len(pairs)}
  if counts['identical_replies']:
    notes.append(
      f'{counts["identical_replies"]} of {len(given)} test pairs are two '
      'identical transcripts: left out.'
    )
    distributed.say(notes[-1])
  apart = pairs if trained is None else examples.apart(pairs, trained)
  if trained is not None:
    counts['in_training_conversations'] = len(pairs) - len(apart)
  if len(apart) < len(pairs):
    done = 'left out' if drop_overlap else 'kept (config.drop_overlap)'
    text = (
      f'{len(pairs) - len(apart)} of {len(pairs)} test pairs are of '
      f'conversations that {trainee} was trained on: {done}'
    )
    notes.append(text)
    distributed.say(f'warning: {text}')
  if drop_overlap:
    pairs = apart
  if not pairs:
    raise InputError(f'config.data: there are no test pairs left: {counts}')
  return HeldOut(pairs, counts, notes)


def say_left_out(report: Mapping[str, Any]) -> None:
  """Says how many training pairs a source left to its test set."""
  for name, part in report.items():
    if 'in_test_conversations' in part and part['in_test_conversations']:
      count = part['in_test_conversations']
      distributed.say(
        f'{name}: {count} pairs of test conversations are left out'
      )


def cut_notes(
  by_split: Mapping[str, Mapping[str, int]], *, row_length: int
) -> list[str]:
  """How many pairs were dropped or cut for length (ranking.pack), in words."""
  notes = []
  for name, counts in by_split.items():
    dropped, cut = counts['dropped_over_long'], counts['prompt_cut']
    if dropped or cut:
      notes.append(
        f'{dropped} of {counts["kept"] + dropped} {name} pairs do not fit '
        f'config.row_length {row_length} and are left out, {cut} lost the '
        'start of their prompt'
      )
  return notes

"""Stack Exchange questions and their answers, from '.jsonl[.gz]' files.

A line is a question: {'site', 'question_id', 'url', 'title', 'question',
'answers': [{'score', 'accepted', 'text'}, ...]}, where a score is the net
votes and texts are plain; other keys are ignored. Posts are CC BY-SA: who
quotes one names its url, so a row without one is dropped. A conversation is
'SITE/QUESTION_ID', and 'https://SITE/q/QUESTION_ID' leads to it.

A bad question is a drop with a reason, so is an answer that is empty, too long
or holds a turn marker; a bad file is an InputError.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any, ClassVar

from hh_jax import dialogue
from hh_jax.data import hh_report, hh_rows, web_pairs
from hh_jax.data.hh_report import BadRow
from hh_jax.data.web_pairs import Answer, Question
from hh_jax.errors import InputError

# Other reasons are ordinary: they occur in good files.
BROKEN = hh_report.BROKEN | {
  'not_integer',
  'not_boolean',
  'not_list',
  'no_attribution',
}


@dataclasses.dataclass
class QuestionReport(hh_report.DropReport):
  """Questions of one file; also the answers left out of those kept."""

  broken_reasons: ClassVar[frozenset[str]] = BROKEN

  answers: int = 0  # kept
  dropped_answers: dict[str, int] = dataclasses.field(default_factory=dict)

  def add(self, num_answers: int, dropped: Mapping[str, int]) -> None:
    """Counts the answers of a question that is kept."""
    self.answers += num_answers
    total = collections.Counter(self.dropped_answers)
    self.dropped_answers = dict(total + collections.Counter(dropped))


def load(
  files: Sequence[str],
  *,
  max_broken: float = hh_report.MAX_BROKEN,
  max_chars: int = hh_rows.MAX_CHARS,
) -> tuple[list[Question], list[QuestionReport]]:
  """The usable questions of all files in their order, and a report for each.

  A question that comes again is dropped; posts of more than max_chars
  characters too.

  Raises:
    InputError: no file; one that is missing, empty or damaged; one with a
      share of broken rows above max_broken, or without a usable row.
  """
  if not files:
    raise InputError('stack_exchange needs one file or more')
  for path in files:
    if not isinstance(path, str | os.PathLike):
      raise InputError(f'config.data.options.files: {path!r} is no path')
  questions: dict[str, Question] = {}
  reports = []
  for path in files:
    report = QuestionReport(str(path))
    convert = functools.partial(_as_new_question, questions, max_chars)
    rows = hh_rows.convert_rows(hh_rows.read_rows(path), convert, report)
    for _, (question, dropped) in rows:
      questions[question.conversation] = question
      report.add(len(question.answers), dropped)
    report.check(max_broken)
    reports.append(report)
  return list(questions.values()), reports


def as_question(
  record: Mapping[str, Any], *, max_chars: int = hh_rows.MAX_CHARS
) -> tuple[Question, dict[str, int]]:
  """The question of a row and the answers left out, by reason.

  BadRow or TranscriptError drops the row: a key is missing or of a wrong type,
  also in an answer; the question is empty, too long or holds a turn marker;
  fewer than two of its answers can be used.
  """
  text = functools.partial(hh_rows.text_field, record, max_chars=max_chars)
  site, url = text('site').strip(), text('url').strip()
  if not (site and url):
    raise BadRow('no_attribution')
  question_id = _field(record, 'question_id', int, 'not_integer')
  prompt = web_pairs.make_prompt(text('title'), text('question'))
  answers, dropped = [], collections.Counter()
  for item in _field(record, 'answers', list, 'not_list'):
    try:
      answers.append(_as_answer(item, max_chars))
    except (BadRow, dialogue.TranscriptError) as error:
      if error.reason in BROKEN:
        raise
      dropped[error.reason] += 1
  if len(answers) < 2:
    raise BadRow('too_few_answers')
  conversation = f'{site}/{question_id}'
  question = Question(prompt, tuple(answers), conversation, site, url)
  return question, dict(dropped)


def _as_new_question(
  known: Mapping[str, Question], max_chars: int, record: Mapping[str, Any]
) -> tuple[Question, dict[str, int]]:
  question, dropped = as_question(record, max_chars=max_chars)
  if question.conversation in known:
    raise BadRow('repeated_question')
  return question, dropped


def _as_answer(item: Any, max_chars: int) -> Answer:
  if not isinstance(item, dict):
    raise BadRow('not_object')
  votes = _field(item, 'score', int, 'not_integer')
  is_accepted = _field(item, 'accepted', bool, 'not_boolean')
  text = hh_rows.text_field(item, 'text', max_chars)
  return Answer(web_pairs.make_reply(text), votes, is_accepted)


def _field(record: Mapping[str, Any], key: str, kind: type, reason: str) -> Any:
  """The value under `key`; BadRow(reason) unless it is of that very type."""
  if key not in record:
    raise BadRow('missing_key')
  if type(record[key]) is not kind:  # so that true is no integer
    raise BadRow(reason)
  return record[key]

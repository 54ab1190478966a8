"""What the card leaves out of others' files, with a judge that needs no PM."""

import numpy as np
import pytest

from hh_jax.evals import bbq, external
from hh_jax.recipes import pm_report_outside, pm_report_probes
from hh_jax.recipes.pm_report_judge import Scores

BOOTSTRAP = {'num_samples': 100, 'seed': 0}


class Stub:
  """Scores a reply by its length; of prompts with 'long' the start is cut, and
  those with 'huge' fit no row."""

  row_length = 9

  def __call__(self, pairs):
    ids = [i for i, p in enumerate(pairs) if 'huge' not in p.prompt]
    kept = [pairs[i] for i in ids]
    scores = [[len(p.chosen), len(p.rejected)] for p in kept]
    is_cut = [bool('long' in p.prompt) for p in kept]
    return Scores(
      np.array(ids, int),
      np.array(scores, float).reshape(-1, 2),
      np.array(is_cut, bool),
      {},
    )


def judge(**given):
  outside = pm_report_outside.Outside(
    **dict.fromkeys(pm_report_outside.Outside._fields, ()) | given
  )
  return pm_report_outside.judge_all(outside, Stub(), **BOOTSTRAP)


def item(prompt, first=' good', second=' no', good=0):
  return external.Item(prompt, (first, second), good, 'helpful')


def question(prompt, answers=(' aa', ' b', ' ccc'), template='t'):
  return bbq.Question(prompt, answers, 0, 2, 1, True, 'Height', template)


def test_hhh_items_that_lost_their_start_or_have_one_candidate():
  items = [item('a'), item('b', good=1), item('long'), item('huge')]
  found = judge(hhh=[*items, item('c', ' x', ' x'), item('d', ' y', ' y')])
  numbers = found.numbers
  assert numbers['hhh/pairs'] == 2 and numbers['hhh/left_out'] == 4
  assert numbers['hhh/accuracy'] == 0.5 and len(found.hhh) == 2
  assert found.notes == [
    'The HHH alignment evaluation: 4 of 6 items are left out: 2 whose '
    'candidates are one text; 2 that do not fit a row of 9 tokens, prompt and '
    'all.'
  ]
  assert not found.accuracies  # a part is another set
  page = ''.join(map(str, pm_report_probes.sections(numbers, '')))
  assert '4 items are left out' in page


def test_bbq_questions_that_lost_their_start_or_have_equal_answers():
  questions = [question('a'), question('b', template='u'), question('long')]
  found = judge(bbq=[*questions, question('c', (' x', ' y', ' x'))])
  assert found.numbers['bbq/ambiguous/questions'] == 2
  assert found.numbers['bbq/left_out'] == 2
  assert '2 of 4 questions are left out: 1 of which two' in found.notes[0]


def test_xstest_prompts_count_once():
  prompts = [('a', True), ('b', True), ('c', False), ('d', False)]
  more = [('a', True), ('long', False), ('d', False)]
  numbers = judge(xstest=[*prompts, *more]).numbers
  assert numbers['refusal/safe_prompts'] == 2
  assert numbers['refusal/unsafe_prompts'] == 2
  assert numbers['refusal/left_out'] == 3


@pytest.mark.parametrize(
  'given',
  [
    {'hhh': [item('long')]},
    {'bbq': [question('huge')]},
    {'xstest': [('long', True), ('a', False)]},
  ],
)
def test_nothing_is_left(given):
  found = judge(**given)
  (key,) = found.numbers
  assert key.endswith('/left_out') and found.numbers[key] == 1
  assert 'are left out' in found.notes[0]

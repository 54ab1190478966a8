"""What is left out of a test set, and what is said of it."""

import json

import numpy as np
import pytest

from hh_jax.data import sources
from hh_jax.data.examples import Pair
from hh_jax.errors import InputError
from hh_jax.recipes import comparisons, ranking
from tests.recipes import chain as chain_lib


def pair(talk, chosen=' a', rejected=' b'):
  return Pair('\n\nHuman: x\n\nAssistant:', chosen, rejected, talk, 's')


def test_identical_transcripts_are_left_out(capsys):
  pairs = [pair('1'), pair('2', ' a', ' a'), pair('3')]
  found = comparisons.held_out(pairs, [], drop_overlap=False)
  assert [p.conversation for p in found.pairs] == ['1', '3']
  assert found.counts == {
    'identical_replies': 1,
    'in_training_conversations': 0,
  }
  text = '1 of 3 test pairs are two identical transcripts: left out.'
  assert found.notes == [text]
  assert capsys.readouterr().err == f'hh_jax: {text}\n'


@pytest.mark.parametrize(('drop', 'kept'), [(False, 3), (True, 1)])
def test_an_overlap_is_warned_of_and_dropped_on_request(drop, kept, capsys):
  pairs = [pair('1'), pair('2'), pair('1', ' c')]
  found = comparisons.held_out(pairs, [pair('1')], drop_overlap=drop)
  assert len(found.pairs) == kept
  assert found.counts['in_training_conversations'] == 2
  assert 'warning: 2 of 3 test pairs are of' in capsys.readouterr().err


def test_an_overlap_that_nobody_knows_is_not_counted_as_none():
  found = comparisons.held_out([pair('1')], None, drop_overlap=True)
  assert len(found.pairs) == 1
  assert found.counts == {'identical_replies': 0}


def test_nothing_left_is_refused():
  for given, trained in (([], []), ([pair('1')], [pair('1')])):
    with pytest.raises(InputError, match='no test pairs left'):
      comparisons.held_out(given, trained, drop_overlap=True)


def test_pairs_cut_for_length_are_said():
  cut = {'kept': 7, 'prompt_cut': 2, 'dropped_over_long': 3}
  whole = {'kept': 7, 'prompt_cut': 0, 'dropped_over_long': 0}
  found = comparisons.cut_notes({'test': cut, 'training': whole}, row_length=64)
  assert found == [
    '3 of 10 test pairs do not fit config.row_length 64 and are left out, 2 '
    'lost the start of their prompt'
  ]


class Overlapping(sources.GoldWorld):
  """Every tenth test pair is a training pair; another has equal replies."""

  def pairs(self, split):
    pairs = list(super().pairs(split))
    if split == 'test':
      pairs[::10] = super().pairs('train')[: len(pairs[::10])]
    return pairs


def test_pm_warns_of_an_overlap_and_drops_it(run_stage, tmp_path, monkeypatch):
  monkeypatch.setitem(sources.SOURCES, 'gold_world', Overlapping)
  flags = '--config.drop_overlap=true', '--config.num_parts=1'
  done = run_stage('pm', *flags)
  assert done.code == 0, done.err
  assert 'test pairs are of conversations that the PM was tra' in done.err
  rows = chain_lib.rows(tmp_path / 'pm' / 'eval.jsonl')
  report = json.loads((tmp_path / 'pm' / 'data_report.json').read_text())
  report = report['test']
  count, same = (
    report[key] for key in ('in_training_conversations', 'identical_replies')
  )
  assert count >= 2
  assert len(rows) == 16 - same - count


def test_scores_that_are_not_finite_stop_pm(run_stage, monkeypatch):
  make_scorer = ranking.make_scorer

  def make_broken(*args, **kwargs):
    scorer = make_scorer(*args, **kwargs)

    def scores(params, rows):
      ids, chosen, rejected = scorer(params, rows)
      return ids, np.where(ids == 0, np.nan, chosen), rejected

    return scores

  monkeypatch.setattr(ranking, 'make_scorer', make_broken)
  done = run_stage('pm')
  assert done.code == 2
  *_, last = done.err.splitlines()
  assert 'error: margins: 1 of ' in last and last.endswith('not finite')

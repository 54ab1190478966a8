"""Figures 8, 9, 10, 12, 14 and 25 from made-up scores with known answers."""

import json

import numpy as np
import pytest

from experiments import fig08_accuracy_by_turn as fig08
from experiments import fig09_calibration as fig09
from experiments import fig10_agreement as fig10
from experiments import fig12_harmful_and_gender as fig12
from experiments import fig14_left_score_histograms as fig14
from experiments import fig25_accuracy_above_threshold as fig25
from experiments import gender_words, judged, scoring, sweep
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.evals import external, preference
from hh_jax.recipes.pm_report_judge import Scores

ALL = (fig08, fig09, fig10, fig12, fig14, fig25)


def write_run(
  workdir, scores, name='mix', size='tiny', seed=0, kinds=None, **columns
):
  """A finished run whose test pairs have these scores [N, 2].

  kinds: what it learned from, where the name does not say.
  """
  path = workdir / 'pm' / name / size / f'seed{seed}'
  path.mkdir(parents=True)
  (path / 'summary.json').write_text('{}')
  defaults = {'source': 'helpful', 'turns': 1, 'p_chosen': None}
  rows = [
    {
      'conversation': str(i),
      'score_chosen': float(chosen),
      'score_rejected': float(rejected),
      **{k: v for k, v in defaults.items() if k not in columns},
      **{k: v[i] for k, v in columns.items()},
    }
    for i, (chosen, rejected) in enumerate(scores)
  ]
  workdir_lib.write_rows(path / 'eval.jsonl', rows)
  share = {'mix': 0.7, 'helpful': 1.0, 'harmless': 0.0}[kinds or name]
  there = {'recipe': 'pm', 'config': {'mixture': {'helpful_share': share}}}
  (path / 'config.json').write_text(json.dumps(there))


def verdicts(summary):
  return [claim['holds'] for claim in summary['claims']]


def check_files(workdir, name, summary):
  assert json.loads((workdir / f'{name}.json').read_text()) == summary
  assert (workdir / f'{name}.png').read_bytes()[:4] == b'\x89PNG'


def margins(*values):
  return [(value / 2, -value / 2) for value in values]


def rights(turns, wrong):
  """Margins: of every turn the first wrong[turn] pairs are wrong."""
  seen, values = dict.fromkeys(wrong, 0), []
  for turn in turns:
    values.append(-1.0 if seen[turn] < wrong[turn] else 1.0)
    seen[turn] += 1
  return margins(*values)


def test_fig08_by_turn(tmp_path):
  turns = [turn for turn in (1, 2, 3, 7) for _ in range(800)] + [4]
  for seed, wrong in enumerate((80, 80, 120)):  # .9, .9, .85 at first
    scores = rights(turns, {1: wrong, 2: 320, 3: 320, 7: 320, 4: 0})
    write_run(tmp_path, scores, seed=seed, turns=turns)
  summary = fig08.plot(str(tmp_path))
  counts = {'1': 800, '2': 800, '3': 800, '4': 1, '5': 800}
  assert summary['pairs_by_turn'] == counts
  found = summary['accuracy']['tiny']
  assert found['1']['mean'] == pytest.approx(0.95 - 0.2 / 3)
  assert found['5']['mean'] == 0.6 and found['5']['se'] == 0
  assert '4' not in found  # one pair is too few
  assert summary['claims'][0]['mean'] == pytest.approx(0.35 - 0.2 / 3)
  assert summary['claims'][1]['mean'] == pytest.approx(0, abs=1e-12)
  assert verdicts(summary) == [True, True]
  check_files(tmp_path, 'fig08', summary)


def test_fig08_sees_a_trend(tmp_path):
  turns = [turn for turn in (1, 2, 3) for _ in range(40)]
  for seed in (0, 1):
    scores = rights(turns, {1: 8, 2: 8, 3: 16})
    write_run(tmp_path, scores, seed=seed, turns=turns)
  summary = fig08.plot(str(tmp_path))
  assert summary['claims'][1]['mean'] == pytest.approx(-0.2)
  assert verdicts(summary) == [False, False]


def test_fig08_slope_is_that_of_the_turns_weighed_by_pairs(tmp_path):
  counts, wrong = {1: 30, 2: 90, 3: 60, 4: 30}, {1: 3, 2: 9, 3: 12, 4: 9}
  turns = [turn for turn, count in counts.items() for _ in range(count)]
  write_run(tmp_path, rights(turns, wrong), turns=turns)
  (one,) = judged.runs(tmp_path).values()
  later = [2, 3, 4]
  weights = np.sqrt([counts[t] for t in later])
  accuracy = [1 - wrong[t] / counts[t] for t in later]
  expected = np.polyfit(later, accuracy, 1, w=weights)[0]
  assert fig08.slope(one, later) == pytest.approx(expected)
  assert fig08.first_gain(one, later) == pytest.approx(0.9 - 150 / 180)
  assert np.isnan(fig08.slope(one, [2]))


def calibrated(seed, scale, num=3000):
  """Scores whose difference is `scale` x what the outcomes deserve."""
  rng = np.random.default_rng(seed)
  size = np.abs(rng.normal(size=num)) * 2
  is_right = rng.random(num) < preference.sigmoid(size)
  return margins(*np.where(is_right, size, -size) * scale)


def test_fig09_tells_calibrated_from_under_confident(tmp_path):
  for seed in range(3):
    write_run(tmp_path, calibrated(seed, 0.4), seed=seed)
    write_run(tmp_path, calibrated(seed, 1.0), name='helpful', seed=seed)
  summary = fig09.plot(str(tmp_path))
  assert verdicts(summary) == [True, True]
  names = ('helpful and harmless', 'helpful')
  mix, helpful = (summary[name]['tiny'] for name in names)
  assert helpful['ece']['mean'] < 2 * helpful['ece_noise']['mean']
  assert mix['gap']['mean'] > 0.05
  assert len(mix['bin_margin']) == fig09.NUM_BINS
  check_files(tmp_path, 'fig09', summary)


def test_fig09_judges_helpful_only_models_on_helpful_pairs(tmp_path):
  scores = margins(*([1.0] * 20 + [-9.0] * 20))
  sources = ['helpful'] * 20 + ['harmless'] * 20
  for name in ('mix', 'helpful'):
    write_run(tmp_path, scores, name=name, source=sources)
  summary = fig09.plot(str(tmp_path))
  assert summary['helpful']['tiny']['bin_accuracy'] == [1.0] * 10
  assert verdicts(summary) == [None, None]  # one seed


def test_fig09_judges_harmless_only_models_on_harmless_pairs(tmp_path):
  scores = margins(*([-1.0] * 20 + [9.0] * 20))
  sources = ['helpful'] * 20 + ['harmless'] * 20
  write_run(tmp_path, scores, kinds='harmless', source=sources)
  summary = fig09.plot(str(tmp_path))
  assert summary['harmless']['tiny']['bin_accuracy'] == [1.0] * 10
  (claim,) = summary['claims']
  assert claim['claim'].startswith('tiny: harmless-only models are well')


def test_fig14_by_kind(tmp_path):
  sources = ['helpful'] * 40 + ['harmless'] * 40
  for seed, gap in enumerate((1.0, 1.1, 1.2)):
    scores = [(gap + 7, gap + 9)] * 40 + [(7.0, 9.0)] * 40
    write_run(tmp_path, scores, seed=seed, source=sources)
  summary = fig14.plot(str(tmp_path))
  found = summary['scores']['tiny']
  # less the mean of all: +-gap / 2
  assert found['helpful']['mean']['mean'] == pytest.approx(0.55)
  assert found['harmless']['mean']['mean'] == pytest.approx(-0.55)
  assert found['helpful']['std']['mean'] == pytest.approx(1)
  assert verdicts(summary) == [True]
  check_files(tmp_path, 'fig14_left', summary)


def test_fig25_needs_both_scores_above(tmp_path):
  # 40 good pairs, half right; 40 bad ones, all right; 40 with one good reply
  good = [(1.5, 1.2), (1.2, 1.5)] * 20
  scores = good + [(-1.0, -1.5)] * 40 + [(0.4, -1.3)] * 40
  for seed in (0, 1, 2):
    write_run(tmp_path, np.array(scores) + seed, seed=seed)
  summary = fig25.plot(str(tmp_path))
  found = summary['helpful']['tiny']
  assert found['all']['mean'] == pytest.approx(100 / 120)
  assert found['-4']['mean'] == pytest.approx(100 / 120)
  assert found['-4']['pairs'] == 120
  assert found['0']['mean'] == 0.5 and found['0']['pairs'] == 40
  assert '1.5' not in found  # too few pairs
  assert summary['claims'][0]['mean'] == pytest.approx(1 / 3)
  assert verdicts(summary) == [True] and summary['left_out'] == []
  check_files(tmp_path, 'fig25', summary)


def test_fig25_says_where_too_few_pairs_are_left(tmp_path):
  write_run(tmp_path, [(1.0, -1.0)] * 40)
  summary = fig25.plot(str(tmp_path))
  assert summary['left_out'] == ['helpful: fewer than 30 pairs are above 0']


def write_raters(workdir, p):
  """Runs of two sizes, and the simulated second rater of those p."""
  for size, num_wrong in (('tiny', 0.4), ('mini', 0.2)):
    for seed in (0, 1, 2):
      values = np.where(np.arange(p.size) % 10 < 10 * num_wrong, -1.0, 1.0)
      columns = {'p_chosen': p.tolist()}
      write_run(workdir, margins(*values), size=size, seed=seed, **columns)
  path = workdir / 'pm' / 'mix' / 'tiny' / 'seed0' / 'eval.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  workdir_lib.write_rows(workdir / fig10.SECOND, fig10.simulate(rows, seed=0))


def test_fig10_a_simulated_rater_agrees_as_known(tmp_path):
  p = np.tile([0.5, 0.6, 0.9], 1000)
  write_raters(tmp_path, p)
  summary = fig10.plot(str(tmp_path))
  assert summary['raters_agree_known'] == pytest.approx(2 / 3)
  error = np.sqrt(np.mean(p * (1 - p)) / p.size)
  assert abs(summary['raters_agree'] - 2 / 3) < 4 * error
  # the models' mistakes have nothing to do with the second rater's labels
  for size, accuracy in (('tiny', 0.6), ('mini', 0.8)):
    found = summary['agreement'][size]
    assert found['first']['mean'] == pytest.approx(accuracy)
    agree = accuracy * 2 / 3 + (1 - accuracy) / 3
    assert found['second']['mean'] == pytest.approx(agree, abs=0.03)
  # no better than the raters; the larger agrees more with both
  assert verdicts(summary) == [False, True, True]
  assert 'HHH' in summary['left_out'][0]
  check_files(tmp_path, 'fig10', summary)


def test_fig10_reads_the_labels_of_a_file(tmp_path):
  write_run(tmp_path, margins(1.0, -1.0, 1.0, 0.0))
  rows = [
    {'row': 2, 'prefers': 'chosen'},
    {'row': 1, 'prefers': 'rejected'},
    {'row': 3, 'prefers': 'rejected'},
  ]
  workdir_lib.write_rows(tmp_path / 'labels.jsonl', rows)
  found = fig10.read_second(str(tmp_path / 'labels.jsonl'), 4)
  workdir_lib.write_rows(tmp_path / fig10.SECOND, found)
  summary = fig10.plot(str(tmp_path))
  assert (summary['second_rater'], summary['labels']) == ('file', 3)
  assert summary['raters_agree'] == pytest.approx(1 / 3)
  assert summary['raters_agree_known'] is None
  agreement = summary['agreement']['tiny']
  assert agreement['first']['mean'] == pytest.approx(0.5)
  assert agreement['second']['mean'] == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([{'row': 4, 'prefers': 'chosen'}], r'row 4 is not in \[0, 4\)'),
    ([{'row': True, 'prefers': 'chosen'}], 'row True is not in'),
    ([{'row': 0, 'prefers': 'both'}], "'both' is none of"),
    ([{'row': 0, 'prefers': 'chosen'}] * 2, 'row 0 is there twice'),
    ([], 'no labels'),
  ],
)
def test_bad_labels_are_refused(tmp_path, rows, message):
  workdir_lib.write_rows(tmp_path / 'labels.jsonl', rows)
  with pytest.raises(InputError, match=message):
    fig10.read_second(str(tmp_path / 'labels.jsonl'), 4)


def test_fig10_margins_are_of_the_good_answer():
  items = [
    external.Item('long', (' a', ' bbb'), good=1, category='x'),  # fits no row
    external.Item('p', (' a', ' bbb'), good=1, category='y'),
    external.Item('p', (' a', ' bbb'), good=0, category='z'),
    external.Item('p', (' a', ' a'), good=0, category='z'),  # one text
  ]
  assert fig10._margins(fake_judge, items) == [
    {'category': 'y', 'margin': 2.0},
    {'category': 'z', 'margin': -2.0},
  ]


def test_fig10_draws_the_hhh_margins(tmp_path):
  for size, values in (('tiny', [1, -1]), ('mini', [1, 1])):
    rows = [{'category': 'honest', 'margin': float(v)} for v in values]
    path = tmp_path / 'scored' / 'hhh' / size
    path.mkdir(parents=True)
    workdir_lib.write_rows(path / 'seed0.jsonl', rows)
  summary = fig10.plot(str(tmp_path))
  accuracy = summary['hhh_accuracy']
  assert (accuracy['tiny']['mean'], accuracy['mini']['mean']) == (0.5, 1.0)
  assert 'no second rater' in summary['left_out'][0]


def fake_judge(pairs):
  """A score is the number of characters; prompts with 'long' do not fit."""
  ids = np.array([i for i, p in enumerate(pairs) if 'long' not in p.prompt])
  scores = [[len(pairs[i].chosen), len(pairs[i].rejected)] for i in ids]
  return Scores(ids, np.array(scores, float), np.zeros(len(ids), bool), {})


def test_replies_are_scored_each_at_its_place():
  prompts = ['a', 'b', 'a', 'long', 'a']
  replies = ['1', '22', '333', '4', '55555']
  scores = scoring.reply_scores(fake_judge, prompts, replies)
  np.testing.assert_array_equal(scores, [1, 2, 3, np.nan, 5])


@pytest.fixture
def made_up_runs(monkeypatch):
  """sweep.by_size names two models that nobody trained: `fake_judge`."""
  runs = {('tiny', 0): 'x', ('tiny', 1): 'y'}
  monkeypatch.setattr(sweep, 'by_size', lambda config, workdir: runs)
  monkeypatch.setattr(scoring, 'load', lambda run: fake_judge)


def test_fig12_scores_a_file_once(tmp_path, made_up_runs, monkeypatch):
  rows = [
    {'prompt': f'p{i}', 'reply': 'xx' * (1 + i % 2), 'is_harmful': i % 2 == 0}
    for i in range(60)
  ]
  workdir_lib.write_rows(tmp_path / 'utterances.jsonl', rows)
  config = sweep.load('smoke')
  config.probes.utterances = str(tmp_path / 'utterances.jsonl')
  fig12.run(config, str(tmp_path))
  monkeypatch.setattr(scoring, 'load', None)
  fig12.run(config, str(tmp_path))
  summary = fig12.plot(str(tmp_path))
  found = summary['harmful']['tiny']
  assert found['difference']['mean'] == 2 and found['auroc']['mean'] == 1
  assert summary['utterances'] == 'file' and verdicts(summary) == [True]
  assert 'gold world has no such words' in summary['left_out'][0]
  check_files(tmp_path, 'fig12', summary)
  written = (tmp_path / 'scored/utterances/tiny/seed0.jsonl').read_text()
  assert 'xx' not in written


def test_scores_of_other_utterances_are_not_taken_for_these(
  tmp_path, made_up_runs
):
  config = sweep.load('smoke')  # a stand-in, for lack of a file
  fig12.run(config, str(tmp_path))
  row = {'prompt': 'p', 'reply': 'r', 'is_harmful': True}
  workdir_lib.write_rows(
    tmp_path / 'u.jsonl', [row, row | {'is_harmful': False}]
  )
  config.probes.utterances = str(tmp_path / 'u.jsonl')
  with pytest.raises(InputError, match='texts is "stand-in: gold world" there'):
    fig12.run(config, str(tmp_path))


def test_fig12_reads_advbench(tmp_path, shared_data):
  path = shared_data / 'safety-prompts' / 'advbench_harmful_behaviors.csv.gz'
  found = fig12.read_advbench(str(path))
  assert len(found) == 2 * 520
  assert [label for *_, label in found[:4]] == [True, False, True, False]
  assert found[0][0] == found[1][0]


def test_fig12_takes_the_first_replies_of_the_gold_world():
  config = sweep.load('smoke')
  found, name = fig12.find_utterances(config)
  assert name == 'stand-in: gold world'
  assert all(prompt.count('Human:') == 1 for prompt, *_ in found)
  assert {label for *_, label in found} == {True, False}


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'prompt': 'a', 'reply': 'b', 'is_harmful': 1}, '2: want texts'),
    ({'prompt': 'a', 'is_harmful': True}, '2: want texts'),
    (
      {'prompt': 'a', 'reply': 'b\n\nHuman: c', 'is_harmful': True},
      '2: want texts',
    ),
    ({'prompt': 'a', 'reply': 'b', 'is_harmful': True}, 'and others'),
  ],
)
def test_bad_utterances_are_refused(tmp_path, row, message):
  good = {'prompt': 'a', 'reply': 'b', 'is_harmful': True}
  workdir_lib.write_rows(tmp_path / 'u.jsonl', [good, row])
  with pytest.raises(InputError, match=message):
    fig12.read_utterances(str(tmp_path / 'u.jsonl'))


def test_sentences_of_a_place_differ_in_the_word_alone():
  found = list(gender_words.sentences())
  count = len(gender_words.PAIRS)
  assert len(found) == len(gender_words.OCCUPATIONS) * 2 * count * 2
  assert len(set(gender_words.OCCUPATIONS)) == len(gender_words.OCCUPATIONS)
  words = [word for pair in gender_words.PAIRS for word in pair]
  assert len(set(words)) == 2 * count
  assert len({one['prompt'] for one in found[: 2 * count]}) == 1
  assert found[0]['reply'] == ' The accountant is a woman.'
  assert any('is an aunt.' in one['reply'] for one in found)


def gender_rows(word, gender):
  """Scores: `word` x the number of the pair, and `gender` more for women."""
  return [
    {
      'occupation': occupation,
      'tense': 'past',
      'pair': f'w{i}',
      'gender': name,
      'score': word * i + gender * (name == 'woman') + 5 * ord(occupation),
    }
    for occupation in 'ab'
    for i in range(3)
    for name in ('woman', 'man')
  ]


def test_fig12_differences_by_hand(tmp_path):
  found = fig12.differences(gender_rows(1.0, 0.5))
  np.testing.assert_allclose(found['between'], [0.5] * 6)
  assert sorted(np.abs(found['within'])) == [1] * 16 + [2] * 8
  assert found['within'].mean() == 0
  for seed in range(3):
    path = tmp_path / 'scored' / 'gender' / 'tiny'
    path.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_rows(
      path / f'seed{seed}.jsonl', gender_rows(1 + seed / 9, 0.5)
    )
  summary = fig12.plot(str(tmp_path))
  assert summary['gender']['tiny']['rms_between']['mean'] == pytest.approx(0.5)
  assert verdicts(summary) == [True]
  check_files(tmp_path, 'fig12', summary)


def test_another_test_set_is_refused(tmp_path):
  for seed in (0, 1):
    talks = [str(seed), '2']
    write_run(tmp_path, margins(1, 2), seed=seed, conversation=talks)
  with pytest.raises(InputError, match='tiny/seed1 has another test set'):
    judged.runs(tmp_path)


def test_the_error_over_conversations_is_that_of_a_mean():
  values = np.random.default_rng(0).normal(size=400)
  alone = judged.over_conversations(lambda rows: values[rows], np.arange(400))
  assert alone == pytest.approx(values.std() / 20, rel=0.1)
  # four copies a conversation say nothing new
  copies = np.repeat(values, 4)
  talks = np.repeat(np.arange(400).astype(str), 4)
  found = judged.over_conversations(lambda rows: copies[rows], talks)
  assert found == pytest.approx(values.std() / 20, rel=0.1)
  few = judged.over_conversations(lambda rows: values[rows], talks[:36])
  assert np.isnan(few)  # nine


def test_a_draw_without_what_is_compared_leaves_it_open():
  values = np.array([1.0] * 19 + [0.0])
  is_first = values > 0

  def gain(rows):
    x, at = values[rows], is_first[rows]
    return [judged.mean(x, at) - judged.mean(x, ~at)] * 3

  found = judged.claim('the first are higher', gain, np.arange(20))
  assert (found['mean'], found['se']) == (1, 0)
  assert found['se_conversations'] is None and found['holds'] is False


def few_fig08(workdir):
  turns = [turn for turn in (1, 2, 3) for _ in range(30)]
  scores = rights(turns, {1: 3, 2: 6, 3: 6})
  return [write_run(workdir, scores, seed=s, turns=turns) for s in range(3)]


def few_fig09(workdir):
  for seed in range(3):  # 27 of 40 right; .62 expected
    scores = margins(*([0.5] * 27 + [-0.5] * 13))
    write_run(workdir, scores, seed=seed)
    write_run(workdir, scores, name='helpful', seed=seed)


def few_fig10(workdir):
  # the raters differ on 3 of 40; the models are with the second on 2 of those
  for seed in range(3):
    scores = margins(*([-1.0] * 2 + [1.0] * 38))
    write_run(workdir, scores, seed=seed)
  rows = [
    {'row': i, 'prefers': fig10.SIDES[i < 3], 'rater': 'file'}
    for i in range(40)
  ]
  workdir_lib.write_rows(workdir / fig10.SECOND, rows)


def few_fig14(workdir):
  scores = [(i % 5 + 0.3, i % 5 + 0.3) for i in range(20)]
  scores += [(i % 5, i % 5) for i in range(20)]
  sources = ['helpful'] * 20 + ['harmless'] * 20
  for seed in range(3):
    write_run(workdir, scores, seed=seed, source=sources)


def few_fig25(workdir):
  # .8 of 30 good pairs, .9 of the others
  scores = [(1.5, 1.2)] * 24 + [(1.2, 1.5)] * 6
  scores += [(-1.3, -1.5)] * 27 + [(-1.5, -1.3)] * 3
  for seed in range(3):
    write_run(workdir, scores, seed=seed)


def few_fig12(workdir):
  rows = [
    {
      'score': i % 7 - 0.5 * (i % 2),
      'is_harmful': i % 2 == 1,
      'utterances': 'file',
      'prompt': i,
    }
    for i in range(28)
  ]
  folder = workdir / 'scored' / 'utterances' / 'tiny'
  folder.mkdir(parents=True)
  for seed in range(3):
    workdir_lib.write_rows(folder / f'seed{seed}.jsonl', rows)


@pytest.mark.parametrize('figure', ALL)
def test_seeds_that_agree_on_few_pairs_prove_nothing(tmp_path, figure):
  name = figure.__name__.split('.')[-1][:5]
  globals()[f'few_{name}'](tmp_path)
  claims = figure.plot(str(tmp_path))['claims']
  judged_on_pairs = [c for c in claims if 'se_conversations' in c]
  assert judged_on_pairs
  for claim in judged_on_pairs:
    assert claim['se'] == pytest.approx(0, abs=1e-12)
    assert claim['se_conversations'] > 0.01
    assert claim['holds'] is False and 'over conversations' in claim['because']


@pytest.mark.parametrize(
  ('values', 'holds'),
  [
    ([0.01, 0.0, -0.01], True),
    ([0.5, 0.5, 0.5], False),
    ([0.2, 0.0, -0.2], False),
    ([0.0], None),
  ],
)
def test_about_nothing_is_an_equivalence(values, holds):
  talks = np.arange(10)
  found = judged.within('is 0', lambda rows: values, talks, limit=0.05)
  assert found['holds'] is holds


@pytest.mark.parametrize('figure', ALL)
def test_a_plot_of_nothing_is_refused(tmp_path, figure):
  with pytest.raises(InputError, match='run without --plot-only'):
    figure.plot(str(tmp_path))

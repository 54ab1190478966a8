"""Outside evaluations: reading, shuffling, counting; RewardBench's layout."""

import collections
import gzip
import json

import numpy as np
import pytest

from hh_jax.errors import InputError
from hh_jax.evals import external, reward_bench

BOOTSTRAP = {'num_samples': 100, 'seed': 0}


def hhh_row(i=0, **changes):
  """The good answer is the first, as in the published file."""
  return {
    'subset': ('helpful', 'honest')[i % 2],
    'input': f'What is {i}?',
    'targets': {'choices': [f'good {i}', f'bad {i}'], 'labels': [1, 0]},
  } | changes


def write(path, rows):
  text = ''.join(
    r if isinstance(r, str) else json.dumps(r) + '\n' for r in rows
  )
  if path.suffix == '.gz':
    path.write_bytes(gzip.compress(text.encode()))
  else:
    path.write_text(text)
  return path


def item(good, category='a', prompt='p', texts=(' x', ' y')):
  return external.Item(prompt, texts, good, category)


def test_hhh_items_are_shuffled_by_the_seed(tmp_path):
  path = write(tmp_path / 'hhh.jsonl.gz', [hhh_row(i) for i in range(400)])
  items = external.read_hhh(path, seed=0)
  places = np.array([i.good for i in items])
  assert 0.4 < places.mean() < 0.6
  for number, one in enumerate(items):
    assert one.candidates[one.good] == f' good {number}'
    assert one.candidates[1 - one.good] == f' bad {number}'
  assert items == external.read_hhh(path, seed=0)
  others = [i.good for i in external.read_hhh(path, seed=1)]
  assert 0.4 < np.mean(places == others) < 0.6


def test_a_place_says_nothing(tmp_path):
  """A scorer that always likes the first candidate is at chance."""
  path = write(tmp_path / 'hhh.jsonl', [hhh_row(i) for i in range(400)])
  items = external.read_hhh(path, seed=3)
  first = external.choice_report(
    items, np.ones(400), np.zeros(400), **BOOTSTRAP
  )
  assert 0.4 < first['accuracy'] < 0.6


def test_labels_tell_the_good_one(tmp_path):
  turned = hhh_row(targets={'choices': ['bad', 'good'], 'labels': [0, 1]})
  (one,) = external.read_hhh(write(tmp_path / 'h.jsonl', [turned]), seed=0)
  assert one.candidates[one.good] == ' good'


def test_several_turns_become_a_transcript(tmp_path):
  text = 'Hello\n\nAssistant: Hi there\n\nHuman: How are you?'
  path = write(tmp_path / 'h.jsonl', [hhh_row(input=text)])
  (one,) = external.read_hhh(path, seed=0)
  assert one.prompt == f'\n\nHuman: {text}\n\nAssistant:'
  assert one.pair().chosen == one.candidates[0]
  assert one.pair().rejected == one.candidates[1]


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('{"subset": \n', 'bad_json'),
    (hhh_row(input=7), 'input is missing'),
    (hhh_row(input=' '), 'input is missing, empty'),
    (hhh_row(subset=None), 'subset is missing'),
    (hhh_row(targets=None), 'targets.choices'),
    (hhh_row(targets={'choices': ['a'], 'labels': [1]}), 'targets.choices'),
    (
      hhh_row(targets={'choices': ['a', 'b'], 'labels': [1, 1]}),
      'targets.labels',
    ),
    (
      hhh_row(targets={'choices': ['a', None], 'labels': [1, 0]}),
      'a reply is missing, not text',
    ),
    (
      hhh_row(targets={'choices': ['a', 'b\n\nHuman: c'], 'labels': [1, 0]}),
      'more than one turn',
    ),
    (hhh_row(input='a\n\nHuman: b'), 'do not alternate'),
    (hhh_row(input='a\n\nAssistant: b'), 'do not alternate'),
  ],
)
def test_a_bad_hhh_row_is_named(tmp_path, row, message):
  path = write(tmp_path / 'h.jsonl', [hhh_row(), '\n', row])
  with pytest.raises(InputError, match=message) as error:
    external.read_hhh(path, seed=0)
  assert str(error.value).startswith(f'{path}:3: ')
  assert '\n' not in str(error.value)


def test_files_that_are_none(tmp_path):
  with pytest.raises(InputError, match='no such file'):
    external.read_hhh(tmp_path / 'x.jsonl', seed=0)
  with pytest.raises(InputError, match='no rows'):
    external.read_hhh(write(tmp_path / 'h.jsonl', ['\n']), seed=0)


def test_choice_report_by_hand():
  items = [
    item(0, 'a', 'p', (' xx', ' y')),  # right, and longer
    item(1, 'a', 'p'),  # wrong
    item(1, 'b', 'q'),  # a tie
    item(1, 'b', 'r', (' xxx', ' y')),  # right, and shorter
  ]
  report = external.choice_report(
    items, [1.0, 1.0, 2.0, -1.0], [0.0, 0.0, 2.0, 3.0], **BOOTSTRAP
  )
  expected = {
    'accuracy': 0.625,
    'pairs': 4,
    'a/accuracy': 0.5,
    'a/pairs': 2,
    'b/accuracy': 0.75,
    'mean_of_categories': 0.625,
    'longer_rule': 0.5,
  }
  assert {k: report[k] for k in expected} == pytest.approx(expected)
  assert report['accuracy_low'] < 0.625 < report['accuracy_high']
  # the two of category a share a prompt: there is nothing to resample
  assert report['a/accuracy_low'] < 0.1 and report['a/accuracy_high'] > 0.9
  with pytest.raises(ValueError, match='no items'):
    external.choice_report([], [], [], **BOOTSTRAP)


def test_reward_bench_counts_a_tie_as_a_loss():
  items = [item(0, 'a'), item(1, 'a'), item(1, 'b')]
  assert external.subset_accuracies(items, [1, 2, 0], [0, 2, 5]) == {
    'a': 0.5,
    'b': 1.0,
  }


def test_candidates_of_one_text_tie_whatever_rounding_says():
  items = [item(0, texts=(' x', ' x')), item(1, texts=(' x', ' x')), item(0)]
  wins = external.subset_accuracies(items, [1 + 1e-7, 1, 1], [1, 1 + 1e-7, 0])
  assert wins == {'a': 1 / 3}


def test_reward_bench_rows(tmp_path):
  row = {'prompt': 'Q', 'chosen': 'good', 'rejected': 'bad', 'subset': 'hep-go'}
  path = write(tmp_path / 'r.jsonl', [row | {'id': 3}] * 20)
  items = external.read_reward_bench(path, seed=0)
  assert {i.candidates[i.good] for i in items} == {' good'}
  assert {i.good for i in items} == {0, 1}
  assert {i.category for i in items} == {'hep-go'}
  path = write(tmp_path / 'r.jsonl', [row, {'prompt': 'Q'}])
  with pytest.raises(InputError, match=r'r\.jsonl:2: a reply is missing'):
    external.read_reward_bench(path, seed=0)


XSTEST = 'id,prompt,type,label\n1,"Kill, a process?",x,safe\n2,Bad,y,unsafe\n'


@pytest.mark.parametrize('name', ['x.csv', 'x.csv.gz'])
def test_xstest(tmp_path, name):
  path = write(tmp_path / name, [XSTEST])
  assert external.read_xstest(path) == [
    ('\n\nHuman: Kill, a process?\n\nAssistant:', True),
    ('\n\nHuman: Bad\n\nAssistant:', False),
  ]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (XSTEST + '3,More,z,odd\n', 'row 3: want a prompt and a label'),
    (XSTEST + '3,,z,safe\n', 'row 3'),
    ('a,b\n1,2\n', 'row 1'),
    ('id,prompt,label\n1,A,safe\n', 'no prompt is unsafe'),
    ('', 'no prompt is safe or unsafe'),
    (XSTEST + '3,Bad,z,safe\n', 'row 3: its prompt is there as safe and as'),
  ],
)
def test_a_bad_xstest_file_is_refused(tmp_path, text, message):
  path = write(tmp_path / 'x.csv', [text])
  with pytest.raises(InputError, match=message) as error:
    external.read_xstest(path)
  assert str(path) in str(error.value)


def test_a_damaged_xstest_file_is_refused(tmp_path):
  path = tmp_path / 'x.csv.gz'
  path.write_bytes(gzip.compress(XSTEST.encode())[:-9])
  with pytest.raises(InputError, match='cannot be read'):
    external.read_xstest(path)


def test_refusals_come_first_and_prompt_by_prompt():
  pairs = external.refusal_pairs(['p', 'q'])
  count = len(external.OPENINGS)
  assert [p.prompt for p in pairs] == ['p'] * count + ['q'] * count
  assert [(p.chosen, p.rejected) for p in pairs[count:]] == [*external.OPENINGS]


def test_refusal_report_by_hand():
  # means over the openings: safe 1, 3; unsafe 2, 4, 6
  report = external.refusal_report(
    [True, False, True, False, False],
    [[0, 2], [1, 3], [3, 3], [4, 4], [5, 7]],
  )
  expected = {
    'safe': 2,
    'unsafe': 4,
    'contrast': 2,
    'safe_se': 1.0,  # deviation sqrt(2) over sqrt(2)
    'unsafe_se': 2 / 3**0.5,
    'contrast_se': (1 + 4 / 3) ** 0.5,
    'safe_prompts': 2,
    'unsafe_prompts': 3,
    'auroc': 5 / 6,  # only 2 < 3 is the wrong way round
  }
  assert report == pytest.approx(expected)


def test_refusals_that_know_nothing_of_the_prompt():
  report = external.refusal_report([True, True, False, False], np.ones((4, 3)))
  assert report['contrast'] == 0 and report['auroc'] == 0.5
  assert report['safe'] == 1
  with pytest.raises(ValueError, match='1 unsafe prompts'):
    external.refusal_report([True, True, False], np.ones((3, 1)))


def test_the_published_files(shared_data):
  items = external.read_hhh(
    shared_data / 'hhh-alignment' / 'hhh_alignment.jsonl.gz', seed=0
  )
  assert collections.Counter(i.category for i in items) == {
    'helpful': 59,
    'honest': 61,
    'harmless': 58,
    'other': 43,
  }
  assert 0.4 < np.mean([i.good for i in items]) < 0.6
  prompts = external.read_xstest(
    shared_data / 'safety-prompts' / 'xstest_prompts.csv.gz'
  )
  assert collections.Counter(is_safe for _, is_safe in prompts) == {
    True: 250,
    False: 200,
  }


def whole(value=1.0):
  return dict.fromkeys(reward_bench.SUBSETS, value)


def test_there_are_23_subsets_in_four_sections():
  assert len(reward_bench.SUBSETS) == 23
  assert [sum(s.values()) for s in reward_bench.SECTIONS.values()] == [
    358,
    456,
    740,
    984 + 6 * 164,
  ]


def test_section_scores_by_hand():
  accuracies = whole() | {
    'alpacaeval-easy': 0.5,
    'math-prm': 0.0,
    'xstest-should-respond': 0.0,
  }
  scores = reward_bench.section_scores(accuracies)
  expected = {
    'chat': 308 / 358,
    'chat_hard': 1.0,
    'safety': 490 / 740,
    'reasoning': 0.5,  # math counts as much as all code
  }
  expected['score'] = sum(expected.values()) / 4
  assert scores == pytest.approx(expected)


def test_a_section_stands_only_whole():
  accuracies = whole(0.7)
  del accuracies['hep-go']
  scores = reward_bench.section_scores(accuracies | {'other': 0.1})
  assert scores == pytest.approx({'chat': 0.7, 'chat_hard': 0.7, 'safety': 0.7})
  assert reward_bench.incomplete_sections(accuracies) == {'reasoning': 1}
  assert reward_bench.incomplete_sections({'anthropic_hhh': 0.5}) == {}
  assert reward_bench.section_scores({}) == {}


def test_a_result_file_can_be_read_again(tmp_path):
  path = tmp_path / 'r.json'
  result = reward_bench.Result('org/model', whole(0.25) | {'helpful-base': 0.5})
  path.write_text(json.dumps(reward_bench.result_file(result)))
  assert reward_bench.read_result(path) == result


def test_other_keys_are_passed_over(tmp_path):
  path = tmp_path / 'r.json'
  path.write_text(
    json.dumps(
      {
        'model': 'm',
        'model_type': 'DPO',
        'chat_template': None,
        'beta': 400,
        'is_good': True,
        'hep-go': 1,
        'anthropic_hhh': 0.5,
      }
    )
  )
  assert reward_bench.read_result(path) == (
    'm',
    {'hep-go': 1.0, 'anthropic_hhh': 0.5},
  )


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"model": ', 'not JSON'),
    ('\xff', 'not JSON'),
    ('[1]', 'not a JSON object'),
    ('{"hep-go": 0.5}', 'model is None'),
    ('{"model": ["a"], "hep-go": 0.5}', 'model is'),
    ('{"model": "m"}', 'no accuracy'),
    ('{"model": "m", "hep-go": 71.2}', 'hep-go is 71.2, not in'),
    ('{"model": "m", "hep-go": NaN}', 'hep-go is nan'),
    ('{"model": "m", "hep-go": true}', 'hep-go is True'),
    ('{"model": "m", "hep-go": "0.5"}', "hep-go is '0.5'"),
  ],
)
def test_a_malformed_result_file_is_one_line(tmp_path, text, message):
  path = tmp_path / 'r.json'
  path.write_text(text, encoding='latin-1')
  with pytest.raises(InputError, match=message) as error:
    reward_bench.read_result(path)
  assert str(path) in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(InputError, match='No such file'):
    reward_bench.read_result(tmp_path / 'gone.json')

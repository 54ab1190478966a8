"""Rows in, questions out; every bad input is counted or refused.

All posts here are made up; those of the shared folder are only counted.
"""

import gzip
import itertools
import json

import hypothesis
from hypothesis import strategies as st
import pytest

from hh_jax import dialogue
from hh_jax.data import hh_rows, sources, stack_exchange, web_pairs
from hh_jax.errors import InputError

SPLITS = ('train', 'test')
OPTIONS = dict(
  form='ranked', test_share=0.3, max_pairs_per_question=0, max_broken=0.2
)  # fmt: skip


def answer(votes, text='', accepted=False):
  return {'score': votes, 'accepted': accepted, 'text': text or f'v{votes}'}


def row(number=1, *, answers=None, **changes) -> dict:
  """A made-up question; its answers have scores 3 (accepted), 2 and 1."""
  three = [answer(4, accepted=True), answer(2, 'b'), answer(1, 'c')]
  return {
    'site': 'tea.example',
    'question_id': number,
    'url': f'https://tea.example/q/{number}',
    'title': f'Title {number}',
    'tags': ['leaves'],
    'question': f'Body {number}',
    'answers': three if answers is None else answers,
  } | changes


def write(path, rows):
  """Rows are objects, or bytes that go into the file as they are."""
  lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
  data = b''.join(line + b'\n' for line in lines)
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return str(path)


def load(path, **options):
  questions, (report,) = stack_exchange.load([path], **options)
  return questions, report


def test_a_row_by_hand(tmp_path):
  for name in ('a.jsonl', 'a.jsonl.gz'):
    (question,), report = load(write(tmp_path / name, [row(7)]))
    assert question == web_pairs.Question(
      '\n\nHuman: Title 7\n\nBody 7\n\nAssistant:',
      (
        web_pairs.Answer(' v4', 4, True),
        web_pairs.Answer(' b', 2, False),
        web_pairs.Answer(' c', 1, False),
      ),
      conversation='tea.example/7',
      source='tea.example',
      url='https://tea.example/q/7',
    )
    assert (report.rows, report.kept, report.dropped) == (1, 1, {})
    assert (report.answers, report.dropped_answers) == (3, {})


def without(key, record):
  return {k: v for k, v in record.items() if k != key}


def spoilt(**changes):
  """A row with one such answer among four."""
  return row(answers=[*row()['answers'], answer(9, 'd') | changes])


BAD_ROWS = [
  ('bad_json', b'{"site": "cut'),
  ('bad_utf8', b'{"site": "\xff"}'),
  ('not_object', b'[1, 2]'),
  ('blank_line', b' '),
  ('missing_key', without('title', row())),
  ('missing_key', without('answers', row())),
  ('missing_key', without('url', row())),
  ('missing_key', row(answers=[answer(1), without('score', answer(2))])),
  ('missing_key', row(answers=[answer(1), without('accepted', answer(2))])),
  ('not_text', row(question=None)),
  ('not_text', row(title=7)),
  ('not_text', row(site=None)),
  ('not_text', spoilt(text=None)),
  ('no_attribution', row(url=' ')),
  ('no_attribution', row(site='')),
  ('not_integer', row(None)),
  ('not_integer', row('1')),
  ('not_integer', row(True)),
  ('not_integer', spoilt(score=None)),
  ('not_integer', spoilt(score='4')),
  ('not_integer', spoilt(score=4.0)),
  ('not_integer', spoilt(score=float('nan'))),
  ('not_integer', spoilt(score=True)),
  ('not_boolean', spoilt(accepted=None)),
  ('not_boolean', spoilt(accepted=1)),
  ('not_list', row(answers={})),
  ('not_list', without('answers', row()) | {'answers': None}),
  ('not_object', row(answers=['a', 'b'])),
  ('lone_surrogate', row(title='\ud800')),
  ('nul_character', spoilt(text='a\0')),
  ('too_few_answers', row(answers=[])),
  ('too_few_answers', row(answers=[answer(3)])),
  ('too_few_answers', row(answers=[answer(3), answer(2, ' \n')])),
  ('empty_prompt', row(title=' ', question='\n')),
  ('marker_in_turn', row(question='a\n\nAssistant: b')),
  ('marker_in_turn', row(question='Human: b')),
  ('too_long', row(title='x' * 1001)),
  ('repeated_question', row(90)),
]
ORDINARY = {
  'blank_line', 'too_few_answers', 'empty_prompt', 'marker_in_turn',
  'too_long', 'repeated_question',
}  # fmt: skip


@pytest.mark.parametrize('reason, bad', BAD_ROWS, ids=[r for r, _ in BAD_ROWS])
def test_a_bad_row_is_a_counted_drop(tmp_path, reason, bad):
  path = write(tmp_path / 'a.jsonl', [row(90), bad, row(91), row(92)])
  questions, report = load(path, max_broken=0.5, max_chars=1000)
  ids = [q.conversation for q in questions]
  assert ids == ['tea.example/90', 'tea.example/91', 'tea.example/92']
  assert report.dropped == {reason: 1}
  assert report.lines == {reason: [2]}
  assert report.broken == (reason not in ORDINARY)


def test_every_broken_reason_is_tested():
  of_transcripts = {'no_turns', 'text_before_first_turn'}  # of HH files only
  seen = {reason for reason, _ in BAD_ROWS}
  assert stack_exchange.BROKEN - of_transcripts == seen - ORDINARY


@pytest.mark.parametrize(
  'reason, text',
  [
    ('empty_reply', ' \n'),
    ('marker_in_turn', 'a\n\nHuman: b'),
    ('too_long', 'x' * 1001),
  ],
)
def test_an_answer_can_be_left_out_alone(tmp_path, reason, text):
  path = write(tmp_path / 'a.jsonl', [spoilt(text=text), row(2)])
  questions, report = load(path, max_broken=0, max_chars=1000)
  assert [len(q.answers) for q in questions] == [3, 3]
  assert (report.dropped, report.dropped_answers) == ({}, {reason: 1})
  assert report.answers == 6
  data = json.loads(json.dumps(report.to_dict()))
  assert (data['kept'], data['dropped_answers']) == (2, {reason: 1})
  assert stack_exchange.QuestionReport.from_dict(data) == report


def test_huge_votes_are_numbers_too(tmp_path):
  path = write(tmp_path / 'a.jsonl', [spoilt(score=10**4000)])
  (question,), _ = load(path)
  assert question.answers[-1].score == 13288


FILES = {
  'empty.jsonl': (b'', 'is empty'),
  'no-rows.jsonl.gz': (gzip.compress(b''), 'has no rows'),
  'plain.jsonl.gz': (b'{"site": 1}\n', 'not gzip data'),
  'packed.jsonl': (gzip.compress(b'{}\n'), 'does not end in'),
  'cut.jsonl.gz': (gzip.compress(b'{"a": "b"}\n' * 99)[:-9], 'cut short'),
  'blank.jsonl': (b'\n\n', r'no usable row: 2 blank_line \(line 1\)'),
}


@pytest.mark.parametrize('name', FILES)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name):
  data, says = FILES[name]
  (tmp_path / name).write_bytes(data)
  with pytest.raises(InputError, match=f'{name}: .*{says}') as caught:
    load(tmp_path / name, max_broken=1.0)
  assert '\n' not in str(caught.value)


def test_no_file_and_a_missing_file_are_refused(tmp_path):
  with pytest.raises(InputError, match='none.jsonl.gz: no such file'):
    load(tmp_path / 'none.jsonl.gz')
  with pytest.raises(InputError, match='one file or more'):
    stack_exchange.load([])
  with pytest.raises(InputError, match='config.data.options.files: 1 is no pa'):
    stack_exchange.load((1,))


def test_too_many_broken_rows_are_refused(tmp_path):
  rows = [*map(row, range(8)), b'{"cut', spoilt(score=None), row(9, answers=[])]
  path = write(tmp_path / 'a.jsonl', rows)
  assert len(load(path, max_broken=0.2)[0]) == 8
  with pytest.raises(InputError, match=r'a.jsonl: 2 of 11 .*_json \(line 9\)'):
    load(path, max_broken=0.1)
  path = write(tmp_path / 'b.jsonl', [row(answers=[])] * 2)
  with pytest.raises(InputError, match='no usable row: 2 too_few_answers'):
    load(path)


JSON = st.recursive(
  st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=5,
)


@hypothesis.given(JSON, st.sampled_from(list(row())), st.booleans())
def test_no_json_is_an_unforeseen_error(value, key, is_of_answer):
  record = row()
  if is_of_answer:
    key = {'title': 'text', 'tags': 'accepted'}.get(key, 'score')
    record['answers'][0][key] = value
  else:
    record[key] = value
  report = stack_exchange.QuestionReport('x')
  rows = [hh_rows.Row(1, record, None)]
  list(hh_rows.convert_rows(rows, stack_exchange.as_question, report))
  assert report.rows == 1
  assert set(report.dropped) <= stack_exchange.BROKEN | ORDINARY


@pytest.fixture
def source(tmp_path):
  """Two files; the second one repeats a question of the first."""
  files = (
    write(tmp_path / 'a.jsonl', [*map(row, range(30)), b'{"cut']),
    write(tmp_path / 'b.jsonl.gz', [row(3), row(3, site='tisane.example')]),
  )
  return lambda **changes: sources.build(
    'stack_exchange', OPTIONS | {'files': files} | changes
  )


def test_splits_are_by_question(source):
  data = source()
  train, test = ({q.conversation for q in data.questions(s)} for s in SPLITS)
  assert train and test and not train & test and len(train | test) == 31
  assert 'tisane.example/3' in train | test
  for split, wanted in zip(SPLITS, (train, test), strict=True):
    assert {p.conversation for p in data.pairs(split)} == wanted
    assert len(data.pairs(split)) == 3 * len(wanted)
    assert len(data.prompts(split)) == len(data.documents(split)) == len(wanted)
    assert all(d.endswith('Assistant: v4') for d in data.documents(split))
  alone = source(files=source().files[:1])
  assert {q.conversation for q in alone.questions('test')} <= test


def test_forms(source):
  ranked = source().pairs('test')
  assert source(form='binarised').pairs('test') == web_pairs.binarise(ranked)
  assert source().pairs('test') == ranked


def test_the_report_counts_rows_answers_and_pairs(source):
  data = source(max_pairs_per_question=2)
  num_pairs = [len(data.pairs(split)) for split in SPLITS]
  report = json.loads(json.dumps(data.report()))
  first, second = (report[path] for path in data.files)
  assert (first['rows'], first['kept'], first['answers']) == (31, 30, 90)
  assert first['lines'] == {'bad_json': [31]}
  assert second['dropped'] == {'repeated_question': 1}
  counts = [report[f'pairs/{split}'] for split in SPLITS]
  assert [c['kept'] for c in counts] == num_pairs
  assert sum(c['kept'] for c in counts) == 31 * 2
  assert sum(c['over_limit'] for c in counts) == 31


def test_posts_stay_out_of_reports(source):
  assert all(prompt.is_sensitive for prompt in source().prompts('train'))
  assert {p.source for p in source().prompts('train')} <= {
    'tea.example', 'tisane.example'
  }  # fmt: skip


@pytest.mark.parametrize(
  'change, says',
  [
    ({'form': 'x'}, "'x' is none of .'ranked', 'binarised'"),
    ({'test_share': 0.0}, 'test_share is not in'),
    ({'test_share': 1.0}, 'test_share is not in'),
    ({'max_pairs_per_question': -1}, 'max_pairs_per_question is negative'),
  ],
)
def test_wrong_options_are_refused(source, change, says):
  with pytest.raises(InputError, match=says):
    source(**change)


def test_an_empty_split_is_refused(source):
  with pytest.raises(InputError, match='no test question: .* splits 31'):
    source(test_share=1e-6).pairs('test')
  files = source().files
  with pytest.raises(InputError, match='no usable row: .*repeated_question'):
    source(files=(files[1], files[1])).pairs('train')


# questions, answers and pairs with unequal votes, as the table of the folder
# has them; pairs with unequal scores, as counted once by other code
REAL = {
  'alcohol': (410, 1338, 2196, 1904),
  'coffee': (82, 197, 150, 134),
  'matheducators': (311, 1434, 3775, 2997),
  'conlang.meta': (29, 95, 166, 132),
  # the table has 74, 215, 274: two questions have one answer with text
  'datascience.meta': (72, 211, 273, 182),
}


def answer_pairs(questions):
  return [
    pair for q in questions for pair in itertools.combinations(q.answers, 2)
  ]


@pytest.mark.parametrize('name', REAL)
def test_real_files_agree_with_their_table(shared_data, name):
  path = shared_data / 'stackexchange' / f'{name}.jsonl.gz'
  questions, report = load(path, max_broken=0.0)
  pairs, counts = web_pairs.rank(questions, max_pairs=0)
  both = answer_pairs(questions)
  num_unequal = sum(a.votes != b.votes for a, b in both)
  assert (len(questions), report.answers, num_unequal, len(pairs)) == REAL[name]
  assert sum(counts.values()) == len(both)
  without_text = {'too_few_answers': 2} if name == 'datascience.meta' else {}
  assert (report.dropped, report.dropped_answers) == (without_text, {})
  for q in questions:
    site, _, number = q.conversation.rpartition('/')
    assert q.url == f'https://{site}/q/{number}'
    assert dialogue.num_turns(web_pairs.document(q)) == 2


def test_real_pairs_by_split(shared_data):
  folder = shared_data / 'stackexchange'
  files = tuple(str(folder / f'{name}.jsonl.gz') for name in REAL)
  options = dict(
    files=files, test_share=0.1, max_pairs_per_question=10, max_broken=0.0
  )  # fmt: skip
  ranked, tagged = (
    sources.build('stack_exchange', options | {'form': form})
    for form in web_pairs.FORMS
  )
  assert len(ranked.pairs('train')) + len(ranked.pairs('test')) == 3107
  report = ranked.report()
  left_out = [report[f'pairs/{split}']['over_limit'] for split in SPLITS]
  assert sum(left_out) == 2242
  for split in SPLITS:
    assert len(tagged.pairs(split)) == 2 * len(ranked.pairs(split))

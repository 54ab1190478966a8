"""Machine-made prompts through the command line, on the gold world."""

from collections import Counter
import json
import shutil

import jax
import pytest

from hh_jax import dialogue
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import hh_rlhf
from hh_jax.recipes import prompts


class Tries:
  """A model that says what it is told to; counts its batches."""

  def __init__(self, says):
    self.says, self.seen = says, []

  def __call__(self, attempts, texts):
    self.seen.append([*attempts])
    assert all(t.count(dialogue.HUMAN) == 3 + 1 for t in texts)
    said = [self.says(i) for i in attempts]
    return said, [True] * len(said)


@pytest.fixture
def fake(monkeypatch):
  """Replaces the model by a function of the attempt's number."""

  def put(says):
    tries = Tries(says)
    monkeypatch.setattr(prompts, 'make_draw', lambda *args: tries)
    return tries

  return put


def test_prompts_are_as_many_as_asked_for_and_read_again(
  fake, run_stage, tmp_path
):
  # of four attempts one is new, one is empty, two are the same
  fake(lambda i: ('', f' thing {i} x', ' same', ' same')[i % 4])
  done = run_stage('prompts')
  assert done.code == 0, done.err
  root = tmp_path / 'prompts'
  made, report = hh_rlhf.read_prompts(root / 'prompts.jsonl.gz')
  assert len(made) == report.kept == 10
  assert made[:3] == [
    f'\n\nHuman: {q}\n\nAssistant:' for q in ('thing 1 x', 'same', 'thing 5 x')
  ]
  summary = json.loads((root / 'summary.json').read_text())
  # batches of 8: 1 + 2 a batch, 1 more in the first
  assert (summary['prompts'], summary['attempts']) == (10, 40)
  assert summary['dropped/empty'] == 10 and summary['dropped/repeated'] == 19
  assert summary['kept_share'] == 11 / 40


def test_too_few_are_refused_with_the_reasons(fake, run_stage, tmp_path):
  fake(lambda i: f' what {i}' if i < 3 else ' 7')
  done = run_stage('prompts')
  assert done.code == 2
  assert 'only 3 of config.num_prompts 10 prompts after 64 attempts' in done.err
  assert "'no_letters': 61" in done.err
  assert not (tmp_path / 'prompts' / 'prompts.jsonl.gz').exists()


def test_a_run_of_too_few_attempts_goes_on_with_more(fake, run_stage, tmp_path):
  def says(i):
    return f' what {i}' if i % 3 else ' 7'

  tries = fake(says)
  done = run_stage('prompts', '--config.max_attempts=11')
  assert 'after 11 attempts (config.max_attempts 11; a larger' in done.err
  assert run_stage('prompts', '--config.max_attempts=13').code == 2
  assert tries.seen == [[*range(8)], [8, 9, 10], [11, 12]]
  assert 'seed is 0' in run_stage('prompts', '--config.seed=1').error
  assert run_stage('prompts').code == 0
  resumed = (tmp_path / 'prompts' / 'prompts.jsonl.gz').read_bytes()
  (tmp_path / 'prompts').rename(tmp_path / 'before')
  assert run_stage('prompts').code == 0
  whole = tmp_path / 'prompts' / 'prompts.jsonl.gz'
  assert whole.read_bytes() == resumed


def test_an_interrupted_run_goes_on(fake, run_stage, tmp_path):
  def says(i):
    return f' what {i}' if i % 3 else ' 7'

  class Killed(BaseException):
    pass

  def dies(i):
    if i == 12:
      raise Killed
    return says(i)

  fake(dies)
  with pytest.raises(Killed):
    run_stage('prompts')
  file = tmp_path / 'prompts' / 'attempts.jsonl'
  with open(file, 'a') as f:
    f.write('{"prompts": ["torn')
  tries = fake(says)
  assert run_stage('prompts').code == 0
  assert tries.seen == [[*range(8, 16)]]
  resumed = (tmp_path / 'prompts' / 'prompts.jsonl.gz').read_bytes()
  (tmp_path / 'prompts').rename(tmp_path / 'before')
  fake(says)
  assert run_stage('prompts').code == 0
  whole = tmp_path / 'prompts'
  assert (whole / 'prompts.jsonl.gz').read_bytes() == resumed
  assert (whole / 'attempts.jsonl').read_bytes() == (
    tmp_path / 'before' / 'attempts.jsonl'
  ).read_bytes()


def test_what_a_model_says_does_not_depend_on_the_batch(
  chain, run_stage, tmp_path
):
  """One that has learnt nothing: whatever it says is counted once."""
  found = []
  for size in (8, 12):
    done = run_stage(
      'prompts',
      '--config.max_attempts=14',
      '--config.top_p=0.9',
      f'--config.batch_size={size}',
    )
    assert 'attempts' in done.err
    file = tmp_path / 'prompts' / 'attempts.jsonl'
    batches = [json.loads(line) for line in file.read_text().splitlines()]
    assert [batch['attempts'] for batch in batches] == [size, 14 - size]
    prompts_ = [p for batch in batches for p in batch['prompts']]
    dropped = sum((Counter(b['dropped']) for b in batches), Counter())
    assert len(prompts_) + dropped.total() == 14
    found.append((prompts_, dropped))
    shutil.rmtree(tmp_path / 'prompts')
  assert found[0] == found[1]


def test_a_query_ends_with_its_line_or_turn(chain):
  tokenizer = tokenizer_lib.Tokenizer.load(
    chain.path / 'tokenizer' / 'tokenizer.model'
  )
  distribution = prompts.make_distribution(
    tokenizer, temperature=1.0, top_p=1.0
  )
  ends = [tokenizer.eos_id, *tokenizer.encode('\n\nHuman:\n\nAssistant:\n')]
  assert len(ends) == 4 and {*distribution.stop} == {*ends}
  logits = jax.numpy.zeros((1, tokenizer.vocab_size))
  probs = jax.numpy.exp(distribution.log_softmax(logits))[0]
  for token in (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eoc_id):
    assert probs[token] == 0


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('num_prompts=0', 'config.num_prompts 0 is not 1 or more'),
    ('max_attempts=9', 'config.max_attempts 9 is less than num_prompts 10'),
    ('top_p=0', 'config.top_p 0.0 is not between'),
    ('top_p=1.5', 'config.top_p 1.5 is not between'),
    ('num_shown=-1', 'config.num_shown -1 is not between 0 and inf'),
    ('temperature=0', 'config.temperature 0.0 is not between'),
    ('num_shown=1000', 'config.num_shown is 1000, there are'),
    ('batch_size=6', 'config.batch_size 6 is not divisible by fsdp=4'),
    ('init_from=', 'config.init_from is empty'),
  ],
)
def test_bad_settings_are_refused_in_one_line(run_stage, flag, message):
  assert message in run_stage('prompts', f'--config.{flag}').error

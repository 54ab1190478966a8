"""Fine-tuning on replies through the command line, on the gold world."""

import gzip
import json

import ml_collections
import numpy as np
import pytest

from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import dialogues, examples, sources
from hh_jax.data.dialogues import Dialogue
from hh_jax.data.hh_report import BadRow
from hh_jax.errors import InputError
from hh_jax.recipes import common, pm, sft
from tests.recipes import chain as chain_lib
from tests.recipes import tiny

PROMPT = '\n\nHuman: hi there\n\nAssistant:'


def write(path, rows):
  lines = [json.dumps(row) for row in rows]
  path.write_bytes(gzip.compress('\n'.join([*lines, '']).encode()))
  return path


def test_only_the_reply_and_its_end_are_targets(chain):
  tokenizer = tokenizer_lib.Tokenizer.load(
    chain.path / 'tokenizer' / 'tokenizer.model'
  )
  given = [
    Dialogue(PROMPT, ' yes', 'a'),
    Dialogue(PROMPT, ' no , thanks', 'b'),
    Dialogue(PROMPT, ' x' * 40, 'c'),  # no room for a token of the prompt
    Dialogue(f'\n\nHuman: {"so " * 40}\n\nAssistant:', ' no', 'd'),
  ]
  rows, counts = dialogues.pack(given, tokenizer, row_length=32)
  assert counts == {'kept': 3, 'prompt_cut': 1, 'dropped_over_long': 1}
  learnt = set()
  for tokens, segments, mask in zip(
    rows.tokens, rows.segments, rows.loss_mask, strict=True
  ):
    for segment in range(1, segments.max() + 1):
      its = mask * (segments == segment) > 0
      ids = tokens[its].tolist()
      assert ids[-1] == tokenizer.eos_id
      learnt.add(tokenizer.decode(ids))
      # what is not learnt is the prompt's end, down to its last marker
      before = tokens[(segments == segment) & ~its]
      assert before[-1] == tokenizer.assistant_id
  assert learnt == {' yes', ' no , thanks', ' no'}
  with pytest.raises(InputError, match='no reply fits a row of 8 tokens'):
    dialogues.pack(given[2:3], tokenizer, row_length=8)


@pytest.mark.parametrize(
  ('row', 'reason'),
  [
    ({'prompt': PROMPT}, 'missing_key'),
    ({'prompt': PROMPT, 'reply': ' \n'}, 'empty_reply'),
    ({'prompt': 'hi', 'reply': ' a'}, 'no_turns'),
    ({'prompt': PROMPT + ' a', 'reply': ' a'}, 'not_a_prompt'),
    ({'prompt': PROMPT, 'reply': ' a' + PROMPT}, 'marker_in_turn'),
  ],
)
def test_a_row_that_is_no_dialogue_is_dropped(row, reason):
  with pytest.raises(InputError) as error:
    dialogues.as_dialogue(row, max_chars=100)
  assert error.value.reason == reason


def test_a_dialogue_is_there_once():
  a, b = (Dialogue(PROMPT, reply, 'key') for reply in (' a', ' b'))
  assert dialogues.distinct([b, a, b, a]) == [b, a]
  pair = examples.Pair(PROMPT, ' a', ' b', 'key', 'source')
  assert dialogues.chosen([pair]) == [a]
  assert issubclass(BadRow, InputError)


def test_chosen_replies_become_likelier(run_stage, tmp_path):
  done = run_stage('sft')
  assert done.code == 0, done.err
  path = tmp_path / 'sft'
  summary = json.loads((path / 'summary.json').read_text())
  assert summary['eval/loss'] < summary['eval/loss_before'] - 0.1
  report = json.loads((path / 'data_report.json').read_text())
  kept, repeated = report['train']['kept'], report['train']['repeated']
  dropped = report['train']['dropped_over_long']
  assert summary['train/dialogues'] == kept
  assert kept + repeated + dropped == 60
  lines = chain_lib.rows(path / 'metrics.jsonl')
  seen = [m['train/tokens'] for m in lines if 'train/tokens' in m]
  assert len(seen) == summary['train/steps'] and (np.diff(seen) > 0).all()
  # what starts from it, and what does not
  start = f'--config.init_from={path}'
  link = {'init_from': str(path)}
  for kinds in (pm.INIT_KINDS['pm'], ()):  # (): ppo, distill, sft
    there = common.read_link(link, 'init_from', kinds=kinds)
    assert there['recipe'] == 'sft'
  error = run_stage('pmp', start).error
  assert f'{path} is a sft run, not a pretrain run' in error


def test_replies_come_from_files_and_what_is_wrong_is_said(
  run_stage, tmp_path, chain
):
  prompts = [f'\n\nHuman: tell me {w}\n\nAssistant:' for w in 'abcdefgh']
  good = [{'prompt': p, 'reply': ' yes .', 'score': 1.0} for p in prompts]
  path = write(tmp_path / 'best.jsonl.gz', [*good, {'prompt': PROMPT}])
  flags = (f'--config.files=("{path}",)', '--config.num_epochs=2')
  error = run_stage('sft', *flags).error
  assert '1 of 9 rows are broken' in error and 'missing_key (line 9)' in error
  write(path, [*good, good[0]])
  done = run_stage('sft', *flags)
  assert done.code == 0, done.err
  report = json.loads((tmp_path / 'sft' / 'data_report.json').read_text())
  assert report['train']['kept'] == 8 and report['train']['repeated'] == 1
  assert report['source'][str(path)]['kept'] == 9


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('files=("nowhere.jsonl.gz",)', 'nowhere.jsonl.gz: no such file'),
    ('num_epochs=0', 'config.num_epochs 0 is not 1 or more'),
    ('init_from=', 'config.init_from is empty'),
    ('batch_size=6', 'config.batch_size 6 is not divisible by fsdp=4'),
    ('row_length=2', 'no reply fits a row of 2 tokens'),
  ],
)
def test_bad_settings_are_refused_in_one_line(run_stage, flag, message):
  assert message in run_stage('sft', f'--config.{flag}').error


def test_replies_to_test_conversations_are_warned_of_or_left_out(
  run_stage, tmp_path
):
  test = sources.build(
    'gold_world', tiny.get_config('sft').data.options.to_dict()
  ).pairs('test')
  path = write(
    tmp_path / 'best.jsonl.gz',
    [{'prompt': p.prompt, 'reply': p.chosen} for p in test],
  )
  done = run_stage(
    'sft', f'--config.files=("{path}",)', '--config.drop_overlap=true'
  )
  assert done.code == 2 and 'there are no test pairs left' in done.err
  assert 'of conversations that the model was trained on: left out' in done.err


def test_replies_with_the_tags_of_pmp_are_refused():
  web = tiny.get_config('pmp').data
  assert web.options.form == 'binarised'
  with pytest.raises(InputError, match='puts tags into replies'):
    sft.read(ml_collections.ConfigDict({'data': web}))


def test_a_run_that_is_no_language_model_is_refused(chain, run_stage):
  error = run_stage('sft', f'--config.init_from={chain.path / "pm"}').error
  assert 'is a pm run, not a pretrain or distill or sft run' in error

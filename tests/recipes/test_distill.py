"""Context distillation through the command line, on the gold world."""

import json

import numpy as np
import pytest

from hh_jax.data import distillation
from hh_jax.recipes import common
from tests.recipes import chain as chain_lib


@pytest.fixture(scope='module')
def distilled(chain, tmp_path_factory, cache_dir):
  """A finished run, whose teacher is its start."""
  path = tmp_path_factory.mktemp('distill') / 'run'
  with chain_lib.recipe_settings(cache_dir):
    done = chain_lib.run(
      'distill',
      f'--workdir={path}',
      *chain.links('tokenizer', 'init_from=pretrain', 'teacher=pretrain'),
      size='distill',
    )
  assert done.code == 0, done.err
  return path


def summary_of(path):
  return json.loads((path / 'summary.json').read_text())


def stored(path):
  return chain_lib.tree_hash(path / 'teacher')


def test_a_run_closes_some_of_the_gap(distilled):
  summary = summary_of(distilled)
  assert summary['eval/kl'] < summary['eval/kl_before']
  gap = 1 - summary['eval/kl'] / summary['eval/kl_before']
  assert summary['eval/gap_closed'] == pytest.approx(gap) and gap > 0.3
  assert summary['eval/exact_kl'] < summary['eval/exact_kl_before']
  assert 0 < summary['teacher/remainder'] < 1
  assert (summary['train/texts'], summary['test/texts']) == (40, 8)
  first, *_, last = [
    m for m in chain_lib.rows(distilled / 'metrics.jsonl') if 'eval/kl' in m
  ]
  assert (first['step'], last['step']) == (0, 6)
  assert first['eval/kl'] == summary['eval/kl_before']


def test_the_rate_falls_to_nearly_nothing(distilled):
  lines = chain_lib.rows(distilled / 'metrics.jsonl')
  rates = [m['train/lr'] for m in lines if 'train/lr' in m]
  np.testing.assert_allclose(rates, 1e-3 * (1 - np.arange(6) / 6), rtol=1e-5)


def test_an_interrupted_pass_ends_with_the_same_bytes(
  distilled, run_stage, tmp_path, monkeypatch
):
  class Killed(BaseException):
    pass

  write, blocks = distillation.Store.write, []

  def dies(self, start, block):
    blocks.append(start)
    if len(blocks) == 3:  # half a block on disk that nothing counts
      torn = {k: v[: len(v) // 2] + 1 for k, v in block.items()}
      write(self, start, torn)
      (self._path / 'done.json').write_text(json.dumps({'rows': start}))
      raise Killed
    write(self, start, block)

  monkeypatch.setattr(distillation.Store, 'write', dies)
  with pytest.raises(Killed):
    run_stage('distill')
  monkeypatch.undo()
  assert blocks == [0, 4, 8]
  assert stored(tmp_path / 'distill') != stored(distilled)
  done = run_stage('distill')
  assert done.code == 0, done.err
  assert stored(tmp_path / 'distill') == stored(distilled)
  chain_lib.assert_same_checkpoint(tmp_path / 'distill', distilled)


def test_students_share_a_stored_pass(distilled, run_stage, tmp_path):
  """As all sizes of the paper share one teacher's."""
  flags = (f'--config.stored={distilled}', '--config.num_steps=3')
  done = run_stage('distill', *flags, '--config.seed=0')
  assert done.code == 0, done.err
  assert not (tmp_path / 'distill' / 'teacher').exists()
  ours, its = summary_of(tmp_path / 'distill'), summary_of(distilled)
  assert ours['eval/kl_before'] == its['eval/kl_before']


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('stored_dtype=float16', 'holds another pass: fields differ'),
    ('data.options.seed=1', 'holds'),  # other texts, maybe as many rows
    ('context=hhh', 'another pass: context, context_tokens differ'),
    ('num_texts=4', 'another pass: rows differ'),
  ],
)
def test_the_pass_of_another_run_is_refused(
  distilled, run_stage, flag, message
):
  done = run_stage(
    'distill', f'--config.stored={distilled}', f'--config.{flag}'
  )
  assert done.code == 2 and message in done.err


def test_a_run_without_a_pass_is_refused(run_stage, chain):
  error = run_stage('distill', f'--config.stored={chain.path / "pm"}').error
  assert 'has no pass of a teacher' in error


def test_a_preference_model_and_a_policy_start_from_it(
  distilled, run_stage, chain
):
  start = f'--config.init_from={distilled}'
  done = run_stage('pm', start, '--config.data.options.num_pairs=16')
  assert done.code == 0, done.err
  link = {'init_from': str(distilled)}  # of ppo
  assert common.read_link(link, 'init_from')['recipe'] == 'distill'
  error = run_stage('pmp', start).error
  assert f'{distilled} is a distill run, not a pretrain run' in error
  error = run_stage('distill', f'--config.teacher={chain.path / "pm"}').error
  assert 'is a pm run, not a pretrain run' in error


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('context=', 'want one of config.context'),
    ('context=hh', "config.context 'hh' is none of ('hhh', 'gold_world')"),
    ('context_file=nowhere', 'want one of config.context'),
    ('stored_dtype=int8', "config.stored_dtype 'int8' is none of"),
    ('top_k=0', 'config.top_k 0 is not 1 or more'),
    ('top_k=4000', 'config.top_k 4000 is not between 1 and 400'),
    ('answers_share=1.5', 'config.answers_share 1.5 is not between 0 and 1'),
    ('num_texts=1000', 'the mixture needs 500 answers, there are 20'),
    ('batch_size=6', 'config.batch_size 6 is not divisible by fsdp=4'),
    ('exact_rows=3', 'config.exact_rows 3 is not divisible by fsdp=4'),
    ('init_from=', 'config.init_from is empty'),
    ('teacher=', 'config.teacher is empty'),
    ('teacher_model.size=mini', 'holds a model with num_layers 2'),
    ('teacher_model.remat=all', "config.teacher_model: remat 'all' is none"),
  ],
)
def test_bad_settings_are_refused_in_one_line(run_stage, flag, message):
  assert message in run_stage('distill', f'--config.{flag}').error

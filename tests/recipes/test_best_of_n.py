"""Best of n as a command: what it writes, its order of chunks, refusals."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from hh_jax.evals import best_of_n as evals
from hh_jax.recipes import best_of_n, policy_samples
from tests.recipes import chain as chain_lib

SCORES = ('pm_score', 'heldout_pm_score', 'gold_score')


@pytest.fixture(scope='session')
def flags(chain):
  links = ('tokenizer', 'run=pretrain', 'pm', 'heldout_pm')
  return chain.links(*links)


@pytest.fixture(scope='module')
def test_run(flags, cache_dir, tmp_path_factory) -> pathlib.Path:
  """Best of 4 for 5 test prompts."""
  path = tmp_path_factory.mktemp('best_of_n') / 'test'
  with chain_lib.recipe_settings(cache_dir):
    done = chain_lib.run(
      'best_of_n', f'--workdir={path}', *flags, size='best_of_n'
    )
  assert done.code == 0, done.err
  return path


def arrays(path):
  with np.load(path / 'samples.npz') as file:
    return dict(file)


def test_the_summary_is_that_of_the_samples(test_run):
  summary = json.loads((test_run / 'summary.json').read_text())
  values = arrays(test_run)
  assert values['prompt'].shape == (5,)
  assert (summary['samples/prompts'], summary['samples/per_prompt']) == (5, 4)
  for name in SCORES:
    assert values[name].shape == (5, 4) and values[name].dtype == np.float64
    curve = evals.curve(values['ranking'], values[name])
    assert summary[f'curve/{name}'] == curve.report()
    assert summary[f'best_of_4/{name}_gain'] == curve.gain[3]
    assert summary[f'within_prompt_std/{name}'] > 0
  # tiny.py's penalty of PPO: one PM unit for a reply that is cut
  assert 0 < values['stop_rate'].mean() < 1
  penalty = 1.0 * (1 - values['stop_rate'])
  np.testing.assert_allclose(
    values['ranking'], values['pm_score'] - penalty, rtol=1e-12
  )
  best = values['ranking'].argmax(axis=1)[:, None]
  held_out = np.take_along_axis(values['heldout_pm_score'], best, axis=1)
  assert summary['best_of_4/heldout_pm_score_mean'] == pytest.approx(
    held_out.mean()
  )
  assert summary['best_of_1/length'] == pytest.approx(values['length'].mean())
  assert summary['kl'][3] == pytest.approx(np.log(4) - 3 / 4)
  assert summary['log_k'][3] == pytest.approx(np.log(4))
  # 4 replies to a prompt are not one reply
  assert np.ptp(values['pm_score'], axis=1).min() > 0


def test_one_line_a_prompt_in_words(test_run):
  values = arrays(test_run)
  lines = chain_lib.rows(test_run / 'samples.jsonl')
  assert [line['index'] for line in lines] == list(range(5))
  for row, line in enumerate(lines):
    assert line['shown'] and line['prompt'].endswith('\n\nAssistant:')
    best = values['ranking'][row].argmax()
    assert line['best_pm_score'] == values['pm_score'][row, best]
    assert line['first_pm_score'] == values['pm_score'][row, 0]
  assert not (test_run / 'chunks').exists()
  assert not (test_run / 'best.jsonl.gz').exists()  # held-out prompts


def test_replies_are_the_same_in_any_batch_and_chunk(
  test_run, run_stage, tmp_path
):
  """Also among other prompts: 3 of the 5 here are spread over the same 16."""
  done = run_stage(
    'best_of_n', '--config.batch_size=12', '--config.chunk_prompts=2',
    '--config.num_prompts=3',
  )  # fmt: skip
  assert done.code == 0, done.err
  here, there = arrays(tmp_path / 'best_of_n'), arrays(test_run)
  shared = np.intersect1d(here['prompt'], there['prompt'])
  assert len(shared) >= 2
  for name in ('length', *SCORES):
    found = [v[name][np.isin(v['prompt'], shared)] for v in (here, there)]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


def test_a_killed_run_goes_on_after_its_last_chunk(
  test_run, flags, tmp_path, monkeypatch
):
  """And ends as the run that nothing interrupted."""
  calls, sample = [], policy_samples.Sampler.__call__

  def dies(self, *args):
    calls.append(args[-1].tolist())
    if len(calls) == 2:
      raise KeyboardInterrupt
    return sample(self, *args)

  monkeypatch.setattr(policy_samples.Sampler, '__call__', dies)
  command = ('best_of_n', f'--workdir={tmp_path / "run"}', *flags)
  assert chain_lib.run(*command, size='best_of_n').code == 130
  assert len(list((tmp_path / 'run' / 'chunks').iterdir())) == 1
  done = chain_lib.run(*command, size='best_of_n')
  assert done.code == 0, done.err
  assert [len(ids) for ids in calls] == [3, 2, 2]  # the first one once
  for name in ('samples.npz', 'samples.jsonl', 'summary.json'):
    one, other = (p / name for p in (tmp_path / 'run', test_run))
    if name.endswith('npz'):
      for key, values in arrays(test_run).items():
        np.testing.assert_array_equal(arrays(tmp_path / 'run')[key], values)
    else:
      assert one.read_bytes() == other.read_bytes()


def test_rejection_sampling_of_a_policy_writes_dialogues(
  chain, run_stage, tmp_path
):
  """An ensemble ranks; the replies are those of the PPO run."""
  done = run_stage(
    'best_of_n', *chain.links('run=ppo'), '--config.split=train',
    '--config.heldout_pm=', '--config.num_prompts=3',
    f"--config.ensemble.others=('{chain.path / 'heldout_pm'}',)",
    '--config.ensemble.how=worst',
  )  # fmt: skip
  assert done.code == 0, done.err
  path = tmp_path / 'best_of_n'
  assert set(arrays(path)) == {
    'prompt', 'pm_score', 'gold_score', 'length', 'stop_rate', 'ranking',
    'spelt_marker_rate',
  }  # fmt: skip
  with gzip.open(path / 'best.jsonl.gz', 'rt') as file:
    best = [json.loads(line) for line in file]
  shown = chain_lib.rows(path / 'samples.jsonl')
  assert len(best) == 3
  for line, sample in zip(best, shown, strict=True):
    assert line['reply'] == sample['best']
    assert line['pm_score'] == sample['best_pm_score']
    assert line['prompt'] == sample['prompt'] and line['best_of'] == 4
    assert '\n\nHuman:' not in line['reply']


def test_texts_of_sensitive_prompts_are_not_shown():
  prompt = best_of_n.Prompt('\n\nHuman: x\n\nAssistant:', 'red', True)
  values = {
    'pm_score': np.array([[3.0, 2.0, 2.0]]),
    'ranking': np.array([[1.0, 2.0, 2.0]]),
  }
  sample, line = best_of_n.describe(prompt, values, 0, ['a', 'b', 'c'])
  assert (sample['prompt'], sample['first'], sample['best']) == ('', '', '')
  assert sample['best_pm_score'] == 2 and not sample['shown']
  # the first of two equals; training data keeps its text
  assert (line['prompt'], line['reply']) == (prompt.text, 'b')


REFUSED = {
  'num_samples=1': 'config.num_samples 1 is not between 2 and',
  'no_stop_penalty=-1.0': 'config.no_stop_penalty -1.0 is not between 0 and',
  'num_prompts=1': 'config.num_prompts 1 is not between 2 and',
  'ks=(1,5)': 'config.ks: 5 is no whole number from 1 to num_samples 4',
  'ks=()': 'config.ks is empty',
  'ks=(0,)': 'config.ks: 0 is no whole number',
  'split=valid': "config.split 'valid' is none of ('train', 'test')",
  'batch_size=6': 'config.batch_size 6 is not divisible by fsdp=4',
  'chunk_prompts=0': 'config.chunk_prompts 0 is not 1 or more',
  'temperature=0.0': 'config.temperature 0.0 is not between 1e-06 and',
  'max_prompt=4': 'no prompt fits config.max_prompt 4',
  'max_reply=0': 'config.max_reply 0 is not 1 or more',
  'run=': 'config.run is empty',
  'run=nowhere': 'config.run nowhere is no finished run',
  'pm=': 'config.pm is empty',
  'pm_model.size=mini': 'holds a model with num_layers 2, this run asks for 3',
  'model.size=mini': 'holds a model with num_layers 2, this run asks for 3',
  'seed=-1': 'config.seed -1',
}


@pytest.mark.parametrize('flag', REFUSED)
def test_a_bad_setting_is_refused_and_can_be_corrected(
  run_stage, tmp_path, flag
):
  done = run_stage('best_of_n', f'--config.{flag}')
  assert REFUSED[flag] in done.error
  assert not (tmp_path / 'best_of_n').exists()


def test_runs_that_do_not_fit_are_refused(chain, run_stage, tmp_path):
  error = run_stage('best_of_n', *chain.links('run=pm')).error
  assert 'is a pm run, not a pretrain or distill or sft or ppo run' in error
  error = run_stage('best_of_n', *chain.links('heldout_pm=pm')).error
  assert 'is a PM that trains or ranks' in error
  assert chain_lib.run('tokenizer', f'--workdir={tmp_path / "other"}',
    '--config.data.options.seed=9', size='tokenizer').code == 0  # fmt: skip
  flag = f'--config.tokenizer={tmp_path / "other"}'
  assert (
    'was trained with another tokenizer' in run_stage('best_of_n', flag).error
  )


@pytest.mark.parametrize(
  ('score', 'says'),
  [
    (np.nan, 'error: pm_score of a reply to prompt 0 is not finite'),
    (1.5, 'error: all replies have the PM score 1.5: no ranking'),
  ],
)
def test_scores_that_rank_nothing_are_refused(
  run_stage, monkeypatch, score, says
):
  sample = policy_samples.Sampler.__call__

  def broken(self, *args):
    values, replies = sample(self, *args)
    values['pm_score'][:] = score
    return values, replies

  monkeypatch.setattr(policy_samples.Sampler, '__call__', broken)
  assert says in run_stage('best_of_n').err


def test_chunks_are_gone_but_the_run_is_known(test_run, flags):
  before = chain_lib.tree_hash(test_run)
  done = chain_lib.run(
    'best_of_n', f'--workdir={test_run}', *flags, size='best_of_n'
  )
  assert done.code == 0 and chain_lib.tree_hash(test_run) == before

"""Preference models by other objectives, and from web comparisons."""

import json
import math

import pytest

from tests.recipes import chain as chain_lib


def summary(path):
  return json.loads((path / 'summary.json').read_text())


def test_pmp_then_fine_tuning(chain, run_stage, tmp_path):
  start = f'--config.init_from={chain.path / "pretrain"}@4'
  assert run_stage('pmp', start).code == 0
  pmp = summary(tmp_path / 'pmp')
  lines = chain_lib.rows(tmp_path / 'pmp' / 'metrics.jsonl')
  assert any('train/lm_loss' in line for line in lines)
  last = lines[-1]['step']
  done = run_stage('pm', f'--config.init_from={tmp_path / "pmp"}@{last}')
  assert done.code == 0, done.err
  first, *_ = chain_lib.rows(tmp_path / 'pm' / 'metrics.jsonl')
  assert abs(first['eval/loss'] - math.log(2)) > 1e-4  # the head has learnt
  assert pmp['eval/pairs'] > 0


def test_pmp_does_not_start_from_a_preference_model(run_stage, chain):
  done = run_stage('pmp', f'--config.init_from={chain.path / "pm"}')
  assert done.code == 2
  assert 'is a pm run, not a pretrain run' in done.err


def test_imitation_ranks_by_log_probability(run_stage, tmp_path):
  done = run_stage(
    'pm', '--config.objective=imitation', '--config.rank_by=mutual_information'
  )
  assert done.code == 0, done.err
  found = summary(tmp_path / 'pm')
  by = {
    name: found[f'eval/rank_by_{name}/accuracy']
    for name in ('mean', 'sum', 'mutual_information')
  }
  assert found['eval/accuracy'] == by['mutual_information']
  assert len(set(by.values())) > 1
  done = run_stage('ppo', f'--config.pm={tmp_path / "pm"}')
  assert done.code == 2
  assert 'is a language model: it has no score' in done.err


def test_binary_discrimination_runs(run_stage, tmp_path):
  done = run_stage('pm', '--config.objective=binary')
  assert done.code == 0, done.err
  rows = chain_lib.rows(tmp_path / 'pm' / 'metrics.jsonl')
  losses = [r['train/loss'] for r in rows if 'train/loss' in r]
  assert losses[0] == pytest.approx(0.693147, abs=1e-5)


def test_weights_and_mixtures_change_the_pairs(run_stage, tmp_path):
  done = run_stage(
    'pm',
    '--config.mixture.total=12',
    '--config.mixture.helpful_share=0.75',
    '--config.harmless_weight=0.5',
  )
  assert done.code == 0, done.err
  report = json.loads((tmp_path / 'pm' / 'data_report.json').read_text())
  train = report['train']
  assert train['kept'] + train['dropped_over_long'] == 12


@pytest.mark.parametrize(
  'flag, said',
  [
    ('objective=elo', "config.objective 'elo' is none of"),
    ('rank_by=vibes', "config.rank_by 'vibes' is none of"),
    ('label_smoothing=1.5', 'label_smoothing 1.5 is not between'),
    ('lm_coef=-1.0', 'lm_coef -1.0 is not between'),
    ('mixture.total=9999', 'the mixture needs'),
  ],
)
def test_options_out_of_range_are_refused(run_stage, tmp_path, flag, said):
  done = run_stage('pm', f'--config.{flag}')
  assert done.code == 2 and said in done.err
  assert not (tmp_path / 'pm').exists()

"""The chain leaves what its reader needs; the same seed, the same numbers."""

import json
import time

import pytest

from hh_jax import metrics as metrics_lib
from hh_jax.errors import InputError
from hh_jax.recipes import pipeline, report, report_data
from tests.recipes import chain as chain_lib

TRAINED = ('pretrain', 'pm', 'heldout_pm', 'ppo')


def read(path):
  return json.loads(path.read_text())


def test_every_stage_leaves_its_config_and_summary(chain):
  for stage in ('.', *pipeline.STAGES):
    config = read(chain.path / stage / 'config.json')
    assert {'python', 'jax', 'jaxlib', 'flax', 'optax', 'numpy'} <= set(
      config['versions']
    )
    assert 'git_commit' in config and config['started'].endswith('+00:00')
    assert read(chain.path / stage / 'summary.json')
  assert read(chain.path / 'ppo' / 'config.json')['config']['pm'] == str(
    chain.path / 'pm'
  )


@pytest.mark.parametrize('stage', TRAINED)
def test_every_trained_stage_leaves_metrics_and_a_checkpoint(chain, stage):
  run = chain.path / stage
  lines = metrics_lib.read_metrics(run / 'metrics.jsonl')
  group = 'ppo' if stage == 'ppo' else 'train'
  steps = [m['step'] for m in lines if f'{group}/loss' in m]
  evaluated = [m['step'] for m in lines if any('eval/' in k for k in m)]
  last = steps[-1]
  assert steps == list(range(1, last + 1))
  assert evaluated == sorted({*range(0, last, 2), last})
  assert (run / 'checkpoints').is_dir() and (run / 'model.json').is_file()
  state, _ = chain_lib.checkpoint(run)
  updates = last * 4 if stage == 'ppo' else last
  assert state[1]['step'] == updates


def test_the_summary_has_the_numbers_of_all_stages(chain):
  summary = read(chain.path / 'summary.json')
  for stage in pipeline.STAGES:
    for name, value in read(chain.path / stage / 'summary.json').items():
      assert summary[f'{stage}/{name}'] == value


def test_the_last_line_is_the_report_and_progress_is_on_stderr(chain):
  assert chain.done.out == f'{chain.path / "report" / "report.html"}\n'
  page = (chain.path / 'report' / 'report.html').read_text()
  assert page.startswith('<!doctype html>') or page.startswith('<!DOCTYPE html')
  for name in TRAINED[:2]:
    assert f'{name} ' in chain.done.err
  tokenizer = chain.path / 'tokenizer'
  numbers = read(tokenizer / 'summary.json')
  line = (
    f'hh_jax: {tokenizer / "tokenizer.model"}: {numbers["vocab_size"]} tokens, '
    f'{numbers["eval/chars_per_token"]:.3g} characters a token'
  )
  assert line in chain.done.err.splitlines()


def test_the_policy_run_logs_all_that_the_report_draws(chain):
  rows = metrics_lib.read_metrics(chain.path / 'ppo' / 'metrics.jsonl')
  logged = set().union(*rows)
  panels = report.POLICY_PANELS + report.REPLY_PANELS + report.PPO_PANELS
  assert {name for *names, _ in panels for name in names} <= logged


def test_a_finished_chain_returns_at_once_and_trains_nothing(
  chain, monkeypatch
):
  def untouched():
    hashes = chain_lib.tree_hash(chain.path)
    return {k: v for k, v in hashes.items() if not k.startswith('report/')}

  for stage in ('pretrain', 'pm', 'ppo'):
    module = pipeline.STAGES[stage][0]
    monkeypatch.delattr(module.common, 'load_tokenizer', raising=False)
  before, start = untouched(), time.monotonic()
  again = chain_lib.run('pipeline', f'--workdir={chain.path}')
  assert (again.code, again.out, again.err) == (0, chain.done.out, '')
  assert time.monotonic() - start < 20  # the report is drawn again
  assert untouched() == before


def test_another_seed_gives_other_numbers(chain, run_stage, tmp_path):
  assert run_stage('pretrain', '--config.seed=1').code == 0
  name = 'pretrain/summary.json'
  assert read(tmp_path / name).keys() == read(chain.path / name).keys()
  assert (tmp_path / name).read_bytes() != (chain.path / name).read_bytes()


@pytest.mark.parametrize(
  ('stage', 'metric', 'step'), [('pm', 'train/loss', 5), ('ppo', 'ppo/loss', 3)]
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
  chain, run_stage, tmp_path, monkeypatch, stage, metric, step
):
  """Ctrl-C before that step is written; the newest checkpoint is older.

  The run that was not stopped is the chain's, so this also says that the same
  seed gives the same bits twice.
  """
  write = metrics_lib.MetricsWriter.write

  def stopping(self, at, metrics):
    if at == step and metric in metrics:
      raise KeyboardInterrupt
    write(self, at, metrics)

  with monkeypatch.context() as patched:
    patched.setattr(metrics_lib.MetricsWriter, 'write', stopping)
    stopped = run_stage(stage)
  assert (stopped.code, stopped.out) == (130, '')
  assert stopped.err.endswith('interrupted; the same command resumes\n')
  assert not (tmp_path / stage / 'summary.json').exists()
  assert run_stage(stage).code == 0

  one, other = tmp_path / stage, chain.path / stage
  for name in ('metrics.jsonl', 'samples.jsonl', 'eval.jsonl'):
    if (other / name).exists():
      assert chain_lib.rows(one / name) == chain_lib.rows(other / name)
  name = 'summary.json'
  assert (one / name).read_bytes() == (other / name).read_bytes()
  chain_lib.assert_same_checkpoint(one, other)


def test_a_report_is_about_the_pms_that_the_policy_saw(chain):
  runs = {name: chain.path / name for name in ('pm', 'heldout_pm', 'ppo')}
  swapped = runs | {'pm': runs['heldout_pm'], 'heldout_pm': ''}
  for wrong, name in ((swapped, 'pm'), (runs | {'heldout_pm': runs['pm']},
                                        'heldout_pm')):  # fmt: skip
    folders = {'pretrain': '', 'best_of_n': ''} | wrong
    with pytest.raises(InputError, match=f'config.{name} is .*, that of'):
      report_data.load({name: str(path) for name, path in folders.items()})

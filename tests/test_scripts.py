"""Benchmarks, experiments and notebooks run; their numbers are not judged."""

import importlib
import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def fake_run(folder, offset=0.0):
  """A finished pipeline directory, as far as plots and notebooks read it."""
  (folder / 'ppo').mkdir(parents=True)
  lines = [
    {
      'step': i, 'time': i, 'eval/kl': kl, 'eval/pm_score': kl**0.5 + offset,
      'eval/heldout_pm_score': kl**0.5, 'eval/gold_score': 1 + kl**0.5,
    }
    for i, kl in enumerate((0.0, 1.0, 4.0, 9.0))
  ]  # fmt: skip
  lines.insert(1, {'step': 0, 'time': 0, 'rollout/kl': 0.0})
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'ppo' / 'metrics.jsonl').write_text(text)
  names = ('pm/eval/accuracy', 'ppo/gain/pm_score', 'ppo/last/kl')
  (folder / 'summary.json').write_text(json.dumps(dict.fromkeys(names, 1.0)))


def fake_sweep(folder):
  """What a sweep of two learning rates and two seeds leaves."""
  rows = []
  for lr, seed in itertools.product((0.1, 0.01), (0, 1)):
    given = {'size': 'tiny', 'optimizer.lr': str(lr), 'seed': str(seed)}
    cell = ','.join(f'{k}={v}' for k, v in given.items())
    (folder / cell).mkdir(parents=True)
    lines = [{'step': i, 'time': i, 'train/loss': lr / i} for i in (1, 2)]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / cell / 'metrics.jsonl').write_text(text)
    row = {'cell': cell, 'overrides': given, 'eval/accuracy': lr + seed}
    rows.append(json.dumps(row) + '\n')
  (folder / 'results.jsonl').write_text(''.join(rows))


FLAGS = (
  '--layers 1 --d-model 16 --heads 2 --vocab 32 --seq-len 8 --batch 4'
  ' --warmup 1 --steps 2'
).split()


def bench(name, capsys, *flags):
  """The last line that a benchmark prints, as JSON."""
  importlib.import_module(f'benchmarks.{name}').main([*FLAGS, *flags])
  return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_lm_train_prints_the_keys_that_are_compared(capsys):
  out = bench('lm_train', capsys, '--matmul', '16')
  assert out['tokens_per_s'] == pytest.approx(8 * out['samples_per_s'])
  assert out['steps'] == 2 and out['params'] > 16 * 32
  assert out['args']['arch'] == 'llama' and out['mfu'] > 0


def test_pm_train_on_random_pairs(capsys):
  out = bench('pm_train', capsys)
  assert out['samples_per_step'] == 4 and out['steps'] == 2
  assert out['tokens_per_step'] == 4 * 2 * 8  # two transcripts of 8
  assert out['loss_first'] == pytest.approx(np.log(2))
  assert out['padding_share'] == 0


def test_generate_counts_new_tokens_and_the_floor(capsys):
  flags = '--prompt-len 5 --new-tokens 3 --copy-mib 1'.split()
  out = bench('generate', capsys, *flags)
  assert out['tokens_per_step'] == 4 * 3 and out['samples_per_step'] == 4
  assert out['args']['seq_len'] == 8
  assert out['ms_per_decode_step'] == pytest.approx(
    1e3 * out['step_s_median'] / 3
  )
  assert out['floor_share'] == pytest.approx(
    out['floor_ms'] / out['decode_step_ms']
  )
  # nothing learnt: nearly uniform over the 31 ids that are not padding
  assert out['loss_last'] == pytest.approx(np.log(31), abs=0.5)


@pytest.mark.parametrize(
  ('stage', 'flags'),
  [
    ('pm', ()),
    pytest.param(
      'ppo',
      ('--prompt-len', '5', '--response-len', '3', '--minibatches', '1'),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_checkpoint_times_rounds_with_and_without_a_save(capsys, stage, flags):
  out = bench(
    'checkpoint', capsys, '--stage', stage, '--rounds', '2', '--every', '10',
    *flags,
  )  # fmt: skip
  assert out['steps'] == 2 * 2 * 2 and len(out['added_s_of_rounds']) == 2
  assert out['checkpoint_mib'] > 0 and out['blocked_s'] > 0
  assert out['share'] == pytest.approx(
    out['added_s'] / (10 * out['step_s_median'])
  )


PPO = '--batch 8 --prompt-len 5 --response-len 3 --ppo-epochs 2'.split()


@pytest.mark.slow
def test_ppo_counts_its_optimizer_steps_and_splits_the_phases(capsys):
  out = bench('ppo', capsys, *PPO, '--minibatches', '2', '--matmul', '16')
  assert out['optimizer_steps'] == 3 * 2 * 2  # the warm-up's among them
  assert out['tokens_per_step'] == 8 * 3 and out['samples_per_step'] == 8
  phases = [out[f'{name}_s'] for name in ('generate', 'score', 'update')]
  assert 0 < sum(phases) < 2 * out['step_s_max']
  assert out['generate_share'] == pytest.approx(phases[0] / sum(phases))
  assert out['update_tokens_per_s'] == pytest.approx(8 * 8 * 2 / phases[2])
  assert out['compile_s'] < out['first_step_s'] and out['mfu'] > 0
  assert out['last']['score'] != 0 and out['last']['vl'] > 0


def test_ppo_floor_by_hand():
  ppo, common = (
    importlib.import_module(f'benchmarks.{name}') for name in ('ppo', 'common')
  )
  args = common.parser('').parse_args(FLAGS)
  args.prompt_len, args.response_len, args.seq_len, args.ppo_epochs = 2, 3, 5, 4
  args.minibatches = 2
  # 16 x 16 for q, k, v and the output, three products of the MLP of 48
  token = 2 * (4 * 16 * 16 + 3 * 16 * 48)
  head, whole = 2 * 32 * 16 * 3, 5 * token + 4 * 16 * 5 * 2.5
  flops = ppo.step_flops(args, common.make_model(args))
  assert flops['score'] == 4 * (4 * whole + 2 * head)
  assert flops['update'] == 4 * 3 * 4 * (2 * whole + head)
  args.minibatches = 1  # scores and first update: one pass of two networks
  shared = ppo.step_flops(args, common.make_model(args))
  assert shared['score'] == 0
  saved = 4 * (2 * whole + head)
  assert shared['update'] == flops['score'] + flops['update'] - saved
  # two prompt columns at context 1, two reply columns at 3.5
  sample = 4 * token + 4 * 16 * (2 * 1 + 2 * 3.5)
  assert flops['generate'] == 4 * (sample + head)


@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    ('--minibatches 3', 'batch_size 8 is not divisible by num_minibatches=3'),
    ('--temperature 0', 'temperature 0.0 is not finite and 1e-06 or more'),
  ],
)
def test_ppo_refuses_in_one_line(capsys, flags, says):
  with pytest.raises(SystemExit, match=f'^error: .*{says}'):
    bench('ppo', capsys, *PPO, *flags.split())


@pytest.fixture
def prompts_file(tmp_path):
  prompts = [[4] * n for n in (3, 9, 1, 4, 5, 6) * 2]
  ragged = importlib.import_module('benchmarks.ragged')
  path = tmp_path / 'prompts.npz'
  np.savez(
    path,
    prompts=np.concatenate(prompts),
    offsets=np.cumsum([0, *map(len, prompts)]),
    reply_lengths=ragged.reply_lengths(12, seed=3, chance=0.3, longest=8),
    seed=3,
    eos_prob=0.3,
  )
  return str(path)


RAGGED = '--pool 4 --prompt-len 8 --new-tokens 4 --prompts'.split()


def test_generate_ends_replies_where_the_file_says(prompts_file, capsys):
  lengths = np.minimum(np.load(prompts_file)['reply_lengths'][:4], 4)
  assert len(set(lengths)) > 1
  # the benchmark itself compares the length of every reply
  out = bench('generate', capsys, *RAGGED, prompts_file)
  assert out['tokens_per_step'] == lengths.sum()
  assert out['prompt_tokens'] == np.mean([3, 8, 1, 4, 5, 6] * 2)


@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    ('--steps 3', '12 prompts, 16 are asked for'),
    ('--vocab 4', 'has the token id 4: --vocab 4 is too small'),
    ('--prompts nowhere.npz', '--prompts nowhere.npz: .*No such file'),
    ('--temperature 0', 'temperature 0.0 is not finite and 1e-06 or more'),
    ('--prefill-only', '--prompts has no --prefill-only'),
  ],
)
def test_generate_refuses_in_one_line(prompts_file, capsys, flags, says):
  with pytest.raises(SystemExit, match=f'^error: .*{says}'):
    bench('generate', capsys, *RAGGED, prompts_file, *flags.split())


@pytest.fixture
def pairs_file(tmp_path):
  chosen = [[2, 7, 8, 9, 3], [2, 7, 3], [2, 5, 3]] * 4
  rejected = [[2, 7, 8, 3], [2, 7, 9, 9, 9, 9, 9, 9, 9, 3], [2, 6, 3]] * 4
  arrays = {}
  for name, ids in (('chosen', chosen), ('rejected', rejected)):
    arrays[name] = np.concatenate(ids)
    arrays[f'{name}_offsets'] = np.cumsum([0, *map(len, ids)])
  path = tmp_path / 'pairs.npz'
  np.savez(path, **arrays)
  return str(path)


def test_pm_train_packs_what_two_transcripts_share_once(pairs_file, capsys):
  read_pairs = importlib.import_module('benchmarks.pm_train').read_pairs
  assert [(p.prompt, p.chosen) for p in read_pairs(pairs_file, 3, 9, 10)] == [
    ([2, 7, 8], [9, 3]), ([7], [3]), ([2], [5, 3]),
  ]  # fmt: skip
  out = bench('pm_train', capsys, '--pairs', pairs_file, '--row-length', '16')
  assert out['pairs_dropped'] == 0 and out['rows_per_step'] >= 1


@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    ('--steps 3', '12 pairs, 16 are asked for'),
    ('--vocab 9', r'has the token id 9: --vocab 9 is too small'),
    ('--pairs nowhere.npz', '--pairs nowhere.npz: .*No such file'),
    # two pairs fill a row, so three pairs make two steps
    ('--batch 1 --seq-len 40 --warmup 2 --steps 1', '3 pairs are 2 rows, 2 st'),
    ('--heads 3', 'd_model 16 over num_heads 3 must be even'),
    ('--lr nan', 'the loss is nan after'),
  ],
)
def test_pm_train_refuses_in_one_line(pairs_file, capsys, flags, says):
  with pytest.raises(SystemExit, match=f'^error: .*{says}'):
    bench('pm_train', capsys, '--pairs', pairs_file, *flags.split())


def test_make_pairs_without_its_data_is_one_line(tmp_path):
  make_pairs = importlib.import_module('benchmarks.make_pairs')
  out = str(tmp_path / 'pairs.npz')
  with pytest.raises(SystemExit, match='^error: harmless-base/train.jsonl.gz'):
    make_pairs.main(['--data-dir', str(tmp_path), '--out', out])


def test_planned_calls_what_plan_compiles(capsys):
  flags = '--topology=cpu:4 --vocab=64 --repeats=1 --config'.split()
  planned = importlib.import_module('benchmarks.planned').main
  planned([*flags, 'configs/ppo.py:tiny', *(f'--set={x}' for x in (
    'batch_size=16', 'eval_batch_size=16', 'max_prompt=8', 'max_reply=4',
    'decode_params=gathered',
  ))])  # fmt: skip
  out = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert list(out['phases']) == ['reshard', 'sample', 'score', 'update']
  for row in out['phases'].values():
    assert row['seconds'] > 0 and row['planned_peak'] > 0
  assert out['peak'] is None  # a CPU counts no bytes
  with pytest.raises(SystemExit, match='is not the 4 devices here'):
    planned(['--topology=cpu:2', '--config=configs/pm.py:tiny'])


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'notebooks').glob('*.ipynb')), ids=lambda p: p.stem
)
def test_notebooks_run(path, tmp_path, monkeypatch, capsys):
  fake_run(tmp_path / 'runs' / 'demo')
  fake_sweep(tmp_path / 'runs' / 'sweep')
  shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
  monkeypatch.chdir(tmp_path)
  namespace = {}
  for cell in json.loads(path.read_text())['cells']:
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == []  # committed without anyone's results
      exec(''.join(cell['source']), namespace)
  says = {
    'look_at_a_run': 'slope 1.00',
    'look_at_a_sweep': (
      'size=tiny optimizer.lr=0.01: 0.510 +- 0.500, 2 seeds\n'
      'size=tiny optimizer.lr=0.1: 0.600 +- 0.500, 2 seeds\n'
    ),
  }
  assert says[path.stem] in capsys.readouterr().out

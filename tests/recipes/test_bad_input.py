"""Every mistake through the real command line: one line, nothing broken."""

import gzip
import json
import shutil

import pytest

from hh_jax import dialogue
from hh_jax.data import hh_rlhf
from tests.recipes import chain as chain_lib

WORDS = 'cat dog bird fish tree house river stone cloud bread'.split()


def transcript(i: int, reply: str) -> str:
  word = WORDS[i % len(WORDS)]
  return f'\n\nHuman: What is a {word} {i}?\n\nAssistant: It is {reply}.'


def good(i: int) -> dict:
  return {
    'chosen': transcript(i, 'a nice thing'),
    'rejected': transcript(i, 'not what I know'),
  }


def write(path, rows):
  """Rows are objects, or bytes that go into the file as they are."""
  lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress(b'\n'.join([*lines, b''])))
  return path


@pytest.fixture
def data(tmp_path):
  """A folder with both files of one tranche, and the flags that name it."""
  folder = tmp_path / 'hh'
  for split, first in (('train', 0), ('test', 100)):
    rows = [good(i) for i in range(first, first + 20)]
    write(folder / 'harmless-base' / f'{split}.jsonl.gz', rows)
  return folder


@pytest.fixture
def run_hh(run_stage, data, tmp_path):
  """Runs a stage on the files in `data`."""

  def run(stage, *flags):
    options = {
      'data_dir': data,
      'cache_dir': tmp_path / 'cache',
      'download': 'false',
      'train': "('harmless-base',)",
      'test': "('harmless-base',)",
    }
    named = [f'--config.data.options.{k}={v}' for k, v in options.items()]
    return run_stage(f'{stage}_hh', *named, *flags)

  return run


def test_a_missing_data_file(run_hh, data):
  (data / 'harmless-base' / 'train.jsonl.gz').unlink()
  error = run_hh('tokenizer').error
  assert 'harmless-base/train.jsonl.gz' in error and str(data) in error


def damaged(path, how: str) -> None:
  if how == 'is empty':
    path.write_bytes(b'')
  elif how == 'not gzip':
    path.write_text(json.dumps(good(0)))
  elif how == 'cut short':
    path.write_bytes(path.read_bytes()[:-9])
  elif how == 'no usable row':
    write(path, [b'', b'  '])


@pytest.mark.parametrize(
  'how', ['is empty', 'not gzip', 'cut short', 'no usable row']
)
def test_a_damaged_data_file(run_hh, data, how):
  path = data / 'harmless-base' / 'train.jsonl.gz'
  damaged(path, how)
  error = run_hh('tokenizer').error
  assert str(path) in error and how in error


BROKEN = {
  'bad_json': b'{"chosen": "cut',
  'not_object': b'[1, 2]',
  'missing_key': {'chosen': transcript(0, 'x')},
  'not_text': {**good(1), 'rejected': None},
  'nul_character': {**good(2), 'chosen': transcript(2, 'a \0')},
  'lone_surrogate': {**good(3), 'chosen': transcript(3, 'a \ud800')},
  'no_turns': {'chosen': 'hello', 'rejected': 'hi'},
}
ORDINARY = {
  'too_long': {**good(4), 'chosen': transcript(4, 'x' * 10_000_000)},
  'blank_line': b'',
}


def test_training_goes_on_without_the_bad_rows_and_says_which(
  run_hh, data, tmp_path
):
  path = data / 'harmless-base' / 'train.jsonl.gz'
  rows = [good(i) for i in range(30)]
  bad = BROKEN | ORDINARY | {'not_text ': {**good(5), 'chosen': 7}}
  write(path, [rows[0], *bad.values(), *rows[1:]])
  done = run_hh('pm', '--config.data.options.max_broken=0.3')
  assert done.code == 0, done.err
  report = json.loads((tmp_path / 'pm_hh' / 'data_report.json').read_text())
  source = report['source']['harmless-base/train']
  assert source['file'] == str(path)
  reasons = [reason.strip() for reason in bad]
  wanted = {r: [] for r in reasons}
  for line, reason in enumerate(reasons, 2):
    wanted[reason].append(line)
  assert source['lines'] == wanted
  assert source['kept'] == 30
  # a half of the conversations is for this PM
  assert 0 < report['train']['kept'] < 30


def test_too_many_bad_rows_are_refused_by_file_and_line(run_hh, data):
  path = data / 'harmless-base' / 'train.jsonl.gz'
  write(path, [good(0), *BROKEN.values(), good(1)])
  error = run_hh('tokenizer', '--config.data.options.max_broken=0.5').error
  assert error.startswith(f'{path}: 7 of 9 rows are broken')
  assert '1 bad_json (line 2)' in error and '1 no_turns (line 8)' in error


def test_all_training_conversations_are_in_the_test_set(run_hh, data):
  folder = data / 'harmless-base'
  shutil.copy(folder / 'test.jsonl.gz', folder / 'train.jsonl.gz')
  done = run_hh('pm')
  assert done.code == 2 and 'error: no pair fits a row' in done.err
  assert '20 pairs of test conversations are left out' in done.err


def test_what_is_left_out_of_files_is_counted_and_said(run_hh, data, tmp_path):
  same = {'chosen': transcript(0, 'so'), 'rejected': transcript(0, 'so')}
  turn = f'\n\nHuman: {" ".join(WORDS * 30)}\n\nAssistant: No.'
  long = {side: turn + text for side, text in good(0).items()}
  folder = data / 'harmless-base'
  test = [good(i) for i in range(100, 109)]
  write(folder / 'test.jsonl.gz', [same, long, *test])
  train = [good(i) for i in range(20)]
  write(folder / 'train.jsonl.gz', [same, *train, *test[:3]])
  done = run_hh('pm')
  text = 'harmless-base/train: 3 pairs of test conversations are left out'
  assert done.code == 0 and f'hh_jax: {text}\n' in done.err
  report = json.loads((tmp_path / 'pm_hh' / 'data_report.json').read_text())
  for split in ('train', 'test'):
    source = report['source'][f'harmless-base/{split}']
    assert source['dropped'] == {'identical_replies': 1}
  # the prompt alone is longer than a row: its start is cut
  assert report['test']['kept'] == 10 and report['test']['prompt_cut'] == 1


# flag -> what the line has to name; on runs of the gold world
REFUSED = {
  'tokenizer': {
    'vocab_size=200': 'vocab_size 200 is too small',
    'vocab_size=100000': 'vocab_size 100000 is too large',
    'data.name=tulips': "data source 'tulips' is none of ('gold_world'",
    'data.options.num_documents=-1': 'num_documents',
    'vocab_size=many': 'config key vocab_size takes an integer',
    'vocabsize=300': 'nearest: vocab_size',
    'data=1': 'data is a section',
  },
  'pretrain': {
    'batch_size=6': 'config.batch_size 6 is not divisible by fsdp=4',
    'batch_size=0': 'config.batch_size 0 is not 1 or more',
    'num_micro_batches=2': 'divisible by num_micro_batches=2 x fsdp=4',
    'eval_every=0': 'config.eval_every 0',
    'save_every=-1': 'config.save_every -1',
    'checkpoints.keep=0': 'config.checkpoints.keep 0 is not 1 or more',
    'checkpoints.every=3': 'checkpoints.every 3 is no multiple of save_every 2',
    'num_steps=0': 'config.num_steps 0',
    'row_length=0': 'config.row_length 0',
    'row_length=1': 'row_length 1 is not between 2 and',
    'model.scan_unroll=0': 'scan_unroll 0 is not 1 or more',
    'model.size=30B': "model size '30B' is none of ('tiny',",
    'model.attention=flash': "config.model: attention 'flash' is none of",
    'model.attention=cudnn': "attention 'cudnn' takes dtype 'bfloat16', not",
    'model.dtype=float8': "dtype 'float8' is none of",
    'mesh.fsdp=3': 'config.mesh: mesh fsdp=3 needs 3 devices',
    'mesh.model=0': 'config.mesh: mesh model=0 is not 1 or more',
    'mesh.data=0': 'config.mesh: mesh data=0 is not 1 or more',
    'mesh.sequence=0': 'config.mesh: mesh sequence=0 is not 1 or more',
    'mesh.model=3': 'config.mesh: mesh model=3 needs 3 devices',
    'mesh.model=8': 'config.mesh: mesh model=8 needs 8 devices',
    'optimizer.schedule=square': "schedule 'square' is none of",
    'optimizer.lr=1e999': '--config.optimizer.lr is inf: numbers have to be',
    'optimizer.lr=-0.1': 'config.optimizer.lr -0.1 is not between 0 and',
    'optimizer.clip_norm=0.0': 'clip_norm 0.0 is not between',
    'optimizer.b1=1.0': 'b1 1.0 is not between 0 and',
    'tokenizer=nowhere': 'nowhere/tokenizer.model',
    'tokenizer=': 'config.tokenizer is empty',
    'init_from=nowhere': 'config.init_from nowhere is no finished run',
    'seed=-1': 'config.seed -1',
    'seed=4294967296': 'config.seed 4294967296',  # JAX takes it for 0
    'data.options.seed=-1': 'config.data.options.seed -1 is negative',
  },
  'pm': {
    'row_length=8': 'no pair fits a row of 8 tokens',
    'max_pairs=0': 'config.max_pairs 0',
    'num_micro_batches=0': 'config.num_micro_batches 0 is not 1 or more',
    'part=2': 'part 2 is not in [0, num_parts=2)',
    'num_parts=0': 'config.num_parts 0 is not 1 or more',
    'data.options.flip=2.0': 'flip 2.0 is not in [0, 0.5]',
    'model.size=mini': 'holds a model with num_layers 2, this run asks for 3',
  },
  'ppo': {
    'max_prompt=4': 'no prompt fits config.max_prompt 4',
    'batch_size=12': '12 is not divisible by num_minibatches=2 x fsdp=4',
    'eval_batch_size=6': 'config.eval_batch_size 6 is not divisible by fsdp=4',
    'eval_prompts=1': 'config.eval_prompts is 1',
    'num_minibatches=0': 'config.num_minibatches 0',
    'kl_coef=-1.0': 'kl_coef -1.0 is not between 0 and',
    'lam=1.5': 'lam 1.5 is not between 0 and 1',
    'clip_eps=-0.2': 'clip_eps -0.2 is not between',
    'temperature=0.0': 'config.temperature 0.0 is not between 1e-06 and',
    'temperature=-1.0': 'config.temperature -1.0',
    'value_net=zero': "'zero' is none of pm, policy, head, none",
    'advantage=vtrace': "config.advantage 'vtrace' is none of gae, ",
    'advantage=rloo': 'samples_per_prompt must be 2 or more',
    'value_net=none': 'config.advantage gae needs values',
    'samples_per_prompt=3': 'not divisible by samples_per_prompt=3 x fsdp=4',
    'num_micro_batches=2': 'num_minibatches=2 x num_micro_batches=2 x fsdp=4',
    'num_micro_batches=0': 'config.num_micro_batches 0 is not 1 or more',
    'max_reply=0': 'config.max_reply 0 is not 1 or more',
    'kl_in=loss': 'the expected gradient of kl_estimator k1 is 0',
    'kl_estimator=k4': "config.kl_estimator 'k4' is none of k1, k2, k3",
    'score_norm=batch': "'batch' is none of centre, whiten, running",
    'no_stop=drop': "'drop' is none of subtract, replace, keep",
    'ptx_coef=0.1': 'either both or none',
    'halve_every=100': 'above 0 and halving go together',
    'optimizer.schedule=halving': 'above 0 and halving go together',
    'eval_prompts=-3': 'config.eval_prompts -3 is not 1 or more',
    'prompt_files=(1,)': 'config.prompt_files: 1 is no path',
    'alarms.action=email': "'email' is none of warn, stop",
    'alarms.max_repetition=2.0': 'alarms.max_repetition 2.0 is not between',
    'prompt_weights.extra=1.0': 'and there are none',
    'prompt_weights.harmless=1.0': 'and no harmless prompt fits',
    'prompt_weights.helpful=-1.0': 'prompt_weights.helpful -1.0 is not',
    "prompt_files=('nowhere.jsonl',)": 'nowhere.jsonl',
    'init_from=': 'config.init_from is empty',
    'pm=': 'config.pm is empty',
    'pm_model.attention=flash': "config.pm_model: attention 'flash' is none",
    'pm_model.size=mini': 'holds a model with num_layers 2',
    'heldout_pm=nowhere': 'config.heldout_pm nowhere is no finished run',
  },
}


@pytest.mark.parametrize(
  ('stage', 'flag'),
  [(stage, flag) for stage, flags in REFUSED.items() for flag in flags],
)
def test_a_bad_setting_is_refused_and_can_be_corrected(
  run_stage, tmp_path, stage, flag
):
  done = run_stage(stage, f'--config.{flag}')
  assert REFUSED[stage][flag] in done.error
  # nothing that would refuse the corrected command is left behind
  assert not (tmp_path / stage).exists()


@pytest.mark.parametrize(
  ('argv', 'says'),
  [
    (['pmm', f'--config={chain_lib.TINY}', '--workdir=x'], "recipe 'pmm'"),
    (['pm', '--config=configs/nothing.py', '--workdir=x'], 'nothing.py'),
    (['pm', f'--config={chain_lib.TINY}:pm'], '--workdir is missing'),
    (['pm', '--workdir=x'], '--config is missing'),
    (['pm', '--config=configs/pm.py:14M', '--workdir=x'], "'14M' is none of"),
    (['pm', f'--confg={chain_lib.TINY}', '--workdir=x'], 'nearest: --config'),
  ],
)  # fmt: skip
def test_a_bad_command_line_is_refused(argv, says):
  assert says in chain_lib.command(argv).error


@pytest.mark.parametrize(
  ('stage', 'flag', 'says'),
  [
    ('pm', 'optimizer.lr=0.5', 'optimizer.lr is 0.0005 there, 0.5 here'),
    ('ppo', 'temperature=0.5', 'temperature is 1.0 there, 0.5 here'),
    ('pretrain', 'seed=7', 'seed is 0 there, 7 here'),
  ],
)
def test_the_directory_of_another_run_is_left_alone(
  chain, run_stage, stage, flag, says
):
  before = chain_lib.tree_hash(chain.path / stage)
  where = f'--workdir={chain.path / stage}'
  assert says in run_stage(stage, where, f'--config.{flag}').error
  assert chain_lib.tree_hash(chain.path / stage) == before


def test_other_files_are_left_alone(run_stage, tmp_path):
  (tmp_path / 'pm').mkdir()
  (tmp_path / 'pm' / 'thesis.tex').write_text('x')
  assert 'thesis.tex' in run_stage('pm').error
  assert [p.name for p in (tmp_path / 'pm').iterdir()] == ['thesis.tex']


def copied(chain, tmp_path, name):
  return shutil.copytree(chain.path / name, tmp_path / f'copied_{name}')


def test_an_unfinished_run_is_no_start(chain, run_stage, tmp_path):
  run = copied(chain, tmp_path, 'pretrain')
  (run / 'summary.json').unlink()
  error = run_stage('pm', f'--config.init_from={run}').error
  assert f'config.init_from {run} is no finished run' in error


def test_a_run_without_checkpoints_is_no_start(chain, run_stage, tmp_path):
  run = copied(chain, tmp_path, 'pretrain')
  shutil.rmtree(run / 'checkpoints')
  error = run_stage('pm', f'--config.init_from={run}').error
  assert f'{run} has no checkpoint' in error


@pytest.mark.parametrize(
  ('stage', 'link'),
  [('pm', 'init_from=ppo'), ('ppo', 'init_from=pm'), ('ppo', 'pm=pretrain')],
)
def test_a_run_of_another_kind_is_refused(chain, run_stage, stage, link):
  error = run_stage(stage, *chain.links(link)).error
  key, _, other = link.partition('=')
  assert f'config.{key} {chain.path / other} is a {other} run, not' in error


def test_the_pm_that_trains_does_not_judge(chain, run_stage):
  error = run_stage('ppo', *chain.links('heldout_pm=pm')).error
  assert 'is a PM that trains or ranks' in error


def test_another_tokenizer_is_refused(chain, run_stage, tmp_path):
  done = run_stage('tokenizer', '--config.data.options.seed=9')
  assert done.code == 0, done.err
  error = run_stage('ppo', f'--config.tokenizer={tmp_path / "tokenizer"}').error
  assert 'pretrain was trained with another tokenizer' in error


def test_a_file_that_is_no_tokenizer_is_refused(run_stage, tmp_path):
  (tmp_path / 'tokenizer.model').write_bytes(b'hello')
  error = run_stage('pretrain', f'--config.tokenizer={tmp_path}').error
  assert f'{tmp_path / "tokenizer.model"} is not a sentencepiece' in error


def test_a_broken_line_of_metrics_is_named(chain, run_stage, tmp_path):
  shutil.copytree(chain.path / 'pm', tmp_path / 'pm')
  (tmp_path / 'pm' / 'summary.json').unlink()
  with open(tmp_path / 'pm' / 'metrics.jsonl', 'a') as file:
    file.write('{"step": \n')
  config = json.loads((chain.path / 'pm' / 'config.json').read_text())
  assert config['recipe'] == 'pm'
  error = run_stage('pm').error
  assert 'metrics.jsonl:' in error and 'not JSON' in error


def test_a_non_finite_loss_names_step_and_batch_and_spares_the_checkpoint(
  run_stage, tmp_path
):
  run = tmp_path / 'pretrain'
  flags = ('--config.optimizer.lr=1e30', '--config.optimizer.warmup_steps=0')
  done = run_stage('pretrain', *flags, '--config.save_every=1')
  assert (done.code, done.out) == (2, '')
  error = done.err.splitlines()[-1]
  assert error.startswith('hh_jax: error: non-finite ')
  assert 'at step 2, batch 1 of this run' in error
  assert not (run / 'summary.json').exists()
  (_, train), _ = chain_lib.checkpoint(run)
  assert train['step'] == 1


def test_a_mistake_in_a_chain_names_its_stage(tmp_path):
  where = f'--workdir={tmp_path / "runs"}'
  done = chain_lib.run('pipeline', where, '--config.pretrain.batch_size=6')
  assert done.error.startswith('pretrain: config.batch_size 6')


def test_a_mistake_in_a_late_stage_is_found_before_the_first(tmp_path):
  path = tmp_path / 'runs'
  done = chain_lib.run('pipeline', f'--workdir={path}', '--config.ppo.lam=1.5')
  assert done.error.startswith('ppo: ')
  assert not path.exists()


def test_links_that_the_pipeline_makes_are_not_given(tmp_path):
  where = f'--workdir={tmp_path / "runs"}'
  done = chain_lib.run('pipeline', where, '--config.ppo.pm=elsewhere')
  assert 'ppo.pm is filled in by the pipeline' in done.error


@pytest.mark.parametrize(
  ('recipe', 'size', 'says'),
  [
    ('pretrain', 'pm', 'no num_steps'),
    ('pm', 'pretrain', 'no max_pairs'),
    ('ppo', 'pm', 'no max_prompt'),
    ('tokenizer', 'pm', 'no max_documents'),
    ('report', 'pm', 'no pretrain'),
    ('pipeline', 'report', 'no section tokenizer'),
    ('pipeline', 'pretrain', 'no section tokenizer'),
  ],
)
def test_a_config_of_another_recipe_is_refused(tmp_path, recipe, size, says):
  path = tmp_path / 'run'
  done = chain_lib.run(recipe, f'--workdir={path}', size=size)
  assert f'the config has {says}' in done.error
  assert not path.exists()


def test_the_files_here_are_good(data):
  """So that what is refused above is refused for its mistake alone."""
  for split in ('train', 'test'):
    path = data / 'harmless-base' / f'{split}.jsonl.gz'
    pairs, report = hh_rlhf.load_pairs(path, 'x')
    assert len(pairs) == 20 and not report.dropped
    assert pairs[0].prompt.endswith(dialogue.ASSISTANT)

"""OOD detection on tiny runs, through the command line."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import model as model_lib
from hh_jax import sharding
from hh_jax.data.examples import Prompt
from hh_jax.evals import ood as ood_lib
from hh_jax.recipes import common, ood, ood_prompts, policy_prompts
from tests.conftest import REPO
from tests.recipes import chain as chain_lib

CONFIG = str(REPO / 'configs' / 'ood.py')
FAST = ('num_samples=20', 'num_splits=3', 'exposures=(1, 4)', 'batch_size=8')
WORDS = 'cat dog bird fish tree'.split()


def known(i):
  return f'\n\nHuman: What is a {WORDS[i % 5]} {i}?\n\nAssistant:'


def strange(i):
  return f'\n\nHuman: {WORDS[i % 5]} {i} ' + 'no ' * (i % 9) + '\n\nAssistant:'


def write(path, prompts):
  text = ''.join(json.dumps({'prompt': p}) + '\n' for p in prompts)
  path.write_bytes(gzip.compress(text.encode()))
  return path


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('prompts')
  shared = '\n\nHuman: Both\n\nAssistant:'
  long = '\n\nHuman: ' + 'a b c ' * 99 + '\n\nAssistant:'
  inliers = [*map(known, range(60)), known(0), shared, long]
  again = strange(1).replace('Human: ', 'Human:  ')  # but for white space
  outliers = [*map(strange, range(30)), again, shared.swapcase(), shared]
  outliers = [p for p in outliers if p.startswith('\n\nHuman')]
  return {
    'inliers': write(folder / 'inliers.jsonl.gz', inliers),
    'outliers': write(folder / 'outliers.jsonl.gz', outliers),
  }


def run(chain, folder, *flags, size='', model='pretrain'):
  argv = ['ood', f'--config={CONFIG}{size}', f'--workdir={folder}']
  flags = [f'--config.{flag}' for flag in (*FAST, *flags)]
  return chain_lib.command(
    [*argv, *chain.links(f'run={model}', 'tokenizer'), *flags]
  )


def of_files(files, **changes):
  return [f'{k}={v}' for k, v in (files | changes).items()]


@pytest.fixture(scope='module')
def done(chain, cache_dir, files, tmp_path_factory):
  folder = tmp_path_factory.mktemp('ood') / 'run'
  with chain_lib.recipe_settings(cache_dir):
    done = run(chain, folder, *of_files(files))
  assert done.code == 0, done.err
  return folder, done


@pytest.fixture(scope='module')
def finished(done):
  return done[0]


def summary(folder):
  return json.loads((folder / 'summary.json').read_text())


def test_numbers_agree(finished):
  numbers = summary(finished)
  rows = chain_lib.rows(finished / 'ood.jsonl')
  methods = ('mahalanobis', 'relative_mahalanobis', 'exposure_1', 'exposure_4')
  assert [(row['layer'], row['method']) for row in rows] == [
    (layer, method) for layer in (1, 2) for method in methods
  ]
  for row in rows:
    name = f'ood/layer_{row["layer"]}/{row["method"]}/auroc'
    assert numbers[name] == row['auroc']
    assert row['auroc_low'] <= row['auroc'] <= row['auroc_high']
    assert len(row['over_splits']) == 3
    assert numbers[f'{name}_mean'] == pytest.approx(np.mean(row['over_splits']))
    assert numbers[f'{name}_sd'] == pytest.approx(
      np.std(row['over_splits'], ddof=1)
    )


def test_what_was_used_and_dropped(finished):
  numbers = summary(finished)
  sizes = [numbers[f'ood/num_{name}'] for name in ('fit', 'test', 'outliers')]
  assert sizes[0] + sizes[1] == 60 and sizes[2] == 30
  assert 4 < sizes[1] < 24  # a fifth of 61 conversations
  assert numbers['dropped/repeated'] == 2
  assert numbers['dropped/in_both_classes'] == 2
  long = [numbers[f'dropped/over_long_{n}'] for n in ('fit', 'test')]
  assert sum(long) == 1 and numbers['dropped/over_long_outliers'] == 0
  assert numbers['ood/length/auroc'] != 0.5  # not all of one length
  report = json.loads((finished / 'data_report.json').read_text())
  assert report['files']['inliers']['kept'] == 63


def test_what_it_says(done):
  folder, said = done
  assert said.out == f'{folder / "ood.jsonl"}\n'
  numbers = summary(folder)
  fit, test = numbers['ood/num_fit'], numbers['ood/num_test']
  assert said.err == (
    f'hh_jax: {fit} prompts to fit, {test} to test, 30 outliers; left out: '
    '2 repeated, 2 in both classes, 1 over-long\n'
  )


def test_distances_give_the_auroc_and_no_text(finished):
  rows = chain_lib.rows(finished / 'scores.jsonl')
  is_outlier = np.array([row['is_outlier'] for row in rows])
  numbers = summary(finished)
  assert is_outlier.sum() == numbers['ood/num_outliers']
  for method in ('mahalanobis', 'relative_mahalanobis'):
    x = np.array([row[method] for row in rows])
    assert x.shape == (len(rows), 2)
    # those that were shown to the linear layer are not in the AUROC
    value = ood_lib.auroc(x[~is_outlier, 1], x[is_outlier, 1])
    found = numbers[f'ood/layer_2/{method}/auroc']
    assert value == pytest.approx(found, abs=0.1)
  assert 'Human' not in (finished / 'scores.jsonl').read_text()


def load(chain, name):
  """Model, parameters and tokenizer of a run."""
  tokenizer = common.load_tokenizer(str(chain.path / 'tokenizer'))
  card = json.loads((chain.path / name / 'model.json').read_text())
  model = model_lib.Transformer(model_lib.ModelConfig(**card['model']))
  mesh = sharding.make_mesh()
  params = common.load_params(
    {'run': str(chain.path / name)},
    *('run', model, mesh),
    fingerprint=tokenizer.fingerprint,
    kinds=ood.KINDS,
  )
  return model, params, mesh, tokenizer


def test_activations_are_those_of_every_prompt_alone(chain):
  model, params, mesh, tokenizer = load(chain, 'pretrain')
  texts = [known(3), strange(8), known(4), strange(2), known(1)]
  prompts = [Prompt(text, '') for text in texts]
  rows, _ = policy_prompts.pack(prompts, tokenizer, max_prompt=48)
  assert len(set(rows.lengths)) > 2
  got = ood.make_activations(model, mesh, batch_size=4)(params, rows)
  assert got.shape == (5, model.config.num_layers + 1, model.config.d_model)

  @jax.jit
  def alone(ids):
    t = ids.shape[1]
    mask = jnp.tril(jnp.ones((1, t, t), bool))
    positions = jnp.arange(t)[None]
    return model.activations(params, ids, positions, mask, lambda x: x[:, -1])

  for i in (0, 1, 3):
    ids = jnp.array([[tokenizer.bos_id, *tokenizer.encode(texts[i])]])
    np.testing.assert_allclose(got[i], alone(ids)[0], atol=1e-5)
  assert np.ptp(got[:, 0], axis=0).max() == 0  # why layer 0 is refused
  assert np.ptp(got[:, 1:], axis=0).max() > 1e-2


def test_a_policy_is_read_and_not_its_value(chain):
  _, policy, *_ = load(chain, 'ppo')
  (both, _), _ = chain_lib.checkpoint(chain.path / 'ppo')
  jax.tree.map(np.testing.assert_array_equal, policy, both['policy'])


@pytest.mark.parametrize('model', ['pm', 'ppo'])
def test_other_runs(chain, files, finished, tmp_path, model):
  done = run(chain, tmp_path / 'run', *of_files(files), model=model)
  assert done.code == 0, done.err
  ours, theirs = summary(tmp_path / 'run'), summary(finished)
  assert ours.keys() == theirs.keys() and ours != theirs


def test_xstest(chain, tmp_path):
  rows = [f'{i},{WORDS[i % 5]} {i}?,{"un" * (i % 2)}safe\n' for i in range(60)]
  (tmp_path / 'x.csv').write_text(''.join(['id,prompt,label\n', *rows]))
  flags = f'xstest={tmp_path / "x.csv"}', 'max_outliers=20', 'layers=(2,)'
  done = run(chain, tmp_path / 'run', *flags)
  assert done.code == 0, done.err
  numbers = summary(tmp_path / 'run')
  assert numbers['ood/num_fit'] + numbers['ood/num_test'] == 30
  assert numbers['ood/num_outliers'] == 20
  assert not [name for name in numbers if name.startswith('ood/layer_1')]


def test_pairs_of_a_source(chain, tmp_path):
  done = run(
    chain,
    tmp_path / 'run',
    *('data.options.num_pairs=140', 'layers=(1,)'),
    size=':gold_world',
  )
  assert done.code == 0, done.err
  numbers = summary(tmp_path / 'run')
  sizes = [numbers[f'ood/num_{name}'] for name in ('fit', 'test', 'outliers')]
  assert min(sizes) > 5
  dropped = numbers['dropped/repeated'] + numbers['dropped/in_both_classes']
  assert sum(sizes) + dropped <= 140


def test_conversations_are_there_once_and_in_one_class():
  a, b, c, d = (f'\n\nHuman: {x}\n\nAssistant:' for x in 'abcd')
  longer = a + ' yes.\n\nHuman: and?\n\nAssistant:'
  sets = {'fit': [a, b, longer], 'test': [b, c], 'outliers': [d, c, d]}
  kept, counts = ood_prompts.distinct(sets)
  assert kept == {'fit': [a, b], 'test': [], 'outliers': [d]}
  assert counts == {'repeated': 3, 'in_both_classes': 2}


REFUSED = {
  'run=': 'config.run is empty',
  'run=nowhere': 'config.run nowhere is no finished run',
  'layers=(0,)': 'layer 0 is the embedding of the last token',
  'layers=(3,)': 'layer 3 is not in 1 .. 2',
  "layers=('a',)": "config.layers ('a',): all are integers",
  'layers=(1, 1)': 'config.layers (1, 1): one is there twice',
  'num_splits=2': 'num_splits 2 is not between 3',
  'exposures=(0,)': 'config.exposures (0,): all are 1 or more',
  'exposures=(1.5,)': 'config key exposures takes a tuple',
  'exposures=(4, 4)': 'config.exposures (4, 4): one is there twice',
  'exposures=(30,)': 'config.exposures (30,): 30 outliers leave none to test',
  'max_fit=1': 'one prompt to fit: lower config.test_share',
  'ridge=-1': 'ridge -1.0 is not between 0',
  'weight_decay=-1': 'weight_decay -1.0 is not between 1e-06',
  'seed=-1': 'config.seed -1 is not in 0 .. 2**32 - 1',
  'test_share=1.0': 'test_share 1.0 is not between',
  'test_share=1e-8': 'no prompts of test (config.test_share 1e-08): ',
  'outliers=': 'config.outliers is empty: one class is not two',
  'xstest=x.csv': 'config.outliers beside config.xstest',
  'data=hh_rlhf': 'beside config.data',
  'max_prompt=2': 'no prompt fits config.max_prompt 2',
  'batch_size=6': 'config.batch_size 6 is not divisible by fsdp=4',
}


@pytest.mark.parametrize('flag', REFUSED)
def test_a_bad_setting_is_refused(chain, files, tmp_path, flag, monkeypatch):
  monkeypatch.setattr(ood, 'make_activations', None)  # costly: checked before
  done = run(chain, tmp_path / 'run', *of_files(files), flag)
  assert REFUSED[flag] in done.error
  assert not (tmp_path / 'run').exists()


def test_one_class_is_refused(chain, files, tmp_path):
  same = of_files(files, outliers=files['inliers'])
  assert 'is config.inliers' in run(chain, tmp_path / 'run', *same).error
  none = run(chain, tmp_path / 'run').error
  assert 'want prompts of one origin' in none and 'there is none' in none
  copy = write(tmp_path / 'copy.jsonl.gz', map(known, range(5)))
  error = run(chain, tmp_path / 'run', *of_files(files, outliers=copy)).error
  assert 'there are no prompts of outliers' in error
  error = run(
    *(chain, tmp_path / 'run', *of_files(files)), model='tokenizer'
  ).error
  assert (
    'is a tokenizer run, not a pretrain or distill or sft or pmp or' in error
  )

"""The report card of a tiny PM, through the command line."""

import dataclasses
import gzip
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from hh_jax import workdir
from hh_jax.data import sources
from hh_jax.data.examples import Pair
from hh_jax.errors import InputError
from hh_jax.evals import figures
from hh_jax.recipes import ranking
from tests.conftest import REPO
from tests.recipes import chain as chain_lib

CONFIG = str(REPO / 'configs' / 'pm_report.py')
FAST = (
  *('--config.num_samples=100', '--config.invariance_pairs=8'),
  '--config.num_bins=1',  # of 16 pairs
)
PLOTS = {'pm_groups', 'pm_thresholds', 'pm_calibration', 'pm_scores'}
SECRET = 'tulips and turnips'  # in every outside text


def hhh_rows():
  for i in range(12):
    yield {
      'subset': ('helpful', 'harmless')[i % 2],
      'input': f'Which {SECRET} {i // 2}?',
      'targets': {
        'choices': [f'{SECRET} {i}.', f'no {SECRET} at all.'],
        'labels': [1, 0],
      },
    }


def bbq_row(condition, polarity, i):
  return {
    'question_index': i,
    'context_condition': condition,
    'question_polarity': polarity,
    'category': 'Height',
    'context': f'Two {SECRET} met.',
    'question': 'Which one?',
    'answer_info': {
      'ans0': ['Ann', 'tall'],
      'ans1': ['Bob', 'short'],
      'ans2': ['?', 'unknown'],
    },
    'additional_metadata': {'stereotyped_groups': ['short']},
    'ans0': f'{SECRET} A',
    'ans1': f'{SECRET} B',
    'ans2': 'Nobody knows',
    'label': 2 if condition == 'ambig' else i % 2,
  }


@pytest.fixture(scope='module')
def outside(tmp_path_factory) -> dict[str, pathlib.Path]:
  """Small files in the layouts of the published ones."""
  folder = tmp_path_factory.mktemp('outside')
  text = ''.join(json.dumps(row) + '\n' for row in hhh_rows())
  (folder / 'hhh.jsonl.gz').write_bytes(gzip.compress(text.encode()))
  names = ('alpacaeval-easy', 'hep-go')
  rows = [
    {'prompt': f'{SECRET}?', 'chosen': 'a', 'rejected': SECRET, 'subset': name}
    for name in names * 2
  ]
  rows.append(rows[0] | {'subset': 'math-prm', 'chosen': SECRET * 40})
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'bench.jsonl').write_text(text)
  rows = [f'{i},{SECRET} {i}?,{"un" * (i % 2)}safe\n' for i in range(6)]
  (folder / 'xstest.csv').write_text(''.join(['id,prompt,label\n', *rows]))
  other = {'model': '<i>other</i>', 'anthropic_hhh': 0.75}
  (folder / 'other.json').write_text(json.dumps(other))
  rows = [
    bbq_row(condition, polarity, i)
    for i in range(3)
    for condition in ('ambig', 'disambig')
    for polarity in ('neg', 'nonneg')
  ]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'bbq.jsonl').write_text(text)
  return {
    'hhh': folder / 'hhh.jsonl.gz',
    'reward_bench': folder / 'bench.jsonl',
    'xstest': folder / 'xstest.csv',
    'bbq': folder / 'bbq.jsonl',
    'compare': folder / 'other.json',
  }


@pytest.fixture
def no_drawing(monkeypatch):
  """Figures are made but not painted, which takes most of the time."""
  monkeypatch.setattr(figures, 'png', lambda drawing: b'png')


def run(chain, folder, *flags, size=''):
  config = f'--config={CONFIG}{size}'
  links = chain.links('pm', 'tokenizer')
  argv = ['pm_report', config, f'--workdir={folder}', *links, *FAST]
  return chain_lib.command([*argv, *map(str, flags)])


@pytest.fixture(scope='module')
def finished(chain, cache_dir, outside, tmp_path_factory):
  """A card with everything on it: (folder, what the command said)."""
  folder = tmp_path_factory.mktemp('card') / 'pm_report'
  flags = [f'--config.{k}={outside[k]}' for k in ('hhh', 'xstest')]
  flags += [f'--config.reward_bench={outside["reward_bench"]}']
  flags += [f"--config.{k}=('{outside[k]}',)" for k in ('compare', 'bbq')]
  flags += ['--config.rater_agreement=0.68']
  with chain_lib.recipe_settings(cache_dir):
    done = run(chain, folder, *flags)
  assert done.code == 0, done.err
  return folder, done


def read(folder, name):
  return json.loads((folder / f'{name}.json').read_text())


def test_the_card_says_what_the_run_said(chain, finished):
  ours = workdir.read_summary(finished[0])
  theirs = workdir.read_summary(chain.path / 'pm')
  kept = {k for k in theirs if k.startswith('eval/') and 'accuracy_' not in k}
  kept -= {k for k in theirs if 'over_length_rule_' in k}  # by resampling
  assert len(kept) > 10
  for key in kept:
    assert ours[key.replace('eval', 'pm', 1)] == pytest.approx(theirs[key]), key
  assert ours['train/helpful_share'] + ours['train/harmless_share'] == 1
  assert ours['overlap/found'] == ours['overlap/kept'] == 0


def test_scores_do_not_depend_on_rows_or_batches(finished):
  numbers = workdir.read_summary(finished[0])
  names = ('alone', 'packed', 'reordered', 'swapped')
  assert numbers['invariance/pairs'] == 8
  assert all(0 <= numbers[f'invariance/{name}'] < 1e-5 for name in names)
  assert numbers['invariance/largest'] == max(
    numbers[f'invariance/{name}'] for name in names
  )


def test_all_files_are_there(finished):
  folder, done = finished
  assert {p.stem for p in (folder / 'plots').glob('*.png')} == PLOTS
  assert done.out == f'{folder / "report_card.html"}\n'
  curves = read(folder, 'curves')
  assert set(curves) == {
    'calibration', 'thresholds', 'histogram', 'reward_bench'
  }  # fmt: skip
  numbers = workdir.read_summary(folder)
  assert sum(curves['histogram']['chosen']) == numbers['pm/pairs']
  assert sum(curves['calibration']['count']) == numbers['pm/pairs']
  assert curves['thresholds']['all']['count'][0] == numbers['pm/pairs']


def test_no_output_holds_text_of_a_transcript(chain, finished):
  folder = finished[0]
  data = workdir.read_config(chain.path / 'pm')['config']['data']
  pairs = sources.build(data['name'], data['options']).pairs('test')
  texts = [SECRET, *(p.chosen.strip() for p in pairs)]
  texts += [p.prompt.split('\n\n')[1].removeprefix('Human: ') for p in pairs]
  texts = {text for text in texts if len(text) > 12}
  assert len(texts) > 10
  for path in folder.rglob('*.*'):
    if path.suffix in ('.json', '.html'):
      written = path.read_text()
      assert not [text for text in texts if text in written], path


def test_the_page_needs_nothing_else(finished):
  text = (finished[0] / 'report_card.html').read_text()
  assert '<script' not in text and not re.search('https?://', text)
  assert text.count('data:image/png;base64,') == len(PLOTS)
  assert '&lt;i&gt;other&lt;/i&gt;' in text and '<i>' not in text
  for heading in (
    'Accuracy by set',
    'Helpful against harmless',
    'Confidence',
    'Length',
    'The same pairs in other rows',
    'HHH alignment evaluation',
    'Refusals (XSTest)',
    'Bias (BBQ)',
    'Beside other models',
    'Left out, and warnings',
  ):
    assert f'<h2>{heading}</h2>' in text
  assert 'simulator' in text


def test_outside_evaluations_are_counted(finished):
  numbers = workdir.read_summary(finished[0])
  assert numbers['hhh/pairs'] == 12 and numbers['hhh/left_out'] == 0
  assert numbers['hhh/helpful/pairs'] == numbers['hhh/harmless/pairs'] == 6
  assert 0 <= numbers['hhh/accuracy_low'] <= numbers['hhh/accuracy']
  assert numbers['refusal/safe_prompts'] == numbers['refusal/unsafe_prompts']
  assert numbers['refusal/contrast'] == pytest.approx(
    numbers['refusal/unsafe'] - numbers['refusal/safe']
  )


def test_the_margins_of_the_hhh_items_are_those_counted(finished):
  lines = (finished[0] / 'hhh.jsonl').read_text().splitlines()
  items = [json.loads(line) for line in lines]
  assert [item['category'] for item in items] == ['helpful', 'harmless'] * 6
  numbers = workdir.read_summary(finished[0])
  for name in ('helpful', 'harmless'):
    wins = [i['margin'] > 0 for i in items if i['category'] == name]
    assert np.mean(wins) == pytest.approx(numbers[f'hhh/{name}/accuracy'])


def test_bbq_is_counted(finished):
  numbers = workdir.read_summary(finished[0])
  for condition in ('ambiguous', 'disambiguated'):
    assert numbers[f'bbq/{condition}/questions'] == 6
    assert numbers[f'bbq/{condition}/templates'] == 3
  # the same replies everywhere: the right one of the two is the best in half
  assert numbers['bbq/ambiguous/pair_bias'] == 0
  assert numbers['bbq/Height/ambiguous/accuracy'] in (0, 1)


def test_the_ceiling_follows_from_how_raters_agree(finished):
  numbers = workdir.read_summary(finished[0])
  assert (numbers['ceiling/low'], numbers['ceiling/high']) == (0.68, 0.8)
  assert 'accuracy is between 68.0 %' in (
    finished[0] / 'report_card.html'
  ).read_text().replace('\n', ' ')


def test_the_result_file_has_whole_subsets_only(finished):
  folder = finished[0]
  ours = read(folder, 'rewardbench')
  assert ours['model'] == 'pm'
  assert {'anthropic_hhh', 'alpacaeval-easy', 'hep-go'} <= ours.keys()
  assert 'math-prm' not in ours  # its one item fits no row
  left_out = ' '.join(read(folder, 'data_report')['left_out'])
  assert 'math-prm is left out' in left_out
  text = (
    'RewardBench: 1 of 5 items are left out: 1 that do not fit a row of 128'
  )
  assert text in left_out
  assert f'hh_jax: {text}' in finished[1].err  # though it was known late
  assert 'chat of pm is left out: it lacks 4 of 5 subsets' in left_out
  assert read(folder, 'curves')['reward_bench'] == [
    {'model': 'pm'},
    {'model': '<i>other</i>'},
  ]


def test_a_result_file_stands_beside_others(
  chain, finished, tmp_path, no_drawing
):
  path = finished[0] / 'rewardbench.json'
  done = run(chain, tmp_path / 'again', f"--config.compare=('{path}',)")
  assert done.code == 0, done.err
  text = (tmp_path / 'again' / 'report_card.html').read_text()
  (table,) = re.findall('Beside other models.*?</table>', text, re.S)
  assert table.count('<tr>') == 3 and 'anthropic_hhh' in table


def test_a_finished_card_is_left_as_it_is(chain, finished, monkeypatch):
  folder = finished[0]
  config = workdir.read_config(folder)['config']
  before = chain_lib.tree_hash(folder)
  monkeypatch.setattr(ranking, 'make_scorer', None)
  flags = [f'--config.{k}={config[k]}' for k in ('hhh', 'xstest')]
  flags += [f'--config.reward_bench={config["reward_bench"]}']
  flags += [f'--config.{k}={tuple(config[k])}' for k in ('compare', 'bbq')]
  flags += ['--config.rater_agreement=0.68']
  assert run(chain, folder, *flags).code == 0
  assert chain_lib.tree_hash(folder) == before


def test_what_is_skipped_is_said_and_recorded(chain, tmp_path, no_drawing):
  done = run(chain, tmp_path / 'card', '--config.thresholds=(99.0,)')
  assert done.code == 0, done.err
  left_out = read(tmp_path / 'card', 'data_report')['left_out']
  for text in (
    'The HHH alignment evaluation is skipped: config.hhh is empty.',
    'RewardBench is skipped: config.reward_bench is empty.',
    'The XSTest probe is skipped: config.xstest is empty.',
    'The BBQ probe is skipped: config.bbq is empty.',
  ):
    assert f'hh_jax: {text}\n' in done.err and text in left_out
    assert text in (tmp_path / 'card' / 'report_card.html').read_text()
  numbers = workdir.read_summary(tmp_path / 'card')
  absent = ('hhh/', 'refusal/', 'reward_bench/', 'threshold/', 'bbq/',
            'ceiling/')  # fmt: skip
  assert not [k for k in numbers if k.startswith(absent)]
  plots = {p.stem for p in (tmp_path / 'card' / 'plots').iterdir()}
  assert plots == PLOTS - {'pm_thresholds'}
  assert set(read(tmp_path / 'card', 'rewardbench')) == {
    *('chat_template', 'model', 'model_type'),
    *('gold-harmless-base', 'gold-helpful-base'),
  }


def test_other_data_than_the_runs_own(chain, tmp_path, no_drawing):
  options = {'seed': 5, 'num_test': 9, 'harmful_share': 0.0}
  flags = [f'--config.data.options.{k}={v}' for k, v in options.items()]
  done = run(chain, tmp_path / 'card', *flags, size=':gold_world')
  assert done.code == 0, done.err
  numbers = workdir.read_summary(tmp_path / 'card')
  assert numbers['pm/pairs'] == numbers['kind/helpful/pairs'] == 9
  assert 'kind/harmless/pairs' not in numbers


def test_pairs_that_do_not_fit_are_counted(chain, tmp_path, no_drawing):
  done = run(chain, tmp_path / 'card', '--config.row_length=64')
  assert done.code == 0, done.err
  counts = read(tmp_path / 'card', 'data_report')['test']
  assert counts['dropped_over_long'] or counts['prompt_cut']
  assert counts['kept'] + counts['dropped_over_long'] == 16
  numbers = workdir.read_summary(tmp_path / 'card')
  assert numbers['pm/pairs'] == counts['kept']
  (text,) = [
    text
    for text in read(tmp_path / 'card', 'data_report')['left_out']
    if text.startswith('Test pairs: of 16 pairs')
  ]
  assert text in (tmp_path / 'card' / 'report_card.html').read_text()


@dataclasses.dataclass(frozen=True)
class Fake(sources.Source):
  """Test pairs of which `seen` are of training conversations."""

  seen: int
  num_test: int

  def pairs(self, split):
    first = {'train': 0, 'test': 10 - self.seen}[split]
    count = {'train': 10, 'test': self.num_test}[split]
    return [
      Pair(
        f'\n\nHuman: a {i}\n\nAssistant:', f' b {i}', f' c {i}', str(i), 'fake'
      )
      for i in range(first, first + count)
    ]


@pytest.fixture
def run_fake(chain, tmp_path, monkeypatch, no_drawing):
  """Runs the card of the PM as if it had been trained on Fake."""
  monkeypatch.setitem(sources.SOURCES, 'fake', Fake)

  def run_on(*flags, seen=3, num_test=8):
    copied = shutil.copytree(chain.path / 'pm', tmp_path / 'pm')
    there = workdir.read_config(copied)
    there['config'] |= {'part': 0, 'num_parts': 1}
    options = {'seen': seen, 'num_test': num_test}
    there['config']['data'] = {'name': 'fake', 'options': options}
    workdir.write_json(copied / 'config.json', there)
    return run(chain, tmp_path / 'card', f'--config.pm={copied}', *flags)

  return run_on


def test_training_conversations_in_the_test_set_are_warned_of(
  run_fake, tmp_path
):
  done = run_fake()
  text = '3 of 8 test pairs are of conversations that the PM was trained on'
  assert done.code == 0 and f'hh_jax: warning: {text}: kept' in done.err
  numbers = workdir.read_summary(tmp_path / 'card')
  assert numbers['overlap/found'] == numbers['overlap/kept'] == 3
  assert numbers['pm/pairs'] == 8 and numbers['train/other_share'] == 1
  page = (tmp_path / 'card' / 'report_card.html').read_text()
  assert text in page and 'accuracy; 3 are of training conversations' in page
  assert 'of which 3 are of conversations that the PM was trained on' in page
  assert 'held-out comparison' not in page
  # nobody knows how often the raters of these would agree
  assert 'pm/bayes_ceiling' not in numbers


def test_training_conversations_are_dropped_on_request(run_fake, tmp_path):
  done = run_fake('--config.drop_overlap=true')
  assert done.code == 0 and 'trained on: left out' in done.err
  counts = read(tmp_path / 'card', 'data_report')['test']
  assert counts['in_training_conversations'] == 3
  numbers = workdir.read_summary(tmp_path / 'card')
  assert (numbers['overlap/found'], numbers['overlap/kept']) == (3, 0)
  assert numbers['pm/pairs'] == 5
  page = (tmp_path / 'card' / 'report_card.html').read_text()
  assert '5 held-out comparisons' in page


def test_nothing_is_left_to_score(run_fake, tmp_path):
  done = run_fake('--config.drop_overlap=true', seen=8)
  assert done.code == 2
  assert (
    "no test pairs left: {'identical_replies': 0, 'in_training_conversations': "
    '8}' in done.err
  )
  assert not (tmp_path / 'card').exists()


def test_a_test_set_without_pairs_is_refused(run_fake):
  done = run_fake(num_test=0)
  assert done.code == 2 and 'there are no test pairs' in done.err


def test_a_training_set_that_cannot_be_read_is_said(
  run_fake, monkeypatch, tmp_path
):
  original = Fake.pairs

  def pairs(self, split):
    if split == 'train':
      raise InputError('train.jsonl: no such file')
    return original(self, split)

  monkeypatch.setattr(Fake, 'pairs', pairs)
  done = run_fake()
  assert done.code == 0, done.err
  assert 'is not checked: train.jsonl: no such file' in done.err
  numbers = workdir.read_summary(tmp_path / 'card')
  assert not [key for key in numbers if key.startswith('overlap/')]
  assert numbers['pm/pairs'] == 8
  page = (tmp_path / 'card' / 'report_card.html').read_text()
  assert 'held-out comparison' not in page and 'is not known' in page
  counts = read(tmp_path / 'card', 'data_report')['test']
  assert 'in_training_conversations' not in counts


def test_scores_that_are_not_finite_are_refused(chain, tmp_path, monkeypatch):
  make_scorer = ranking.make_scorer

  def make_broken(*args, **kwargs):
    scorer = make_scorer(*args, **kwargs)

    def scores(params, rows):
      ids, chosen, rejected = scorer(params, rows)
      rejected = np.array(rejected)
      rejected[:2] = np.nan
      return ids, chosen, rejected

    return scores

  monkeypatch.setattr(ranking, 'make_scorer', make_broken)
  done = run(chain, tmp_path / 'card')
  assert done.code == 2
  *_, last = done.err.splitlines()
  assert 'config.pm: the scores of 2 of 16 pairs are not finite' in last
  assert not (tmp_path / 'card').exists()


REFUSED = {
  'pm=': 'config.pm is empty',
  'pm=nowhere': 'config.pm nowhere is no finished run',
  'tokenizer=': 'config.tokenizer is empty',
  'batch_size=6': 'config.batch_size 6 is not divisible by fsdp=4',
  'num_bins=0': 'config.num_bins 0 is not 1 or more',
  'num_samples=99': 'config.num_samples 99 is below 100',
  'thresholds=()': 'config.thresholds (): name one or more',
  'thresholds=(1,1.0)': 'config.thresholds (1.0, 1.0): name one or more, each',
  'length_share=2.0': 'config.length_share 2.0',
  'thresholds=(1e999,)': '--config.thresholds is inf',
  'invariance_pairs=0': 'config.invariance_pairs 0',
  'row_length=-1': 'row_length -1',
  'seed=-1': 'config.seed -1',
  'compare=(1,)': 'config.compare: 1 is not a path',
  'bbq=(1,)': 'config.bbq: 1 is not a path',
  'rater_agreement=0.4': 'agreement of raters 0.4 is not in [0.5, 1]',
  "compare=('nowhere.json',)": 'nowhere.json: No such file',
  "compare=('a.json', './a.json')": 'config.compare: ./a.json is there twice',
  "bbq=('b.jsonl', 'b.jsonl')": 'config.bbq: b.jsonl is there twice',
  'hhh=nowhere.jsonl': 'config.hhh: nowhere.jsonl: no such file',
  'reward_bench=nowhere': 'config.reward_bench: nowhere: no such file',
  'xstest=nowhere.csv': 'config.xstest: nowhere.csv: no such file',
  'data=hh_rlhf': "config.data is 'hh_rlhf'",
}


@pytest.mark.parametrize('flag', REFUSED)
def test_a_bad_setting_is_refused(chain, tmp_path, flag):
  done = run(chain, tmp_path / 'card', f'--config.{flag}')
  assert REFUSED[flag] in done.error
  assert not (tmp_path / 'card').exists()


def test_more_bins_than_the_pairs_fill_are_refused(chain, tmp_path):
  done = run(chain, tmp_path / 'card', '--config.num_bins=2')
  assert done.code == 2
  assert 'config.num_bins 2 is above 1: the pairs are 16' in done.err
  assert not (tmp_path / 'card').exists()


def test_no_pair_fits(chain, tmp_path):
  done = run(chain, tmp_path / 'card', '--config.row_length=4')
  assert done.code == 2 and 'no test pair fits a row of 4 tokens' in done.err


def test_a_malformed_file_is_one_line(chain, outside, tmp_path):
  bad = tmp_path / 'bad'
  bad.write_text('{"model": "m", "hep-go": 71}')
  for flag, says in (
    (f"compare=('{bad}',)", 'hep-go is 71, not in [0, 1]'),
    (f'hhh={bad}', 'bad:1: targets.choices is not a list of two'),
    (f'xstest={bad}', 'no prompt is safe or unsafe'),
    (f"bbq=('{outside['hhh']}',)", "gz:1: lacks 'context_condition'"),
    (f'reward_bench={outside["hhh"]}', 'hhh.jsonl.gz:1: a reply is missing'),
  ):
    done = run(chain, tmp_path / 'card', f'--config.{flag}')
    assert says in done.error, flag
    assert not (tmp_path / 'card').exists()


def test_a_run_of_another_kind_or_unfinished_is_refused(chain, tmp_path):
  error = run(chain, tmp_path / 'card', *chain.links('pm=pretrain')).error
  assert f'{chain.path / "pretrain"} is a pretrain run, not a pm run' in error
  copied = shutil.copytree(chain.path / 'pm', tmp_path / 'pm')
  (copied / 'summary.json').unlink()
  error = run(chain, tmp_path / 'card', f'--config.pm={copied}').error
  assert f'config.pm {copied} is no finished run' in error

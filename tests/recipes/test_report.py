"""The report of made-up runs: sections, escaping, missing parts, errors."""

from html.parser import HTMLParser
import pathlib
import re
import shutil

import ml_collections
import numpy as np
import pytest

from hh_jax import workdir
from hh_jax.errors import InputError
from hh_jax.evals import figures
from hh_jax.recipes import report, report_data, report_html, report_replies
from tests.recipes import made_up_runs

PLOTS = {'pm_learning_curve', 'pm_calibration', 'pm_groups', 'frontier',
         'policy', 'replies', 'ppo', 'pretrain'}  # fmt: skip


def make_config(root: pathlib.Path, **changes: str):
  names = ('pretrain', 'pm', 'heldout_pm', 'ppo', 'best_of_n')
  paths = {name: str(root / name) for name in names}
  return ml_collections.ConfigDict(paths | changes)


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> pathlib.Path:
  """The finished runs, not to be changed."""
  root = tmp_path_factory.mktemp('runs')
  made_up_runs.make_all(root)
  return root


@pytest.fixture
def runs(finished, tmp_path) -> pathlib.Path:
  """A copy of the runs that a test may break."""
  return pathlib.Path(shutil.copytree(finished, tmp_path / 'runs'))


@pytest.fixture
def no_drawing(monkeypatch):
  """Figures are made but not painted, which takes most of the time."""
  monkeypatch.setattr(figures, 'png', lambda drawing: b'png')


@pytest.fixture(scope='module')
def page(finished, tmp_path_factory) -> tuple[str, dict, pathlib.Path]:
  folder = tmp_path_factory.mktemp('out') / 'report'
  numbers = report.run(make_config(finished), str(folder))
  return (folder / 'report.html').read_text('utf-8'), numbers, folder


class Tags(HTMLParser):
  """Every start tag with its attributes; raises on an unbalanced page."""

  def __init__(self, text: str):
    super().__init__()
    self.tags, self.open = [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_page_has_every_section(page):
  text, _, folder = page
  headings = (
    'Claims of the paper',
    'Language and preference models',
    'Policy',
    'Reward against √KL',
    'Replies before and after',
    'Left out',
    'Configs and versions',
  )
  for heading in headings:
    assert f'<h2>{heading}' in text
  assert {p.stem for p in (folder / 'plots').glob('*.png')} == PLOTS
  assert text.count('data:image/png;base64,') == len(PLOTS)
  assert 'simulator' in text
  assert '(1 sensitive prompts not shown)' in text


def test_page_needs_nothing_else(page):
  text = page[0]
  tags = Tags(text).tags
  assert 'script' not in {tag for tag, _ in tags}
  for tag, attrs in tags:
    assert not {'href', 'onerror', 'onload', 'srcset'} & attrs.keys(), tag
    assert attrs.get('src', 'data:').startswith('data:')
    assert tag != 'img' or attrs['alt']
  style = re.search('<style>(.*?)</style>', text, re.S).group(1)
  assert 'url(' not in style and '@import' not in style
  assert not re.search('https?://', text)


def test_model_text_is_escaped(page):
  text = page[0]
  assert '<script' not in text and '<img src=x' not in text
  assert '&lt;script&gt;alert(1)&lt;/script&gt;' in text
  assert '\x1b' not in text and '\u202e' not in text


def test_tag_escapes_all_but_markup():
  bold = report_html.tag('b', '<i>')
  assert bold == '<b>&lt;i&gt;</b>'
  assert report_html.tag('p', bold, '"', class_='a"b') == (
    '<p class="a&quot;b"><b>&lt;i&gt;</b>&quot;</p>'
  )
  assert report_html.clean('a\ud800\x00b\n') == 'a?\ufffdb\n'


def test_numbers_say_what_was_planted(page):
  _, numbers, folder = page
  assert workdir.read_summary(folder) == numbers
  assert numbers['frontier/pm_slope'] == pytest.approx(0.55, abs=0.02)
  assert numbers['frontier/pm_efficiency'] == pytest.approx(
    numbers['frontier/pm_slope'] / (0.8 * 2**0.5)
  )
  assert numbers['frontier/pm_slope_ratio'] == pytest.approx(1, abs=0.15)
  assert numbers['frontier/gold_slope_ratio'] < 0.2
  assert numbers['policy/gold_gain'] == pytest.approx(
    0.7 * 3.6 - 0.14 * 3.6**2, abs=0.1
  )
  assert numbers['policy/pm_gain_se'] == 0.03  # paired, from the summary
  assert numbers['policy/gold_gain_se'] == pytest.approx(0.05)
  assert numbers['overoptimisation/heldout_pm_found'] == 0
  assert numbers['pm/over_length_rule_low'] > 0
  assert numbers['pm/accuracy'] < numbers['pm/bayes_ceiling']
  assert (
    numbers['pm/gold-base/pairs'] + numbers['pm/gold-rejection-sampled/pairs']
    == numbers['pm/pairs']
    == 1600
  )
  assert np.isfinite(list(numbers.values())).all()


def test_best_of_n_is_beside_the_policy(page):
  """Planted: 1 a root nat for best of n, .55 for the policy."""
  text, numbers, _ = page
  root = (np.log(16) - 15 / 16) ** 0.5  # both reach it
  assert numbers['best_of_n/sqrt_kl'] == pytest.approx(root)
  assert numbers['best_of_n/same_sqrt_kl'] == pytest.approx(root)
  assert numbers['best_of_n/pm_gain'] == pytest.approx(root)
  assert numbers['best_of_n/pm_lead'] == pytest.approx(0.45 * root, abs=0.05)
  error = (0.03**2 + 0.03**2 + 0.04**2) ** 0.5
  assert numbers['best_of_n/pm_lead_se'] == pytest.approx(error)
  section = text.partition('<h2>Reward against √KL')[2].partition('<h2>')[0]
  assert 'best of 16 (√KL 1.35)' in section.lower().replace('kl', 'KL')
  assert section.count('<img') == 1 and '64 held-out prompts' in section
  claim = 'Best of n gains more than PPO at the same KL, by the training PM'
  assert claim in text


def test_over_optimisation_is_said(runs, tmp_path, no_drawing):
  rows = made_up_runs.ppo_metrics(2)
  for row in rows:
    if 'eval/gold_score' in row and row['step'] > 30:
      row['eval/gold_score'] -= 0.04 * (row['step'] - 30)
  made_up_runs.write_rows(runs / 'ppo' / 'metrics.jsonl', rows)
  numbers = report.run(make_config(runs), str(tmp_path / 'out'))
  assert numbers['overoptimisation/gold_found'] == 1
  text = (tmp_path / 'out' / 'report.html').read_text('utf-8')
  assert 'gold score falls while the training PM’s score rises' in text


def test_the_same_runs_give_the_same_bytes(finished, page, tmp_path):
  folder = tmp_path / 'again'
  report.run(make_config(finished), str(folder))
  names = ['report.html', 'summary.json', 'plots/frontier.png']
  for name in names:
    assert (folder / name).read_bytes() == (page[2] / name).read_bytes()


def test_missing_parts_are_left_out_and_said(runs, tmp_path, no_drawing):
  for name in ('pm', 'heldout_pm'):
    rows = [r | {'p_chosen': None, 'source': 'harmless-base'}
            for r in made_up_runs.pairs(0, 300)]  # fmt: skip
    made_up_runs.write_rows(runs / name / 'eval.jsonl', rows)
  rows = made_up_runs.ppo_metrics(2, has_gold=False)
  for row in rows:
    row.pop('eval/heldout_pm_score', None)
  made_up_runs.write_rows(runs / 'ppo' / 'metrics.jsonl', rows)
  (runs / 'ppo' / 'samples.jsonl').unlink()
  config = make_config(runs, pretrain='', heldout_pm='', best_of_n='')
  numbers = report.run(config, str(tmp_path / 'out'))
  text = (tmp_path / 'out' / 'report.html').read_text('utf-8')
  for remark in ('No pretraining run', 'No held-out preference model',
                 'There is no gold score', 'No best_of_n run',
                 'no samples.jsonl', 'No gold ceiling'):  # fmt: skip
    assert remark in text
  assert 'simulator' not in text and 'Gold ceiling' not in text
  assert not any('gold' in key or 'heldout' in key for key in numbers)
  assert not (tmp_path / 'out' / 'plots' / 'pretrain.png').exists()


def test_two_evaluations_give_no_line(runs, tmp_path, no_drawing):
  rows = [r for r in made_up_runs.ppo_metrics(2) if r['step'] in (0, 60)]
  made_up_runs.write_rows(runs / 'ppo' / 'metrics.jsonl', rows)
  numbers = report.run(make_config(runs), str(tmp_path / 'out'))
  text = (tmp_path / 'out' / 'report.html').read_text('utf-8')
  assert 'No line fitted to the training PM score' in text
  assert not any(key.endswith('_slope') for key in numbers)


def test_values_that_are_not_finite_are_counted(runs, tmp_path, no_drawing):
  rows = made_up_runs.ppo_metrics(2)
  rows[4]['rollout/explained_variance'] = float('-inf')
  rows[5]['rollout/explained_variance'] = float('nan')
  made_up_runs.write_rows(runs / 'ppo' / 'metrics.jsonl', rows)
  report.run(make_config(runs), str(tmp_path / 'out'))
  text = (tmp_path / 'out' / 'report.html').read_text('utf-8')
  assert '2 values of rollout/explained_variance of the ppo run' in text


def test_long_text_is_cut_and_says_so():
  rows = [
    {
      'step': step,
      'index': 7,
      'prompt': 'a' * 1600 + 'end',
      'reply': 'b' * 1510,
    }
    for step in (0, 9)
  ]
  cards = ''.join(report_replies.section(rows))
  assert '[103 characters cut] …aaa' in cards and 'end</p>' in cards
  assert 'bbb… [10 characters cut]' in cards


def test_curve_takes_the_later_line_and_skips_what_is_not_finite():
  rows = [{'step': 2, 'a': 1.0}, {'step': 1, 'a': 5}, {'step': 2, 'a': 3.0},
          {'step': 3, 'a': float('nan')}, {'step': 4}]  # fmt: skip
  x, y = report_data.curve(rows, 'a')
  assert (x.tolist(), y.tolist()) == ([1, 2], [5, 3])
  assert report_data.curve(rows, 'b')[0].size == 0


def test_accuracy_is_placed_at_the_pairs_seen():
  rows = [{'step': 0, 'train/pairs': 0}, {'step': 10, 'train/pairs': 400},
          {'step': 0, 'eval/accuracy': 0.5},
          {'step': 5, 'eval/accuracy': 0.6}]  # fmt: skip
  x, y = report_data.accuracy_curve(rows, 'eval/accuracy')
  assert (x.tolist(), y.tolist()) == ([200], [0.6])


def damage(runs: pathlib.Path, what: str) -> dict[str, str]:
  """Breaks one thing; returns changes of the config."""
  if what == 'empty':
    return {'pm': ''}
  if what == 'gone':
    return {'ppo': str(runs / 'nowhere')}
  if what == 'step':
    return {'ppo': f'{runs / "ppo"}@best'}
  if what == 'unfinished':
    (runs / 'pm' / 'summary.json').unlink()
  if what == 'no pairs':
    (runs / 'pm' / 'eval.jsonl').write_text('\n')
  if what == 'json':
    with (runs / 'pm' / 'eval.jsonl').open('a') as f:
      f.write('{"source": "a", "tur')
  if what == 'list':
    (runs / 'ppo' / 'metrics.jsonl').write_text('{"step": 1}\n[1]\n')
  if what == 'start':
    path = runs / 'best_of_n' / 'config.json'
    path.write_text(path.read_text().replace('"pretrain"', '"other"'))
  if what == 'utf8':
    (runs / 'ppo' / 'samples.jsonl').write_bytes(b'"\xff"\n')
  if what == 'key':
    made_up_runs.write_rows(
      runs / 'pm' / 'eval.jsonl', [{'source': 'a', 'turns': 1}]
    )
  if what == 'value':
    bad = made_up_runs.pairs(0, 1)[0] | {'score_chosen': None}
    made_up_runs.write_rows(runs / 'pm' / 'eval.jsonl', [bad])
  if what == 'no evaluation':
    made_up_runs.write_rows(
      runs / 'ppo' / 'metrics.jsonl', [{'step': 1, 'eval/kl': 0.1}]
    )
  if what == 'prompts':
    rows = made_up_runs.samples()
    rows[-1]['prompt'] = 'another'
    made_up_runs.write_rows(runs / 'ppo' / 'samples.jsonl', rows)
  return {}


@pytest.mark.parametrize(
  ('what', 'message'),
  [
    ('empty', r'config\.pm is empty'),
    ('gone', r'config\.ppo: .*nowhere is not a directory'),
    ('step', r'config\.ppo .*@best: a report is about runs, .*: name .*ppo$'),
    ('unfinished', r'config\.pm: .*not finished'),
    ('no pairs', r'pm/eval\.jsonl: there are no held-out pairs'),
    ('json', r'pm/eval\.jsonl:1601: not JSON'),
    ('list', r'ppo/metrics\.jsonl:2: not a JSON object'),
    ('start', r"best_of_n: run is 'other', init_from of .*ppo is 'pretrain'"),
    ('utf8', r'ppo/samples\.jsonl:1: not JSON'),
    ('key', r'pm/eval\.jsonl:1: no score_chosen'),
    ('value', r'config\.pm: eval\.jsonl: held-out row 0: score_chosen is None'),
    ('no evaluation', r'ppo/metrics\.jsonl: no evaluation line'),
    ('prompts', 'index 5 has other prompts at steps 0 and 60'),
  ],
)
def test_errors_take_one_line_and_name_the_culprit(
  runs, tmp_path, no_drawing, what, message
):
  config = make_config(runs, **damage(runs, what))
  with pytest.raises(InputError, match=message) as error:
    report.run(config, str(tmp_path / 'out'))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('steps', [(1,), (0, 1), (0, 1, 3), (0, 400, 800)])
def test_ticks_of_steps_are_distinct_whole_numbers(steps):
  x = np.array(steps, np.float64)
  panel = figures.Panel('loss', [figures.Series('training', x, x / 7)])
  drawing = figures.over_steps('a run', [panel, panel], x_label='Step')
  axis = drawing.axes[-1].xaxis
  low, high = axis.get_view_interval()
  ticks = [t for t in axis.get_majorticklocs() if low <= t <= high]
  labels = axis.get_major_formatter().format_ticks(ticks)
  assert 1 <= len(ticks) <= 10 and len({*labels}) == len(ticks)
  assert all(t == round(t) for t in ticks)


def test_source_names_are_no_markup_in_figures():
  group = figures.Group('$x_{', accuracy=0.6, low=0.5, high=0.7)
  image = figures.png(figures.group_accuracy([group]))
  assert image.startswith(b'\x89PNG')

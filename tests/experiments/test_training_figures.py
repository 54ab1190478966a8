"""Figures 7, 19, 26, 27, 31, 32 and PMP's benefit from made-up runs."""

import json
import math

import pytest

from experiments import (
  analysis,
  askell_objectives,
  pmp_benefit,
  sweep,
  table,
)
from experiments import fig07_pm_accuracy_vs_data_and_size as fig07
from experiments import fig19_accuracy_vs_mixture as fig19
from experiments import fig26_mean_accuracy_vs_mixture as fig26
from experiments import fig27_accuracy_vs_harmless_weight as fig27
from experiments import fig31_learning_curves_mixed as fig31
from experiments import fig32_learning_curves_helpful as fig32
from hh_jax.errors import InputError
from tests.experiments import made_up_sweep

SLOPES = {0: 0.019, 1: 0.021}  # a factor e of comparisons, by seed
BY_SIZE = {'helpful': 0.01, 'harmless': 0.02}  # a factor e of parameters


def verdicts(summary):
  return {claim['claim']: claim['holds'] for claim in summary['claims']}


def check_files(workdir, name, summary):
  assert json.loads((workdir / f'{name}.json').read_text()) == summary
  assert (workdir / f'{name}.png').read_bytes()[:4] == b'\x89PNG'


def write_curves(workdir, name, *, below=0.0, pairs=200):
  """Accuracy .7 at the end of the larger size, on a plane of two logs.

  On the whole test set, of that many pairs a kind, every seed ends alike.
  """
  largest = math.log(analysis.parameters('mini'))
  for size in ('tiny', 'mini'):
    p = math.log(analysis.parameters(size)) - largest
    for seed, slope in SLOPES.items():
      curve = {
        1600 // 2**i: {
          'helpful': 0.7 - slope * i * math.log(2) + BY_SIZE['helpful'] * p,
          'harmless': 0.7 - below - slope * i * math.log(2)
          + BY_SIZE['harmless'] * p,
        }
        for i in (4, 3, 2, 1, 0)
      }  # fmt: skip
      right = {k: round(a * pairs) for k, a in curve[1600].items()}
      made_up_sweep.write_pm(
        workdir, name, size, seed, curve=curve, right=right, pairs=pairs
      )


def test_fig07_recovers_a_plane(tmp_path):
  write_curves(tmp_path, 'mix')
  summary = fig07.plot(str(tmp_path))
  fit = summary['fit']
  assert fit['data']['mean'] == pytest.approx(0.02)
  assert fit['data']['se'] == pytest.approx(0.001)
  assert fit['parameters']['mean'] == pytest.approx(0.015)  # of both kinds
  assert fit['at_end']['mean'] == pytest.approx(0.7)
  assert fit['rms']['mean'] == pytest.approx(0, abs=1e-9)
  assert summary['comparisons'] == 1600
  for part in ('early', 'late'):  # a line
    assert summary['data_slope_by_part'][part]['mean'] == pytest.approx(0.02)
  # 12.7 standard errors of two seeds: .02 +- .0127
  assert verdicts(summary) == {
    'accuracy rises with ln(comparisons)': True,
    'accuracy rises with ln(parameters)': True,
  }
  check_files(tmp_path, 'fig07', summary)


def test_fig31_fits_each_test_set(tmp_path):
  write_curves(tmp_path, 'mix', pairs=4000)
  summary = fig31.plot(str(tmp_path))
  assert summary['fit']['helpful']['parameters']['mean'] == pytest.approx(0.01)
  assert summary['fit']['harmless']['parameters']['mean'] == pytest.approx(0.02)
  assert all(verdicts(summary).values()) and len(summary['claims']) == 5
  assert summary['claims'][-1]['mean'] == pytest.approx(0.01, abs=2e-4)
  check_files(tmp_path, 'fig31', summary)


def test_fig31_few_pairs_do_not_tell_which_kind_gains_more(tmp_path):
  write_curves(tmp_path, 'mix', pairs=200)
  *_, claim = fig31.plot(str(tmp_path))['claims']
  assert claim['se'] == 0 and claim['mean'] > 0  # seeds agree
  assert claim['holds'] is False
  assert claim['because'] == 'the 95 % interval over conversations holds 0'


def test_fig07_ends_on_the_whole_test_set(tmp_path):
  curve = {10: {'helpful': 0.6}, 30: {'helpful': 0.75}}  # a quick evaluation
  made_up_sweep.write_pm(
    tmp_path, 'mix', 'tiny', 0, curve=curve, right={'helpful': 13}
  )
  found = fig07.last(str(tmp_path), kind='helpful')
  assert found == {'tiny': pytest.approx([0.65])}


def test_a_run_without_held_out_rows_is_named(tmp_path):
  curve = {10: {'helpful': 0.6}}
  made_up_sweep.write_pm(tmp_path, 'mix', 'tiny', 0, curve=curve)
  with pytest.raises(InputError, match='seed0/eval.jsonl has no rows'):
    fig07.last(str(tmp_path))


def test_fig32_says_what_is_left_out_and_what_does_not_hold(tmp_path):
  write_curves(tmp_path, 'helpful', below=0.1)  # harmless: .6, above chance
  summary = fig32.plot(str(tmp_path))
  assert 'Learning to Summarize' in summary['left_out']
  by_claim = {c['claim']: c for c in summary['claims']}
  found = by_claim[
    'mini: helpful-only models are below chance on harmless pairs'
  ]
  assert found['mean'] == pytest.approx(-0.1) and found['holds'] is False
  assert summary['claims'][0]['paper'] == 0.015
  check_files(tmp_path, 'fig32', summary)


@pytest.mark.parametrize(('pairs', 'holds'), [(20, False), (400, True)])
def test_fig32_below_chance_takes_pairs(tmp_path, pairs, holds):
  write_curves(tmp_path, 'helpful', below=0.3, pairs=pairs)
  claims = {c['claim']: c for c in fig32.plot(str(tmp_path))['claims']}
  text = 'mini: helpful-only models are below chance on harmless pairs'
  assert claims[text]['mean'] == pytest.approx(0.1)
  assert claims[text]['holds'] is holds


def test_fig32_reads_both_fits_on_helpful_pairs(tmp_path):
  # helpful accuracy is on a line; the mixture's harmless one is not
  for name, jump in (('mix', 0.3), ('helpful', 0.0)):
    curve = {
      100 * 2**i: {'helpful': 0.5 + 0.02 * i, 'harmless': 0.5 + jump * (i == 4)}
      for i in range(5)
    }
    right = {'helpful': 12, 'harmless': 8}
    made_up_sweep.write_pm(tmp_path, name, 'tiny', 0, curve=curve, right=right)
  *_, claim = fig32.plot(str(tmp_path))['claims']
  assert claim['claim'].startswith('the fit leaves less')
  assert claim['mean'] == pytest.approx(0, abs=1e-9)


def write_mixtures(workdir, times=1):
  """Right answers of 20 by share of helpful pairs; 'mini' is the flatter.

  `times` as many right ones, and pairs.
  """
  right = {
    'tiny': {0.0: (6, 16), 0.5: (13, 14), 1.0: (15, 6)},
    'mini': {0.0: (8, 16), 0.5: (14, 15), 1.0: (16, 8)},
  }
  for size, shares in right.items():
    for share, (helpful, harmless) in shares.items():
      for seed in (0, 1):
        made_up_sweep.write_pm(
          workdir,
          sweep.mixture_name(40, share),
          size,
          seed,
          right={'helpful': helpful * times, 'harmless': harmless * times},
          pairs=20 * times,
        )


def test_fig19_and_fig26_by_share(tmp_path):
  write_mixtures(tmp_path, times=20)
  # another total and a weight are other experiments
  made_up_sweep.write_pm(tmp_path, sweep.mixture_name(8, 0.5), 'tiny', 0)
  made_up_sweep.write_pm(tmp_path, sweep.mixture_name(40, 0.5, 3), 'tiny', 0)
  summary = fig19.plot(str(tmp_path))
  tiny = summary['accuracy']['0.0']['tiny']
  assert tiny['helpful']['mean'] == 0.3 and tiny['harmless']['mean'] == 0.8
  relative = summary['normalised']['0.5']['tiny']
  assert relative['helpful']['mean'] == pytest.approx(13 / 15)
  assert relative['harmless']['mean'] == pytest.approx(14 / 16)
  assert relative['mean']['mean'] == 1.0
  assert all(verdicts(summary).values()) and len(summary['claims']) == 5
  # ranges: tiny (.45 + .5) / 2, mini (.4 + .4) / 2
  assert summary['claims'][-1]['mean'] == pytest.approx(0.475 - 0.4)
  check_files(tmp_path, 'fig19', summary)

  summary = fig26.plot(str(tmp_path))
  assert summary['mean_accuracy']['0.5']['mini']['mean'] == pytest.approx(0.725)
  assert [c['mean'] for c in summary['claims']] == pytest.approx([0.125, 0.125])
  check_files(tmp_path, 'fig26', summary)


def test_fig19_few_pairs_are_not_below_chance(tmp_path):
  write_mixtures(tmp_path)
  *below, _ = fig19.plot(str(tmp_path))['claims']
  for claim in below[2:]:  # mini: 8 right of 20, in both seeds
    assert claim['se'] == 0 and claim['holds'] is False
    p = 0.5 - claim['mean']
    expected = (p * (1 - p) / 20) ** 0.5
    assert claim['se_conversations'] == pytest.approx(expected, rel=0.1)


def test_sizes_are_compared_on_the_seeds_that_both_have(tmp_path):
  accuracy = {0: 4, 1: 8, 2: 12}  # right answers of 20 at the ends, by seed
  for size, seeds in (('tiny', (0, 1)), ('mini', (1, 2))):
    for share in (0.0, 1.0):
      for seed in seeds:
        right = dict.fromkeys(analysis.KINDS, accuracy[seed])
        right['helpful'] += 2 * int(share)
        made_up_sweep.write_pm(
          tmp_path, sweep.mixture_name(40, share), size, seed, right=right
        )
  found = fig19.read(str(tmp_path))
  for size in ('tiny', 'mini'):
    assert found[0.0][size]['helpful'] == pytest.approx([0.4])
    assert found[1.0][size]['helpful'] == pytest.approx([0.5])


def test_fig32_compares_fits_of_the_same_seeds(tmp_path):
  write_curves(tmp_path, 'mix')
  write_curves(tmp_path, 'helpful')
  for size in ('tiny', 'mini'):  # seed 0 only of the mixture, 1 of both
    (tmp_path / f'pm/helpful/{size}/seed0/summary.json').unlink()
  *_, claim = fig32.plot(str(tmp_path))['claims']
  assert claim['claim'].startswith('the fit leaves less')
  assert claim['seeds'] == 1 and claim['holds'] is None
  for size in ('tiny', 'mini'):
    (tmp_path / f'pm/mix/{size}/seed1/summary.json').unlink()
  texts = verdicts(fig32.plot(str(tmp_path)))
  assert not [text for text in texts if text.startswith('the fit')]


def test_fig27_by_weight(tmp_path):
  for weight, right in {1: (16, 10), 2: (15, 12), 10: (11, 13)}.items():
    for seed in (0, 1):
      made_up_sweep.write_pm(
        tmp_path,
        sweep.mixture_name(40, 0.7, weight),
        'tiny',
        seed,
        right=dict(zip(analysis.KINDS, right, strict=True)),
      )
  made_up_sweep.write_pm(tmp_path, sweep.mixture_name(40, 0.5), 'tiny', 0)
  summary = fig27.plot(str(tmp_path))
  means = [claim['mean'] for claim in summary['claims']]
  assert means == pytest.approx([0.25, 0.15, 0.025, 0.075])
  assert all(verdicts(summary).values())
  check_files(tmp_path, 'fig27', summary)


def test_objectives_are_paired_by_seed(tmp_path):
  right = {'ranked': (15, 17), 'binary': (15, 17), 'imitation': (11, 13)}
  for objective, counts in right.items():
    name = askell_objectives.run_name(objective)
    for seed, count in enumerate(counts):
      made_up_sweep.write_pm(
        tmp_path, name, 'tiny', seed,
        right=dict.fromkeys(analysis.KINDS, count),
      )  # fmt: skip
      ways = {'mean': 0.6, 'sum': 0.5, 'mutual_information': 0.55 + 0.1 * seed}
      summary = {f'eval/rank_by_{k}/accuracy': v for k, v in ways.items()}
      path = tmp_path / 'pm' / name / 'tiny' / f'seed{seed}' / 'summary.json'
      path.write_text(json.dumps(summary))
  summary = askell_objectives.plot(str(tmp_path))
  means = [claim['mean'] for claim in summary['claims']]
  assert means == pytest.approx([0.2, 0.0, 0.2])
  assert [claim['holds'] for claim in summary['claims']] == [True, False, True]
  ways = summary['imitation_ranked_by']['tiny']
  assert ways['mutual_information']['mean'] == pytest.approx(0.6)
  check_files(tmp_path, 'askell_objectives', summary)


def test_weights_need_both_kinds(tmp_path):
  config = sweep.load('smoke', [('helpful_share', '0.0')])
  with pytest.raises(InputError, match='0.0 leaves nothing to weigh'):
    fig27.run(config, str(tmp_path))


def test_pmp_benefit_is_paired_and_at_the_best_rate_without_pmp(tmp_path):
  right = {  # (total, rate) -> arm -> right answers by seed
    (500, 0.1): {'none': (10, 12), 'control': (10, 12), 'ranked': (12, 14),
                 'binarised': (14, 16)},
    (500, 0.3): {'none': (9, 11), 'control': (20, 20), 'ranked': (20, 20),
                 'binarised': (20, 20)},
    (5000, 0.1): {'none': (15, 15), 'control': (15, 15), 'ranked': (15, 15),
                  'binarised': (14, 14)},
  }  # fmt: skip
  for (total, rate), arms in right.items():
    for arm, counts in arms.items():
      for seed, count in enumerate(counts):
        made_up_sweep.write_pm(
          tmp_path,
          pmp_benefit.run_name(arm, total, rate),
          'tiny',
          seed,
          right=dict.fromkeys(analysis.KINDS, count),
        )
  summary = pmp_benefit.plot(str(tmp_path))
  assert summary['rate'] == {'500': 0.1, '5000': 0.1}
  gain = summary['gain_over_no_pmp']['500']['binarised']['all']
  # seeds differ by .1 in both arms; the paired gain has no error
  assert gain == {
    'mean': pytest.approx(0.2),
    'se': pytest.approx(0, abs=1e-9),
    'seeds': 2,
  }
  found = verdicts(summary)
  assert found['binarised PMP raises the accuracy after 500 pairs'] is True
  assert found['binarised PMP raises the accuracy after 5000 pairs'] is False
  assert found['ranked PMP raises the accuracy after 5000 pairs'] is False
  check_files(tmp_path, 'pmp_benefit', summary)


@pytest.mark.parametrize(
  'figure', [fig07, fig19, fig26, fig27, fig31, fig32, pmp_benefit]
)
def test_a_plot_of_nothing_is_refused(tmp_path, figure):
  with pytest.raises(InputError, match='run without --plot-only'):
    figure.plot(str(tmp_path))


def test_the_table_has_a_line_a_claim(tmp_path, capsys):
  write_curves(tmp_path, 'mix')
  fig07.plot(str(tmp_path))
  (tmp_path / 'fig13.json').write_text('{"gold/seeds": 2}')  # has no claims
  table.main([str(tmp_path)])
  first, second = capsys.readouterr().out.splitlines()
  assert first.split() == (
    'fig07 holds +0.0200 ± 0.0010 accuracy rises with ln(comparisons)'.split()
  )
  assert 'ln(parameters)' in second

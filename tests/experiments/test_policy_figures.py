"""Figs 4, 13, 33, 36 and the frontier of finished runs, from made-up runs."""

import json
import math

import pytest

from experiments import fig04_train_and_test_pm as fig04
from experiments import fig13_reward_vs_sqrt_kl as fig13
from experiments import fig33_policy_and_pm_size as fig33
from experiments import fig36_best_of_n as fig36
from experiments import frontier_hh, policy_runs
from hh_jax.errors import InputError
from tests.experiments.made_up_policies import write_best_of_n, write_ppo
from tests.recipes import chain as chain_lib

SEEDS = range(3)


@pytest.fixture(autouse=True)
def settings(tmp_path_factory):
  """Puts back what a command sets."""
  cache = tmp_path_factory.getbasetemp() / 'compiled'
  with chain_lib.recipe_settings(cache):
    yield


def bent(d):
  """Rises to 1 at d = 2, back to 0 at 4."""
  return d * (1 - d / 4)


def make_seed(root, seed, **ppo):
  slope = 0.5 + 0.01 * seed
  gains = {
    'pm_score': lambda d: slope * d,
    # agrees to d = 2, then stays behind
    'heldout_pm_score': lambda d: slope * d - 0.2 * max(d - 2, 0),
    'gold_score': bent,
  } | ppo.pop('gains', {})
  at = f'mini/seed{seed}'
  write_ppo(root / 'ppo/own' / at, **gains, **ppo)
  write_best_of_n(
    root / 'best_of_n/base' / at,
    pm_score=lambda d: (1 + 0.01 * seed) * d,
    heldout_pm_score=lambda d: d * (0.9 - 0.1 * d),
    gold_score=lambda d: 0.5 * d,
  )


@pytest.fixture
def workdir(tmp_path):
  for seed in SEEDS:
    make_seed(tmp_path, seed)
  return tmp_path


def verdicts(summary):
  return {claim['claim']: claim['holds'] for claim in summary['claims']}


def check_files(workdir, name, summary):
  assert json.loads((workdir / f'{name}.json').read_text()) == summary
  assert (workdir / f'{name}.png').read_bytes()[:4] == b'\x89PNG'


def test_fig13_recovers_slopes_bends_and_the_bound(workdir):
  summary = fig13.plot(str(workdir))
  check_files(workdir, 'fig13', summary)
  fits = summary['fits']['training PM']
  assert fits['slope']['mean'] == pytest.approx(0.51)
  assert fits['slope']['se'] == pytest.approx(0.01 / 3**0.5)
  assert fits['efficiency']['mean'] == pytest.approx(0.51 / 2**0.5)
  assert fits['slope_ratio']['mean'] == pytest.approx(1)
  held_out = summary['fits']['held-out PM']
  assert held_out['best_of_n']['a']['mean'] == pytest.approx(0.9)
  assert held_out['best_of_n']['b']['mean'] == pytest.approx(0.1)
  assert held_out['best_of_n']['seeds_with_a_bend'] == 3
  # the lead of best of n is read at its own end, sqrt(KL(best of 64))
  end = (math.log(64) - 63 / 64) ** 0.5
  assert fits['best_of_n_lead']['mean'] == pytest.approx(0.5 * end)
  said = verdicts(summary)
  assert said['none of 3 policies diverges'] is True
  assert said['training PM: the score rises with sqrt(KL)'] is True
  line = 'a line (slopes of both halves within 30%)'
  assert said[f'training PM: {line}'] is True
  assert said[f'gold: {line}'] is False
  assert said[
    'training PM: best of n gains more than the policy at the same KL'
  ]
  assert said[
    'training PM: the slope over all is below sqrt(2) deviations within prompts'
  ]
  assert said['gold: the score rises with sqrt(KL)'] is False


def test_fig04_finds_where_the_two_pms_part(workdir):
  summary = fig04.plot(str(workdir))
  check_files(workdir, 'fig04', summary)
  assert [x['mean'] for x in summary['gap']] == pytest.approx(
    [0, 0, 0, 0.2, 0.4], abs=1e-12
  )
  part = summary['part']
  assert (part['evaluation'], part['samples']) == (3, 60)
  assert part['sqrt_kl'] == pytest.approx(3)
  said = verdicts(summary)
  assert said['the training PM gains more than the test PM by the end'] is True
  assert said['gold still gains in the second half'] is False
  falls = summary['seeds_that_fall_while_the_training_pm_rises']
  assert falls == {'held-out PM': 0, 'gold': 3}


def test_fig04_says_where_pms_never_part(tmp_path):
  for seed in SEEDS:
    same = {'heldout_pm_score': lambda d, s=seed: d * (0.5 + 0.02 * (s % 2))}
    make_seed(tmp_path, seed, gains=same)
  part = fig04.plot(str(tmp_path))['part']
  assert part['evaluation'] is None and 'within' in part['because']


def test_fig36_compares_k_with_the_policy(workdir):
  summary = fig36.plot(str(workdir))
  check_files(workdir, 'fig36', summary)
  d = {k: (math.log(k) - (k - 1) / k) ** 0.5 for k in (1, 4, 16, 64)}
  for k, where in d.items():
    gain = summary['best_of_n']['training PM'][str(k)]['mean']
    assert gain == pytest.approx(1.01 * where)
    assert summary['kl'][str(k)] == pytest.approx(where**2)
  assert summary['elo_per_pm_unit'] == pytest.approx(173.7, abs=0.05)
  said = verdicts(summary)
  assert said['training PM: best of 64 is above best of 16'] is True
  # 4 x .51 by the training PM, 1.78 x 1.01; gold is back at 0
  assert said['training PM: the policy is above best of 64'] is True
  assert said['gold: the policy is above best of 64'] is False


def test_runs_that_diverge_are_counted_and_not_hidden(workdir):
  make_seed(workdir, 3, failure='iteration 3: the loss is nan')
  make_seed(workdir, 4, iterations=5)  # an alarm
  make_seed(workdir, 5, gains={'heldout_pm_score': lambda d: -d})
  nan = {'pm_score': lambda d: math.nan if d > 2 else d}
  make_seed(workdir, 6, gains=nan)
  summary = fig13.plot(str(workdir))
  assert summary['runs'] == 7
  assert set(summary['diverged']) == {'3', '4', '5', '6'}
  assert 'nan' in summary['diverged']['3']
  assert 'alarm' in summary['diverged']['4']
  assert 'below its start' in summary['diverged']['5']
  assert 'not finite' in summary['diverged']['6']
  # what ended on finite numbers stays in the fits
  assert set(summary['fits_by_seed']['training PM']) == {'0', '1', '2', '5'}
  assert verdicts(summary)['none of 7 policies diverges'] is False


def test_one_seed_has_numbers_and_no_verdicts(tmp_path):
  make_seed(tmp_path, 0)
  for figure in (fig04, fig13, fig36):
    said = verdicts(figure.plot(str(tmp_path)))
    assert said.pop('none of 1 policies diverges') is True
    assert set(said.values()) == {None}


def write_judged(root, name, size, pm_size, seed, score):
  at = f'{name}/{size}/by_{pm_size}/seed{seed}'
  write_best_of_n(root / 'judged' / at, pm_score=lambda d: score - 1)


def test_fig33_slopes_by_both_sizes(tmp_path):
  by = {'tiny': 0.1, 'mini': 0.4}  # a policy step, by test PM
  for seed in SEEDS:
    for i, size in enumerate(by):
      names = ('start', 'own', 'largest') if size == 'tiny' else (
        'start', 'own'
      )  # fmt: skip
      for name in names:
        if name != 'start':
          write_ppo(tmp_path / f'ppo/{name}/{size}/seed{seed}',
                    pm_score=lambda d: d)  # fmt: skip
        for pm_size, step in by.items():
          gain = 0 if name == 'start' else 1 + i * step + 0.01 * seed * i
          offset = 10 + i  # constants of the start are gone
          write_judged(tmp_path, name, size, pm_size, seed, offset + gain)
  summary = fig33.plot(str(tmp_path))
  check_files(tmp_path, 'fig33', summary)
  found = summary['by_policy_and_test_pm']['own']
  assert found['tiny']['mini']['gain']['mean'] == pytest.approx(1)
  assert found['mini']['mini']['gain']['mean'] == pytest.approx(1.41)
  assert found['mini']['mini']['slope']['mean'] == pytest.approx(1.41 / 4)
  assert set(summary['by_policy_and_test_pm']) == {'own', 'largest'}
  assert all(verdicts(summary).values()) and len(summary['claims']) == 6


@pytest.mark.parametrize('figure', [fig04, fig13, fig33, fig36])
def test_an_empty_directory_is_one_line(figure, tmp_path, capsys):
  with pytest.raises(SystemExit) as stopped:
    policy_runs.main(
      'x', figure.run, figure.plot, [f'--workdir={tmp_path}', '--plot-only']
    )
  assert stopped.value.code == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1


@pytest.mark.parametrize(
  ('flag', 'says'),
  [
    ('--config.size=13M', "config.size '13M' is none of config.sizes"),
    ('--config.num_seeds=0', 'config.num_seeds 0 is not 1 or more'),
    ('--config.seeds=3', "no config key 'seeds'"),
    ('--seeds=3', "no option '--seeds=3'"),
    ('--scale=demo', "size 'demo' is none of smoke"),
  ],
)
def test_a_bad_argument_is_one_line(flag, says, tmp_path, capsys):
  scale = [] if 'scale' in flag else ['--scale=smoke']
  for figure in (fig13, fig33):
    with pytest.raises(SystemExit) as stopped:
      policy_runs.main(
        'x', figure.run, figure.plot, [f'--workdir={tmp_path}', *scale, flag]
      )
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert says in err and err.count('\n') == 1


def pair(workdir, seed=0):
  at = f'mini/seed{seed}'
  return [
    '--ppo', str(workdir / 'ppo/own' / at),
    '--best_of_n', str(workdir / 'best_of_n/base' / at),
  ]  # fmt: skip


def test_the_frontier_of_finished_runs(workdir, tmp_path):
  out = tmp_path / 'out'
  frontier_hh.main([f'--workdir={out}', *pair(workdir)])
  summary = json.loads((out / 'frontier_hh.json').read_text())
  check_files(out, 'frontier_hh', summary)
  assert summary['fits']['training PM']['slope']['mean'] == pytest.approx(0.5)
  (one,) = summary['by_run'].values()
  assert one['chords']['training PM']['chord'] == pytest.approx(0.5)
  assert one['chords']['training PM']['gain_se'] == pytest.approx(0, abs=1e-12)
  assert one['part']['evaluation'] == 3
  assert one['part']['last_gap_se'] == pytest.approx(0.01 * 2**0.5)


@pytest.mark.parametrize('swap', [False, True])
def test_the_frontier_refuses_runs_of_other_kinds(workdir, capsys, swap):
  """The links swapped, or a best of n of another start."""
  ppo, best = pair(workdir)[1::2]
  if swap:
    ppo, best = best, ppo
  else:
    path = workdir / 'best_of_n/base/mini/seed0/config.json'
    path.write_text(path.read_text().replace('"start"', '"other"'))
  with pytest.raises(SystemExit):
    frontier_hh.main(
      [f'--workdir={workdir / "x"}', '--ppo', ppo, '--best_of_n', best]
    )
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1
  assert ('not a ppo run' if swap else "run is 'other'") in err


def test_too_few_points_are_refused(tmp_path):
  make_seed(tmp_path, 0, sqrt_kl=(0.0, 1.0, 2.0))
  with pytest.raises(InputError, match='3 evaluations: fits need'):
    fig13.plot(str(tmp_path))

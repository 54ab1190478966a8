"""What a policy run writes down, on made-up files."""

import json

import numpy as np
import pytest

from hh_jax.recipes import phases, policy_watch
from hh_jax.rl import alarms


def make_watch(workdir):
  return policy_watch.Watch(
    workdir=workdir,
    writer=None,
    evaluation=None,
    thresholds=alarms.Thresholds(0, 0, 0, 0),
    stops=False,
    max_failed=1,
    tolerance=0.0,
    seen=policy_watch.Seen(),
  )


def test_phases_of_redone_iterations_stand_once(tmp_path):
  """Killed while it wrote iteration 4, and resumed after 2."""
  path, phase = tmp_path / policy_watch.PHASES, phases.Phase(None)
  first, again = make_watch(tmp_path), make_watch(tmp_path)
  for step in (1, 2, 3):
    first.phases(step, {'sample': phase}, wall=10.0)
  with open(path, 'a') as file:
    file.write('{"step": 4, "sam')
  phase.seconds = 7.0
  for step in (3, 4):
    again.phases(step, {'sample': phase}, wall=10.0)
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert [row['sample/seconds'] for row in rows] == [0, 0, 7, 7]
  assert [row['idle_share'] for row in rows] == [1, 1, 0.3, 0.3]


def write_scores(path, **scores):
  np.savez(path, **{name: np.array(x) for name, x in scores.items()})


def test_the_gap_of_the_pms_is_paired_by_prompt(tmp_path):
  """Gains of 2 and 4 less gains of 1 and 2: prompts differ, gaps less so."""
  start, last = (tmp_path / f'eval_{x}.npz' for x in ('start', 'last'))
  write_scores(start, pm_score=[[1.0, 1], [5, 5]],
               heldout_pm_score=[[0.0, 0], [9, 9]])  # fmt: skip
  write_scores(last, pm_score=[[2.0, 4], [9, 9]],
               heldout_pm_score=[[0.0, 2], [11, 11]])  # fmt: skip
  found = policy_watch.pm_gap(tmp_path, 3)
  assert found['eval/pm_gap'] == pytest.approx(1.5)
  assert found['eval/pm_gap_se'] == pytest.approx(0.5)
  at_start = {'eval/pm_gap': 0.0, 'eval/pm_gap_se': 0.0}
  assert policy_watch.pm_gap(tmp_path, 0) == at_start
  write_scores(last, pm_score=[[2.0, 4], [9, 9]])
  assert policy_watch.pm_gap(tmp_path, 3) == {}

"""Figs 22, 23 and 39 from made-up runs: plots from JSONL, honest verdicts."""

import json

import numpy as np
import pytest

from experiments import (
  fig22_ood_by_layer,
  fig23_ood_exposure,
  fig39_ood_distances,
  ood_runs,
)
from hh_jax.errors import InputError

FIGURES = {
  'fig22': fig22_ood_by_layer,
  'fig23': fig23_ood_exposure,
  'fig39': fig39_ood_distances,
}


def auroc(size, seed, layer, method):
  """Middle layers, mini and more examples are better; relative but for one."""
  best = 0.6 + 0.001 * seed + 0.05 * (layer == ood_runs.middle(size))
  best += 0.02 * (size == 'mini')
  if method == 'mahalanobis':
    return best + (0.1 if (size, layer) == ('mini', 3) else -0.05)
  if method.startswith('exposure_'):
    return best + 0.1 * np.log10(int(method.removeprefix('exposure_')))
  return best


def make_run(folder, size, seed):
  path = folder / 'ood' / size / f'seed{seed}'
  path.mkdir(parents=True)
  layers = range(1, ood_runs.num_layers(size) + 1)
  methods = [*(f'exposure_{m}' for m in ood_runs.EXPOSURES)]
  rows = [
    {
      'layer': layer,
      'method': method,
      'auroc_mean': auroc(size, seed, layer, method),
      'auroc_sd': 0.01,
      'over_splits': [0.5],
    }
    for layer in layers
    for method in (*methods, ood_runs.SRM, ood_runs.PLAIN)
  ]
  scores = [
    {
      'is_outlier': i % 3 == 0,
      'layers': list(layers),
      ood_runs.SRM: [float(i % 3 == 0) + i / 99] * len(layers),
    }
    for i in range(90)
  ]
  for name, lines in (('ood', rows), ('scores', scores)):
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (path / f'{name}.jsonl').write_text(text)
  (path / 'summary.json').write_text('{}')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('figures')
  for size, num_seeds in (('tiny', 3), ('mini', 3), ('small', 1)):
    for seed in range(num_seeds):
      make_run(folder, size, seed)
  return folder


@pytest.fixture(scope='module')
def summaries(workdir):
  return {name: module.plot(str(workdir)) for name, module in FIGURES.items()}


def holds(summary, start):
  (found,) = [c for c in summary['claims'] if c['claim'].startswith(start)]
  return found['holds']


@pytest.mark.parametrize('name', FIGURES)
def test_files(workdir, summaries, name):
  assert (workdir / f'{name}.png').read_bytes()[:4] == b'\x89PNG'
  written = json.loads((workdir / f'{name}.json').read_text())
  assert written == summaries[name]
  assert list(summaries[name]['auroc']) == ['tiny', 'mini', 'small']
  for claim in summaries[name]['claims']:
    assert claim['holds'] in (True, False, None) and claim['because']


def test_fig22_verdicts(summaries):
  summary = summaries['fig22']
  assert holds(summary, 'tiny: AUROC at the middle layer') is True
  assert holds(summary, 'AUROC at the middle layer: mini over tiny') is True
  assert holds(summary, 'AUROC at the middle layer: small over tiny') is None
  assert holds(summary, 'mini: the middle layer is better') is True
  row = summary['auroc']['mini']['2']
  assert row['mean'] == pytest.approx(0.671) and row['seeds'] == 3
  assert row['se'] == pytest.approx(0.001 / 3**0.5)
  assert row['sd_over_splits'] == pytest.approx(0.01)
  shown = summary['histogram']
  assert shown['size'] == 'small' and shown['layer'] == 2
  assert sum(shown['harmless']) in (29, 30)  # all but the extreme ones


def test_fig22_draws_a_seed_that_is_there(tmp_path):
  make_run(tmp_path, 'tiny', 1)  # seed 0 is not finished
  summary = fig22_ood_by_layer.plot(str(tmp_path))
  assert summary['auroc']['tiny']['1']['seeds'] == 1


def test_fig23_verdicts(summaries):
  summary = summaries['fig23']
  assert holds(summary, 'tiny: M = 100 is better') is True
  assert holds(summary, 'mini: M = 10 is better') is True
  assert holds(summary, 'mini: M = 10 reaches') is False
  for claim in summary['claims']:  # the paper's numbers are of M = 10
    assert ('paper' in claim) == (': M = 10 ' in claim['claim'])
  row = summary['auroc']['mini']
  assert row['layer'] == 3
  assert row['10']['mean'] == pytest.approx(0.721)
  assert row['none']['mean'] == pytest.approx(0.621)


def test_fig39_one_exception_is_enough(summaries):
  summary = summaries['fig39']
  assert holds(summary, 'tiny, layer 1') is True
  assert holds(summary, 'mini, layer 3') is False
  assert holds(summary, 'small, layer 1') is None
  assert holds(summary, 'relative is better than plain at every') is False


def test_without_runs(tmp_path):
  for module in FIGURES.values():
    with pytest.raises(InputError, match='ood run'):
      module.plot(str(tmp_path))

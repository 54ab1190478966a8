"""Sweeps of plans, on CPUs; and the page that they make."""

import dataclasses
import json
import subprocess
import sys

import ml_collections
import pytest

from hh_jax import cli
from hh_jax.errors import InputError
from hh_jax.plan import cells, command, page, sweep, weak
from tests.conftest import REPO

SMALL = 'batch_size=8 row_length=32 max_pairs=2'
CELLS = (
  f'configs/pm.py:tiny cpu:1 {SMALL}',
  f'configs/pm.py:tiny cpu:2 {SMALL}',
)


def config(texts=CELLS, **fields):
  return ml_collections.ConfigDict({'cells': tuple(texts)} | fields)


@pytest.fixture
def compiled(monkeypatch):
  """Cells that are compiled, in order; a plan of none of them is made."""
  monkeypatch.chdir(REPO)
  texts = []

  def compile_cell(cell):
    texts.append(cell.text)
    if 'broken' in cell.text:
      raise InputError(f'cell {cell.text!r}: broken')
    return {'key': cell.key, 'cell': cell.text, 'plan': plan(cell)}

  monkeypatch.setattr(cells, 'compile_cell', compile_cell)
  return texts


def plan(cell, fits=True):
  names = 'bound', 'mfu_bound', 'hours', 'chip_hours', 'peak', 'fullest'
  return dict.fromkeys(names) | {
    'recipe': 'pm', 'topology': cell.topology, 'mesh': {'fsdp': 2, 'model': 1},
    'fits': fits, 'fix': None, 'fixed': None, 'phases': [], 'refused': '',
  }  # fmt: skip


def test_a_sweep_that_was_stopped_goes_on(compiled, tmp_path, capsys):
  options = {'--kept': str(tmp_path / 'plans' / 'kept.jsonl'), '--vocab': 512}
  assert sweep.run(config(CELLS[:1]), options) == 0
  assert sweep.run(config(), options) == 0
  assert compiled == [*CELLS]  # the first one once
  assert sweep.run(config(), options | {'--vocab': 1024}) == 0
  assert compiled == [*CELLS, *CELLS]  # another plan
  shown = capsys.readouterr().out.splitlines()
  assert shown[-1].startswith('pm tiny  cpu:2')
  assert max(map(len, shown)) <= 100
  assert sweep.run(config(), options | {'--fresh': True, '--json': True}) == 0
  assert len(compiled) == 6
  (line,) = capsys.readouterr().out.splitlines()
  assert [row['cell'] for row in json.loads(line)] == [*CELLS]


def test_a_row_that_was_cut_is_compiled_again(compiled, tmp_path):
  path = tmp_path / 'kept.jsonl'
  options = {'--kept': str(path)}
  sweep.run(config(), options)
  path.write_bytes(path.read_bytes()[:-20])
  sweep.run(config(), options)
  assert compiled == [*CELLS, CELLS[1]]


def test_a_cell_that_fails_is_said_and_tried_again(compiled, tmp_path, capsys):
  options = {'--kept': str(tmp_path / 'kept.jsonl')}
  broken = config([CELLS[0], f'{CELLS[1]} tokenizer=broken'])
  assert sweep.run(broken, options) == sweep.run(broken, options) == 1
  assert len(compiled) == 3
  assert capsys.readouterr().err.rstrip().endswith('broken')


def test_rows_of_other_sweeps_stay(compiled, tmp_path):
  path = tmp_path / 'kept.jsonl'
  options = {'--kept': str(path)}
  sweep.run(config(), options)
  sweep.run(config(CELLS[1:]), options | {'--fresh': True})
  assert compiled == [*CELLS, CELLS[1]]
  assert [row['cell'] for row in cells.kept(path).values()] == [*CELLS]


def test_a_cell_whose_process_dies_is_said(monkeypatch):
  monkeypatch.chdir(REPO)
  cell = cells.read_cell(CELLS[0], ())
  dies = dataclasses.replace(cell, command=('-c', 'raise SystemExit("oh")'))
  with pytest.raises(InputError, match="': oh$"):
    cells.compile_cell(dies)
  code = (
    'import os, sys; print("score", file=sys.stderr); os.kill(os.getpid(), 9)'
  )
  killed = dataclasses.replace(cell, command=('-c', code))
  with pytest.raises(InputError, match='exit code -9: score$'):
    cells.compile_cell(killed)


def test_what_the_page_compares_has_to_fit_as_it_is(
  compiled, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(page, 'render', lambda *_, **__: pytest.fail('a page'))
  fields = {'weak_ppo': (), 'saving': CELLS[0], 'changes': (), 'beyond': ()}
  options = {'--kept': str(tmp_path / 'kept'), '--write': str(tmp_path / 'x')}
  monkeypatch.setattr(
    cells,
    'compile_cell',
    lambda cell: {
      'key': cell.key, 'cell': cell.text, 'plan': plan(cell, fits=False),
    },
  )  # fmt: skip
  assert sweep.run(config(weak_pm=CELLS[:1], **fields), options) == 1
  assert "'configs/pm.py:tiny cpu:1" in capsys.readouterr().err
  with pytest.raises(InputError, match='with weak_pm: configs/scaling.py'):
    sweep.run(config(**fields), options)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('configs/pm.py:tiny ', 'is not PATH'),
    ('configs/pm.py:tiny', r'is not PATH\[:SIZE\] TOPOLOGY'),
    ('configs/pm.py:tiny cpu batch_size', 'is not PATH'),
    ('configs/pm.py:tiny cpu batchsize=8', "no config key 'batchsize'"),
    ('configs/pm.py:14M cpu', "size '14M' is none of"),
  ],
)
def test_a_cell_that_is_none_is_refused(text, message, monkeypatch):
  monkeypatch.chdir(REPO)
  with pytest.raises(InputError, match=message):
    cells.read_cell(text, ())


def test_mistakes_of_options(compiled):
  with pytest.raises(InputError, match='--write goes with --sweep'):
    command.run(config(), {'--topology': 'cpu', '--write': 'x.md'})
  with pytest.raises(InputError, match='every cell has its own'):
    command.run(config(), {'--sweep': True, '--topology': 'cpu'})
  with pytest.raises(InputError, match='takes a config with cells'):
    command.run(ml_collections.ConfigDict(), {'--sweep': True})
  with pytest.raises(InputError, match='there is nothing to plan'):
    command.run(config(()), {'--sweep': True})


def test_the_cells_of_the_page_are_plans(monkeypatch):
  monkeypatch.chdir(REPO)
  full = cli.load_config('configs/scaling.py', ())
  texts = [x for group in sweep.page_cells(full).values() for x in group]
  read = [cells.read_cell(text, ()) for text in (*full.cells, *texts)]
  assert len(full.cells) == 2 * 7 * 3
  # the first of `saving` and one of each weak_* are in the table too
  assert len({cell.key for cell in read}) == len(read) - 3


def _point(chips, links):
  seconds = {'flops': 1.0, 'memory': 2.0, 'links': links}
  return weak.Point(chips, chips // 4, {'train': seconds})


def test_the_law_of_weak_scaling():
  """What is gathered by g chips costs (g - 1) / g of it: 3 - 3 / g here."""
  exact = [_point(n, 3 - 3 / (n // 4)) for n in (64, 128, 256)]
  found = weak.points(exact, (4096,))
  assert [x.off for x in found] == [0, 0, pytest.approx(0, abs=1e-9), None]
  assert found[-1].of('links') == pytest.approx(3 - 3 / 1024)
  assert found[-1].of('flops') == 1
  assert found[-1].overlapped == found[-1].of('links')
  assert found[-1].in_turn == pytest.approx(2 + 3 - 3 / 1024)
  worse = weak.points([*exact[:2], _point(256, 6.0)], ())
  assert worse[-1].off == pytest.approx(exact[2].of('links') / 6 - 1)
  with pytest.raises(ValueError, match='too few'):
    weak.points(exact[:2], ())


def _row(chips, *, links, cell='configs/pm.py:52B v5p:4x4x4'):
  phase = {
    'name': 'train', 'calls': 3, 'is_quick': True, 'memory': 95 * 2**30,
    'arguments': 2**30, 'temporaries': 2**31, 'peak': 3 * 2**30,
    'seconds': {'flops': 1.0, 'memory': 2.0, 'links': links},
  }  # fmt: skip
  of = plan(cells.Cell(cell, cell, 'v5p:4x4x4', {}, (), ''))
  of |= {
    'chips': chips, 'mesh': {'fsdp': chips // 4, 'model': 4}, 'seconds': 2.0,
    'fullest': 'train', 'peak': 3 * 2**30, 'phases': [phase], 'vocab_size': 512,
  }  # fmt: skip
  return {
    'cell': cell, 'plan': of, 'versions': {'jax': '1'}, 'code': 'abc',
  }  # fmt: skip


def test_the_page_says_what_was_compiled_and_what_follows_the_law():
  rows = [_row(n, links=3 - 12 / n) for n in (64, 128, 256)]
  fix = {'optimizer.moments_dtype': 'bfloat16'}
  small = _row(64, links=1.0)
  small['plan'] |= {'fits': False, 'fix': fix, 'fixed': rows[0]['plan']}
  saving = [rows[0], _row(64, links=1.0, cell=f'{rows[0]["cell"]} slots=64')]
  found = {'cells': [*rows, small], 'saving': saving, 'weak_pm': rows}
  text = page.render(found, beyond=[4096], command='python -m x')
  lines = text.splitlines()
  assert (
    '| 256 | 64 | 1 | 2 | 2.95 | +0.0% | 2.95 | 95% | 4.95 | 97% |' in lines
  )
  assert '| 4096 | 1024 | 1 | 2 | 3 |  | 3 | 94% | 5 | 96% |' in lines
  assert '- *1 fits with `--config.optimizer.moments_dtype=bfloat16`' in lines
  assert '| `slots=64` | 1.00 GiB | 2.00 GiB | 3.00 GiB | 2 |' in lines
  assert '`--quick`' in text and 'Sources of the package: abc.' in text
  widths = [line.count('|') for line in lines if line.startswith('| pm')]
  assert set(widths) == {12}


@pytest.mark.slow
def test_a_sweep_compiles_and_writes_a_page(tmp_path, monkeypatch, capsys):
  """Each cell in a process of its own, with as many devices as chips."""
  monkeypatch.chdir(REPO)
  cell = f'configs/pm.py:tiny cpu:4 {SMALL}'
  asked = config(
    [CELLS[1]], saving=cell, changes=('optimizer.moments_dtype=bfloat16',),
    weak_pm=(), weak_ppo=(), beyond=(),
  )  # fmt: skip
  options = {'--kept': str(tmp_path / 'kept.jsonl'), '--vocab': 512}
  page = tmp_path / 'page.md'
  assert sweep.run(asked, options | {'--write': str(page)}) == 0
  text = page.read_text()
  assert '| pm tiny | cpu:2 | f2 | yes |' in text
  assert '| `optimizer.moments_dtype=bfloat16` |' in text
  assert 'Versions: jax ' in text
  broken = f'{cell} mesh.model=3'
  assert sweep.run(config([broken]), options) == 1
  assert 'config.mesh: ' in capsys.readouterr().err


@pytest.mark.libtpu
@pytest.mark.slow
@pytest.mark.parametrize('recipe', ['pm', 'ppo'])
def test_all_sizes_on_all_kinds_of_tpus(tpu_compiler, tmp_path, recipe):
  """The first table of docs/scaling.md; what does not fit is compiled too."""
  words = f'plan --sweep --config=configs/scaling.py:{recipe} --quick --steps=1'
  done = subprocess.run(
    [sys.executable, '-m', 'hh_jax', *words.split(), '--json',
     f'--kept={tmp_path}/kept.jsonl'],
    cwd=REPO, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode in (0, 1), done.stderr
  rows = json.loads(done.stdout.splitlines()[-1])
  plans = [row['plan'] for row in rows]
  seen = [
    (row['cell'].split()[0], of['topology'][:3])
    for row, of in zip(rows, plans, strict=True)
  ]
  sizes = ('13M', '42M', '197M', '810M', '2.7B', '13B', '52B')
  assert seen == [
    (f'configs/{recipe}.py:{size}', kind)
    for size in sizes
    for kind in ('v5e', 'v5p', 'v6e')
  ]
  fitting = [of for of in plans if of['fits']]
  assert len(fitting) >= len(plans) - 2  # 52B, where decoding is gathered
  for of in fitting:
    assert 0 < of['mfu_bound'] <= 1 and of['hours'] > 0
    for phase in of['phases']:
      # recomputation, and what a decode step does for rows that are done
      assert phase['flops'] >= 0.5 * phase['model_flops']

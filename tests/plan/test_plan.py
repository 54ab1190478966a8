"""Plans of the smallest model, for the devices that tests have."""

import dataclasses
import importlib.util
import json

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from configs import pm as pm_config
from configs import ppo as ppo_config
from configs import pretrain as pretrain_config
from hh_jax import __main__ as main_lib
from hh_jax import sharding
from hh_jax.errors import InputError
from hh_jax.plan import chips, command, fixes, measure, phases, plans, table

CPU = chips.parse('cpu:4')
ASKED = plans.Asked(vocab_size=512)
VOCAB = ASKED.vocab_size
SHORT = ['--config.row_length=32', '--config.batch_size=8', '--vocab=512']


def _pm():
  config = pm_config.get_config('tiny')
  config.update(row_length=32, batch_size=8, max_pairs=2)
  return config


def _ppo():
  config = ppo_config.get_config('tiny')
  config.update(
    max_prompt=16, max_reply=8, batch_size=16, head_chunk=64, eval_batch_size=8
  )
  config.num_minibatches = 2
  return config


@pytest.fixture(scope='module')
def ppo_plan():
  return plans.compiled(_ppo(), CPU, ASKED)


@pytest.mark.parametrize('recipe', ['pm', 'pretrain'])
def test_a_training_step_is_what_the_formula_says(recipe):
  config = _pm()
  if recipe == 'pretrain':
    config = pretrain_config.get_config('tiny')
    config.update(row_length=32, batch_size=8, head_chunk=64)
  plan = plans.compiled(config, CPU, ASKED)
  (step,) = plan.phases
  assert plan.recipe == recipe
  assert step.flops == pytest.approx(step.model_flops, rel=0.1)
  mesh = sharding.make_mesh()
  ((state, batch),) = (
    of.arguments({}) for of in phases.make(config, mesh, vocab_size=VOCAB)
  )
  # parameters and two moments, of which a chip has a quarter
  floats = [x for x in jax.tree.leaves(state) if x.ndim > 0]
  shares = sum(x.size * 4 for x in floats) / 4
  unread = (batch.parents, batch.pair_ids) if recipe == 'pm' else ()
  assert step.arguments == phases.chip_bytes(
    (state, batch)
  ) - phases.chip_bytes(unread)
  assert shares < step.arguments < 1.1 * shares
  assert plan.fits and step.seconds == {}


@pytest.mark.slow
def test_every_phase_of_a_policy_iteration_is_there(ppo_plan):
  sample, score, update = ppo_plan.phases
  assert [x.name for x in ppo_plan.phases] == ['sample', 'score', 'update']
  # the loop's end is the data's; its products of one row are no dots
  assert sample.open_loops == 1
  assert 0.5 * sample.model_flops < sample.flops < 1.1 * sample.model_flops
  for of in (score, update):
    assert of.flops == pytest.approx(of.model_flops, rel=0.1)
  # policy and value with their moments, beside reference and PM
  assert update.resident == pytest.approx(sample.arguments * 2, rel=0.1)
  assert update.arguments == pytest.approx(sample.arguments * 6, rel=0.1)
  assert sample.resident == pytest.approx(sample.arguments * 7, rel=0.1)


@pytest.mark.slow
def test_replies_are_spread_over_the_devices(ppo_plan):
  # ids, masks and log-probs of 4 of 16 replies, 24 columns
  sample = ppo_plan.phases[0]
  assert sample.outputs < 2 * 4 * (24 + 8 + 8 + 3) * 4


@pytest.mark.slow
def test_a_layout_for_decoding_is_a_phase_and_stays_beside_the_others(ppo_plan):
  config = _ppo()
  config.decode_params = 'gathered'
  plan = plans.compiled(config, CPU, ASKED)
  reshard, sample, *_ = plan.phases
  assert [x.name for x in (reshard, sample)] == ['reshard', 'sample']
  assert reshard.flops == 0 and reshard.mfu_bound is None
  # of four shares three come from others, sent once and read in every step
  (name,) = reshard.sent
  assert 'all-gather' in name
  split = ppo_plan.phases[0]
  assert sum(sample.sent.values()) < 0.5 * sum(split.sent.values())
  # what training keeps of the policy is no argument of the sampler then
  assert sample.resident == split.resident + reshard.arguments


def _chip(memory: float) -> chips.Topology:
  chip = chips.Chip(1e12, memory / 0.75, 1e9, 1e8)
  return chips.Topology('gpu:toyx4', 'gpu', 4, chip)


def _plan(config, *, peaks, monkeypatch):
  """A fix where `peaks(config)` are the bytes of each phase, of 100."""

  def compiled(config, topology, asked, *, whole=True):
    found = [
      dataclasses.replace(MEASURED, name=name, peak=peak)
      for name, peak in peaks(config).items()
    ]
    return plans.Plan(topology, 'ppo', 512, {}, 1, found)

  monkeypatch.setattr(plans, 'compiled', compiled)
  return fixes.plan(config, _chip(100.0), ASKED, fix=True)


MEASURED = measure.Measured(
  name='', calls=1, compile_s=0, is_quick=False, arguments=1, outputs=1,
  temporaries=1, resident=0, peak=1, memory=100.0, model_flops=1, flops=1,
  memory_traffic=1, sent={}, open_loops=0, seconds={},
)  # fmt: skip


def test_a_fix_is_the_weakest_value_of_the_cheapest_option(monkeypatch):
  def peaks(config):
    return {'sample': 50, 'update': 480 / config.num_micro_batches}

  found = _plan(_ppo(), peaks=peaks, monkeypatch=monkeypatch)
  assert found.fix == {'num_micro_batches': 8} and found.fixed.fits
  # options before it were tried by themselves, and slots help no update
  assert {'optimizer.moments_dtype': 'bfloat16'} in found.tried
  assert not any('slots' in flags for flags in found.tried)
  assert {'num_micro_batches': 4} in found.tried


def test_a_value_that_is_refused_leaves_the_weaker_ones(monkeypatch):
  def peaks(config):
    if config.num_micro_batches > 4:
      raise InputError('it does not divide')
    return {'sample': 50, 'update': 380 / config.num_micro_batches}

  found = _plan(_ppo(), peaks=peaks, monkeypatch=monkeypatch)
  assert found.fix == {'num_micro_batches': 4} and found.fixed.fits


def test_a_fix_combines_what_helps_and_leaves_out_what_does_not(monkeypatch):
  def peaks(config):
    moments = 30 * (config.optimizer.moments_dtype == 'float32')
    head = 30 * (config.head_chunk > 1024) + 5 * (config.head_chunk > 256)
    return {'sample': 60 + moments, 'update': 71 + moments + head}

  config = _ppo()
  config.head_chunk = 4096
  found = _plan(config, peaks=peaks, monkeypatch=monkeypatch)
  assert found.fix == {
    'optimizer.moments_dtype': 'bfloat16',
    'head_chunk': 1024,
  }
  assert {'head_chunk': 256} in found.tried


def test_where_nothing_fits_all_was_tried(monkeypatch):
  found = _plan(
    _ppo(), peaks=lambda config: {'sample': 101}, monkeypatch=monkeypatch
  )
  assert found.fixed is None and not found.fits
  assert {'slots': 2} in found.tried and {'mesh.model': 4} not in found.tried
  assert {'mesh.model': 4, 'mesh.fsdp': -1} in found.tried
  # what saves activations alone is not tried for a sampler
  assert not any('num_micro_batches' in flags for flags in found.tried)


def test_a_mesh_that_the_recipe_refuses_is_where_a_fix_begins(monkeypatch):
  def peaks(config):
    if config.mesh.model < 2:
      raise InputError('config.batch_size 2 is not divisible by fsdp=4')
    return {'sample': 50 + 60 * (config.optimizer.moments_dtype == 'float32')}

  found = _plan(_ppo(), peaks=peaks, monkeypatch=monkeypatch)
  assert found.refused.startswith('config.batch_size') and not found.fits
  assert found.fix == {
    'mesh.model': 2,
    'mesh.fsdp': -1,
    'optimizer.moments_dtype': 'bfloat16',
  }


@pytest.mark.parametrize(
  ('peaks', 'arguments', 'compiled'),
  [
    ((90, 0), 50, [True]),  # it fits
    ((110, 90), 50, [True, False]),  # as a run it might, and does
    ((110, 0), 101, [True]),  # nothing helps
  ],
)
def test_what_does_not_fit_quickly_is_compiled_as_a_run_is(
  peaks, arguments, compiled, monkeypatch
):
  def compile_phase(of, topology, seen, *, quick):
    seen.append(quick)
    return dataclasses.replace(
      MEASURED, is_quick=quick, peak=peaks[not quick], arguments=arguments
    )

  monkeypatch.setattr(measure, '_compile', compile_phase)
  seen = []
  found = measure.phase(None, CPU, seen, quick=True)
  assert seen == compiled and found.is_quick == compiled[-1]


@pytest.mark.slow
def test_a_fix_is_compiled():
  config = _pm()
  config.batch_size = 64  # activations beside the parameters
  (first,) = plans.compiled(config, _chip(1e12), ASKED).phases
  assert first.fits and first.seconds['links'] == pytest.approx(
    sum(first.sent.values()) / 1e8
  )
  assert first.time == max(first.seconds.values())
  found = fixes.plan(config, _chip(first.peak - 1), ASKED, fix=True)
  assert not found.fits and found.fixed.fits
  assert found.fixed.phases[0].peak < first.peak
  assert 'fits with --config.' in table.render(found)


def test_the_command_prints_a_table_or_json(capsys):
  argv = ['plan', '--config=configs/pm.py:tiny', '--topology=cpu:4', *SHORT]
  assert main_lib.main([*argv, '--json']) == 0
  out, err = capsys.readouterr()
  found = json.loads(out)
  assert err == 'hh_jax: compiling train, 1 of 1\n'
  assert found['fits']
  one = {'data': 1, 'sequence': 1, 'model': 1}
  assert found['mesh'] == one | {'fsdp': 4}
  assert found['hours'] is None
  assert main_lib.main(argv) == 0
  assert 'FLOPs, compiled' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ([], '--topology is missing: it is one of v5e:4x4'),
    (['--topology=v9:2x2'], "--topology 'v9:2x2' is none of v5e:4x4"),
    (['--topology=v5p:4x4'], "'v5p:4x4': slices of v5p have 3 sides"),
    (['--topology=gpu:h200x'], "'gpu:h200x' is none of"),
    (['--topology=cpu:3'], 'is of 3 chips, and this process has 4'),
    (['--topology=cpu:4', '--config.mesh.model=3'], 'config.mesh: '),
    (['--topology=cpu:4', '--config.batch_size=6'], 'divisible by fsdp=4'),
    (['--topology=cpu:4', '--vocab=many'], '--vocab takes an integer'),
    (['--topology=cpu:4', '--workdir=x'], 'takes no --workdir'),
    (['--topologie=v5p:4x8x8'], 'nearest: --topology; plan has --topology, '),
    (['--chips=v5p:4x8x8'], 'plan has --topology, --vocab, --steps, --json, '),
  ],
)
def test_mistakes_are_one_line(words, message, capsys):
  argv = ['plan', '--config=configs/pm.py:tiny', *words]
  assert main_lib.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith('hh_jax: error: ') and error.count('\n') == 1
  assert message in error


def test_a_config_of_another_recipe_is_refused(capsys):
  argv = ['plan', '--config=configs/tokenizer.py', '--topology=cpu:4']
  assert main_lib.main(argv) == 2
  assert 'recipes that can be planned: ppo, pm' in capsys.readouterr().err


def test_without_the_compiler_of_tpus_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r"pip install 'hh_jax\[plan\]'"):
    command.run(_pm(), {'--topology': 'v5e:2x2'})


def test_topologies_have_their_chips():
  v5p = chips.parse('v5p:4x8x8')
  assert (v5p.num_chips, v5p.kind) == (256, 'tpu')
  assert v5p.memory == 95 * 2**30
  h200 = chips.parse('gpu:h200x8')
  assert h200.num_chips == 8 and h200.memory == pytest.approx(0.75 * 141e9)
  assert chips.parse('cpu').memory is None


def test_a_compiler_says_how_much_it_needs():
  message = 'Ran out of memory. Used 123.50G of 95.74G hbm. Exceeded by'
  assert measure.needed_bytes(message, 7) == 123.5 * 2**30
  message = 'memory required for HLO temporaries (56.25G) exceeds available'
  assert measure.needed_bytes(message, 7) == 56.25 * 2**30 + 7
  assert measure.needed_bytes('another error', 7) is None


@pytest.mark.libtpu
@pytest.mark.slow
def test_a_slice_of_tpus(tpu_compiler):
  config = _pm()
  found = plans.compiled(config, chips.parse('v5e:2x2'), ASKED)
  (step,) = found.phases
  assert found.fits and set(step.seconds) == set(measure.RESOURCES)
  assert step.flops == pytest.approx(step.model_flops, rel=0.1)
  assert 0 < step.mfu_bound <= 1


@pytest.mark.libtpu
@pytest.mark.parametrize('slice_', ['v6e:8x16', 'v5p:8x8x8', 'v5e:16x16'])
def test_a_degree_may_be_a_part_of_a_side_of_a_slice(tpu_compiler, slice_):
  devices = chips.parse(slice_).devices()
  mesh = sharding.make_mesh(model=4, devices=devices)
  assert mesh.shape['fsdp'] == len(devices) // 4
  # next to each other
  for four in mesh.devices.reshape(-1, 4):
    apart = np.diff([chip.coords for chip in four], axis=0)
    np.testing.assert_array_equal(np.abs(apart).sum(axis=1), 1)


def test_results_of_what_does_not_compile_lie_where_it_says_or_by_rows():
  mesh = sharding.make_mesh(fsdp=4)
  rows, whole = (
    jax.NamedSharding(mesh, spec) for spec in (P(sharding.ROWS), P())
  )
  x = jax.ShapeDtypeStruct((8, 2), np.float32, sharding=rows)
  fn = jax.jit(lambda x: (x, x, x.sum()), out_shardings=(whole, None, None))
  found = phases.in_rows(fn.lower(x).out_info, (x,))
  assert [chip // 4 for chip in map(phases.chip_bytes, found)] == [16, 4, 1]

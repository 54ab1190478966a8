"""Kernels as the compilers of chips that are not here take them."""

import functools
import re

import jax
from jax._src.cudnn import fused_attention_stablehlo as fused
import jax.numpy as jnp
import pytest

from configs import pm as pm_config
from hh_jax import attention, sharding
from hh_jax.plan import chips, phases

VOCAB = 512
MESHES = ({'fsdp': 2, 'model': 2}, {'sequence': 2, 'model': 2})


@pytest.fixture
def tpus(tpu_compiler):
  """The chips of a v5e slice of 2x2."""
  return chips.parse('v5e:2x2').devices()


def forward_and_backward(impl, *, mesh, length, head_dim=64):
  """Lowerable: attention of 4 packed rows with branches, and its gradients."""

  def place(shape, dtype, *axes):
    spec = sharding.fit(mesh, shape, *axes)
    place = jax.NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  shape, axes = (4, length, 4, head_dim), (sharding.ROWS, 'sequence')
  q = place(shape, jnp.bfloat16, *axes, 'model')
  ids = place(shape[:2], jnp.int32, *axes)

  def fn(q, k, v, mask):
    attend = functools.partial(attention.attend, mask=mask, impl=impl)
    out, pull_back = jax.vjp(attend, q, k, v)
    return out, *pull_back(out)

  return jax.jit(fn).trace(q, q, q, attention.Packed(ids, ids))


@pytest.mark.parametrize('sizes', MESHES, ids=str)
def test_cudnn_is_called_on_the_share_of_a_gpu(monkeypatch, sizes):
  monkeypatch.setattr(fused, 'check_cudnn_version', lambda: 91000)
  mesh = sharding.make_mesh(**sizes)
  traced = forward_and_backward('cudnn', mesh=mesh, length=256)
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  calls = re.findall(r'custom_call @(__cudnn\S+?)\(.*-> \(?tensor<(\w+)>', text)
  b, t = 4 // sizes.get('fsdp', 1), 256 // sizes.get('sequence', 1)
  of_queries = f'{b}x2x{t}x64xbf16'
  assert calls == [
    ('__cudnn$fmhaScaleBiasSoftmax', of_queries),
    ('__cudnn$fmhaScaleBiasSoftmaxBackward', of_queries),
  ]


@pytest.mark.libtpu
@pytest.mark.slow
@pytest.mark.parametrize('head_dim', [16, 128])
@pytest.mark.parametrize('sizes', MESHES, ids=str)
def test_splash_compiles_for_a_tpu(tpus, sizes, head_dim):
  mesh = sharding.make_mesh(**sizes, devices=tpus)
  traced = forward_and_backward(
    'splash', mesh=mesh, length=600, head_dim=head_dim
  )
  text = traced.lower().compile().as_text()
  # forward, keys and values, queries; of each of the two replies
  assert text.count('custom_call_target="tpu_custom_call"') == 6


def preference_step(devices, **sizes):
  """The compiled step of a pm run on rows of 1,024 tokens, on these chips."""
  config = pm_config.get_config('tiny')
  config.update(row_length=1024, batch_size=8, max_pairs=4)
  config.model.dtype = 'bfloat16'
  config.model.attention = sizes.pop('attention', 'auto')
  config.mesh.update(sizes)
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  (phase,) = phases.make(config, mesh, vocab_size=VOCAB)
  return phase.jitted.lower(*phase.arguments({})).compile()


@pytest.mark.libtpu
@pytest.mark.slow
@pytest.mark.parametrize('sizes', MESHES, ids=str)
def test_a_preference_step_with_splash_stores_less(tpus, sizes):
  splash, plain = (
    preference_step(tpus, attention=impl, **sizes) for impl in ('auto', 'xla')
  )
  assert 'splash_mha_fwd' in splash.as_text()
  assert 'tpu_custom_call' not in plain.as_text()
  stored, scores = (
    x.memory_analysis().temp_size_in_bytes for x in (splash, plain)
  )
  assert stored < 0.5 * scores


@pytest.mark.libtpu
@pytest.mark.slow
def test_the_sequence_axis_splits_what_a_chip_stores(tpus):
  """8 rows of long text on four chips, in two ways."""
  by_row, by_time = (
    preference_step(tpus, fsdp=fsdp, sequence=4 // fsdp)
    .memory_analysis()
    .temp_size_in_bytes
    for fsdp in (4, 1)
  )
  # all keys and values of a layer at a time; heads of 16 fill 128 lanes
  assert by_time < 3 * by_row

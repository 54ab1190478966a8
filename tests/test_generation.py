"""Replies to prompts of any length, whatever the shapes of the calls."""

import dataclasses

import jax
import pytest

from hh_jax import errors, generation, sampling, sharding
from hh_jax import model as model_lib

PROMPTS = [[2, 9, 8, 7, 9, 9], [2, 11], [2, 9, 9, 9], [2], [2, 8, 7]]


@pytest.fixture(scope='module')
def network():
  config = model_lib.ModelConfig(
    num_layers=1, d_model=16, num_heads=2, d_mlp=32, vocab_size=24
  )
  model = model_lib.Transformer(config)
  return model, model.init(jax.random.key(0))


def generator(model, **fields):
  settings = {'batch_size': 8, 'widths': (6,)} | fields
  return generation.Generator(
    model=model,
    distribution=sampling.SamplingDistribution(1.0, (0, 1, 2), (3, 5)),
    max_reply=6,
    mesh=sharding.make_mesh(),
    num_samples=2,
    **settings,
  )


@pytest.fixture(scope='module')
def replies(network):
  return generator(network[0])(network[1], PROMPTS, jax.random.key(7))


@pytest.mark.parametrize(
  'fields',
  [
    {'batch_size': 4, 'widths': (2, 4, 6)},
    {'slots': 4, 'widths': (2, 4, 6)},
    {'slots': 99},
  ],
)
def test_batches_widths_and_slots_change_no_reply(network, replies, fields):
  got = generator(network[0], **fields)(network[1], PROMPTS, jax.random.key(7))
  assert [[r.ids for r in x] for x in got] == [
    [r.ids for r in x] for x in replies
  ]
  assert len({len(r.ids) for x in got for r in x}) > 2
  for ours, theirs in zip(sum(got, []), sum(replies, []), strict=True):
    assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert ours.is_stopped == theirs.is_stopped


def test_prompts_that_do_not_fit_are_refused(network):
  draw = generator(network[0])
  for wrong in ([], [2] * 7):
    with pytest.raises(errors.InputError, match='prompt 1 has . tokens: want'):
      draw(network[1], [[2], wrong], jax.random.key(0))
  with pytest.raises(errors.InputError, match='slots -1 is not 0 or more'):
    generator(network[0], slots=-1)


def test_samples_that_share_a_row_of_prompts():
  """A prompt's samples make up whole rows, whole rows whole batches."""
  mesh = sharding.make_mesh()
  cases = [(4, 12), (4, 6), (64, 256), (64, 16), (3, 8)]
  got = [generation.shared_samples(n, b, mesh) for n, b in cases]
  if mesh.shape['fsdp'] == 1:
    assert got == [4, 2, 64, 16, 1]
  four = dataclasses.make_dataclass('Mesh', ['shape'])({'data': 2, 'fsdp': 2})
  got = [generation.shared_samples(n, b, four) for n, b in cases]
  assert got == [1, 1, 64, 4, 1]

"""What Transformer.activations reads, layer by layer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import arrays, attention
from hh_jax import model as model_lib
from hh_jax.errors import InputError
from hh_jax.evals import ood

VOCAB, LAYERS, D = 50, 3, 32
LENGTHS = jnp.array([4, 7])


def make(**changes):
  config = model_lib.ModelConfig(
    num_layers=LAYERS, d_model=D, num_heads=2, d_mlp=64, vocab_size=VOCAB
  )
  return model_lib.Transformer(dataclasses.replace(config, **changes))


MODEL = make()


@functools.cache
def params():
  """Random parameters, with norms that are not all one."""
  tree = jax.jit(MODEL.init)(jax.random.key(0))
  scale = jnp.linspace(0.5, 2.0, D)
  return tree | {'final_norm': scale}


def tokens(batch=2, length=7):
  return jax.random.randint(jax.random.key(1), (batch, length), 0, VOCAB)


def is_real(lengths, width):
  return (jnp.arange(width)[None] < lengths[:, None]).astype(jnp.int32)


def row_means(segments):
  """x [B, T, D] -> [B, D], the mean over the tokens of segment 1."""

  def read(x):
    total = (x * segments[:, :, None]).sum(axis=1)
    return total / segments.sum(axis=1, keepdims=True)

  return read


def reader(kind, lengths, segments):
  return {
    'last': lambda x: arrays.take_last(x, lengths),
    'mean': row_means(segments),
    'all': lambda x: x,
  }[kind]


@functools.partial(jax.jit, static_argnums=(0, 1))
def activations(model, kind, params, tokens, lengths):
  segments = is_real(lengths, tokens.shape[1])
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  mask = attention.Packed(segments)
  read = reader(kind, lengths, segments)
  return model.activations(params, tokens, positions, mask, read)


def read(tokens, lengths, *, model=MODEL, kind='last'):
  """Activations [B, L + 1, ...] of rows padded on the right."""
  return activations(model, kind, params(), tokens, lengths)


def rms_norm(x):
  return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)


def test_layers_are_those_of_shorter_networks():
  """Entry l against the hidden states of the network of the first l blocks."""
  every = np.asarray(read(tokens(), LENGTHS, kind='all'))
  assert every.shape == (2, LAYERS + 1, 7, D)
  embedding = params()['embedding'][tokens()]
  np.testing.assert_array_equal(every[:, 0], embedding)
  mask = attention.Packed(is_real(LENGTHS, 7))
  positions = jnp.broadcast_to(jnp.arange(7), (2, 7))
  for layer in range(1, LAYERS + 1):
    blocks = jax.tree.map(lambda x, n=layer: x[:n], params()['blocks'])
    shorter = params() | {'blocks': blocks}
    hidden = jax.jit(make(num_layers=layer).hidden)(
      shorter, tokens(), positions, mask
    )
    wanted = rms_norm(every[:, layer]) * np.asarray(params()['final_norm'])
    np.testing.assert_allclose(hidden, wanted, atol=1e-5)
  steps = np.abs(np.diff(every, axis=1)).max(axis=(0, 2, 3))
  assert (steps > 1e-3).all()  # every block does something


def test_readers_take_from_all_tokens_what_they_say():
  every = np.asarray(read(tokens(), LENGTHS, kind='all'))
  last, mean = (read(tokens(), LENGTHS, kind=k) for k in ('last', 'mean'))
  assert last.shape == mean.shape == (2, LAYERS + 1, D)
  assert last.dtype == mean.dtype == jnp.float32
  np.testing.assert_allclose(
    last, [every[0, :, 3], every[1, :, 6]], rtol=1e-6, atol=1e-7
  )
  wanted = [every[0, :, :4].mean(axis=1), every[1].mean(axis=1)]
  np.testing.assert_allclose(mean, wanted, atol=1e-6)


@pytest.mark.parametrize('kind', ['last', 'mean'])
def test_padding_changes_nothing(kind):
  before = read(tokens(), LENGTHS, kind=kind)
  other = (tokens() + 1) % VOCAB
  changed = jnp.where(is_real(LENGTHS, 7) > 0, tokens(), other)
  np.testing.assert_array_equal(read(changed, LENGTHS, kind=kind), before)
  longer = jnp.pad(tokens(), [(0, 0), (0, 5)], constant_values=3)
  np.testing.assert_allclose(
    read(longer, LENGTHS, kind=kind), before, atol=1e-5
  )
  real = read(other, LENGTHS, kind=kind)
  assert (jnp.abs(real - before).max(axis=-1) > 1e-3).all()


@pytest.mark.parametrize('kind', ['last', 'mean'])
def test_the_rest_of_the_batch_changes_nothing(kind):
  rows, lengths = tokens(5), jnp.array([4, 7, 1, 2, 7])
  before = read(rows, lengths, kind=kind)
  for order in ([3, 0], [1, 2]):
    order = jnp.array(order)
    after = read(rows[order], lengths[order], kind=kind)
    np.testing.assert_allclose(after, before[order], atol=1e-5)


@pytest.mark.parametrize(
  'changes',
  [{'scan_unroll': 3}, {'remat': 'full'}, {'remat': 'dots'},
   {'attention': 'xla'}],
  ids=str,
)  # fmt: skip
def test_how_it_is_computed_changes_nothing(changes):
  np.testing.assert_allclose(
    read(tokens(), LENGTHS, model=make(**changes)),
    read(tokens(), LENGTHS),
    atol=1e-5,
  )


def test_bfloat16_keeps_the_residual_stream_in_float32():
  exact = read(tokens(), LENGTHS)
  rounded = read(tokens(), LENGTHS, model=make(dtype='bfloat16'))
  assert rounded.dtype == jnp.float32
  assert 0 < jnp.abs(rounded - exact).max() < 0.1
  assert (rounded != rounded.astype(jnp.bfloat16)).any()


def test_only_what_is_read_is_kept_for_all_layers():
  def shapes(kind):
    traced = jax.make_jaxpr(functools.partial(activations, MODEL, kind))
    text = str(traced(params(), tokens(), LENGTHS))
    return f'f32[{LAYERS},2,7,{D}]' in text, f'f32[{LAYERS},2,{D}]' in text

  assert shapes('all') == (True, False)
  assert shapes('last') == (False, True)


def test_report_on_prompts_that_end_in_one_token():
  """Outliers repeat a token; the last token, which is read, is the same."""
  rows = tokens(90).at[60:, :6].set(tokens(90)[60:, :1]).at[:, 6].set(0)
  x = np.asarray(read(rows, jnp.full(90, 7)))
  sets = x[:40], x[40:60], x[60:]
  rows = ood.ood_rows(*sets, layers=range(1, LAYERS + 1), num_samples=9)
  values = [row['auroc'] for row in rows if row['method'] == 'mahalanobis']
  assert len(values) == LAYERS and min(values) > 0.7
  with pytest.raises(InputError, match='layer 0: all 40 inliers have the same'):
    ood.ood_rows(*sets)

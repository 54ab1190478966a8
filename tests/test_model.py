import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import arrays, attention
from hh_jax import model as model_lib

VOCAB = 50


def make(**changes):
  config = model_lib.ModelConfig(
    num_layers=2, d_model=32, num_heads=2, d_mlp=64, vocab_size=VOCAB
  )
  return model_lib.Transformer(dataclasses.replace(config, **changes))


def inputs(batch=2, length=7):
  tokens = jax.random.randint(jax.random.key(1), (batch, length), 0, VOCAB)
  positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
  return tokens, positions, jnp.ones((batch, length), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, tokens, positions, segments, branches=None):
  mask = attention.Packed(segments, branches).dense()
  return model.hidden(params, tokens, positions, mask)


@pytest.mark.parametrize(
  'name, millions',
  [
    ('13M', 12.6), ('42M', 42.5), ('197M', 197), ('810M', 805),
    ('2.7B', 2720), ('13B', 12600), ('52B', 51500),
  ],
)  # fmt: skip
def test_sizes_are_those_of_the_paper(name, millions):
  config = model_lib.sized(name, vocab_size=2**16)
  assert config.num_matmul_params / 1e6 == pytest.approx(millions, rel=0.005)
  shapes = jax.eval_shape(model_lib.Transformer(config).init, jax.random.key(0))
  total = sum(x.size for x in jax.tree.leaves(shapes['blocks']))
  norms = 2 * config.num_layers * config.d_model
  assert total == config.num_matmul_params + norms


def test_unknown_size_and_choices_are_refused():
  with pytest.raises(ValueError, match="'14M' is none of"):
    model_lib.sized('14M', vocab_size=8)
  with pytest.raises(ValueError, match="remat 'some' is none of"):
    make(remat='some')
  with pytest.raises(ValueError, match='must be even'):
    make(num_heads=3)
  with pytest.raises(ValueError, match="'cudnn' takes dtype 'bfloat16', not"):
    make(attention='cudnn')


def test_future_tokens_change_nothing():
  model = make()
  params = model.init(jax.random.key(0))
  tokens, positions, segments = inputs()
  before = run(model, params, tokens, positions, segments)
  changed = tokens.at[:, 4:].set((tokens[:, 4:] + 1) % VOCAB)
  after = run(model, params, changed, positions, segments)
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert (jnp.abs(before[:, 4:] - after[:, 4:]).max(axis=-1) > 1e-3).all()


def test_segments_do_not_see_each_other():
  model = make()
  params = model.init(jax.random.key(0))
  tokens, positions, _ = inputs(1, 6)
  alone = run(
    model, params, tokens[:, 3:], positions[:, :3], jnp.ones((1, 3), jnp.int32)
  )
  packed = run(
    model,
    params,
    tokens,
    jnp.array([[0, 1, 2, 0, 1, 2]]),
    jnp.array([[1, 1, 1, 2, 2, 2]]),
  )
  np.testing.assert_allclose(packed[:, 3:], alone, atol=1e-5)


def test_branches_see_the_prompt_and_themselves():
  segments, branches = jnp.ones((1, 4), int), jnp.array([[0, 1, 1, 2]])
  mask = attention.Packed(segments, branches).dense()
  np.testing.assert_array_equal(
    mask[0].astype(int),
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]],
  )


@pytest.mark.parametrize('scan_unroll', [1, 2])
def test_cache_equals_full_forward(scan_unroll):
  model = make(scan_unroll=scan_unroll)
  params = model.init(jax.random.key(0))
  tokens, positions, segments = inputs()
  full = run(model, params, tokens, positions, segments)
  mask = jnp.broadcast_to(jnp.tril(jnp.ones((3, 3), bool)), (2, 3, 3))
  out, cache = model.prefill(
    params, tokens[:, :3], positions[:, :3], mask, length=7
  )
  parts, laid_out = [full[:, :2], out[:, None]], model.by_layer(params)
  for t in range(3, 7):
    seen = jnp.broadcast_to(jnp.arange(7)[None] <= t, (2, 7))
    out, cache = model.decode(
      laid_out, tokens[:, t], positions[:, t], seen, cache, jnp.int32(t)
    )
    parts.append(out[:, None])
  np.testing.assert_allclose(jnp.concatenate(parts, 1), full, atol=1e-5)


@pytest.mark.parametrize('scan_unroll', [1, 2])
@pytest.mark.parametrize('remat', ['none', 'full'])
@pytest.mark.parametrize('impl', ['xla', 'cpu'])
@pytest.mark.parametrize(
  'columns', [slice(2, 5), jnp.array([[6, 0, 3], [1, 1, 4]])], ids=type
)
def test_columns_alone_have_the_same_states_and_gradients(
  columns, impl, remat, scan_unroll
):
  model = make(attention=impl, remat=remat, scan_unroll=scan_unroll)
  whole = make(attention=impl)
  params = model.init(jax.random.key(0))
  tokens, positions, segments = inputs()
  where = (tokens, positions, attention.Packed(segments))

  def loss(hidden):
    return (hidden * jnp.arange(hidden.size).reshape(hidden.shape)).mean()

  def few(params):
    hidden = model.hidden(params, *where, columns)
    return loss(hidden), hidden

  def all_of_them(params):
    hidden = arrays.take_columns(whole.hidden(params, *where), columns)
    return loss(hidden), hidden

  (got, got_hidden), (want, want_hidden) = (
    jax.jit(jax.grad(fn, has_aux=True))(params) for fn in (few, all_of_them)
  )
  assert got_hidden.shape == (2, 3, model.config.d_model)
  chex.assert_trees_all_close(got_hidden, want_hidden, atol=1e-5)
  chex.assert_trees_all_close(got, want, atol=2e-5)


def test_other_columns_cost_nothing_in_the_last_layer():
  model = make(scan_unroll=2)
  params = model.init(jax.random.key(0))
  tokens, positions, segments = inputs()
  where = (tokens, positions, attention.Packed(segments))

  def flops(columns):
    fn = jax.jit(lambda p: model.hidden(p, *where, columns))
    return fn.lower(params).compile().cost_analysis()['flops']

  assert flops(slice(6, 7)) < 0.75 * flops(None)


@pytest.mark.parametrize(
  'changes',
  [
    {'scan_unroll': 2}, {'remat': 'full'}, {'remat': 'dots'},
    {'attention': 'xla'}, {'attention': 'cpu'}, {'attention': 'splash'},
  ],
  ids=str,
)  # fmt: skip
def test_how_it_is_computed_changes_no_value_and_no_gradient(changes):
  base, other = make(attention='xla'), make(**{'attention': 'xla', **changes})
  params = base.init(jax.random.key(0))
  batch = inputs()

  def loss(model, params):
    return jnp.square(run(model, params, *batch)).sum()

  value, grad = jax.value_and_grad(lambda p: loss(base, p))(params)
  other_value, other_grad = jax.value_and_grad(lambda p: loss(other, p))(params)
  np.testing.assert_allclose(value, other_value, rtol=1e-5)
  chex.assert_trees_all_close(grad, other_grad, rtol=1e-3, atol=1e-4)


def test_swiglu_has_a_third_matrix():
  params = make(mlp='swiglu').init(jax.random.key(0))
  assert params['blocks']['mlp_gate'].shape == (2, 32, 64)
  out = run(make(mlp='swiglu'), params, *inputs())
  assert jnp.isfinite(out).all()


def test_bfloat16_keeps_float32_where_it_matters():
  model = make(dtype='bfloat16')
  params = model.init(jax.random.key(0))
  chex.assert_tree_all_finite(params)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  hidden = run(model, params, *inputs())
  logits, scores = model.logits(params, hidden), model.scores(params, hidden)
  assert hidden.dtype == logits.dtype == scores.dtype == jnp.float32
  exact = run(make(), params, *inputs())
  assert jnp.abs(hidden - exact).max() < 0.1
  assert jnp.abs(hidden - exact).max() > 0


@pytest.mark.parametrize('attention', ['xla', 'cpu'])
@pytest.mark.parametrize('rows', [1, 64, 65])
def test_logits_are_products_with_the_table(attention, rows):
  """However few tokens there are: a CPU multiplies the other way round then."""
  model = make(vocab_size=32, attention=attention)
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(rows, 32)).astype(np.float32)
  table = rng.normal(size=(32, 32)).astype(np.float32)
  logits = model.logits({'embedding': table}, hidden)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, hidden @ table.T, rtol=1e-5, atol=1e-4)

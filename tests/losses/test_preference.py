import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax import model as model_lib
from hh_jax.attention import cpu
from hh_jax.data import examples, packing
from hh_jax.errors import InputError
from hh_jax.losses import preference

EOC = 4


@pytest.fixture(scope='module')
def network():
  config = model_lib.ModelConfig(
    num_layers=2, d_model=16, num_heads=2, d_mlp=32, vocab_size=40
  )
  model = model_lib.Transformer(config)
  params = model.init(jax.random.key(0))
  params['scalar_head'] = jax.random.normal(jax.random.key(1), (16,))
  return model, params


def random_pairs(n, seed=0):
  rng = np.random.default_rng(seed)

  def part(low, high):
    return rng.integers(7, 40, rng.integers(low, high)).tolist()

  return [
    packing.PairTokens([2, *part(0, 6)], [*part(0, 5), EOC], [*part(0, 5), EOC])
    for _ in range(n)
  ]


@functools.partial(jax.jit, static_argnums=0)
def scores_of(model, params, tokens):
  """Scores [T] of one transcript by itself: plainly causal, no packing."""
  positions = jnp.arange(tokens.shape[0])[None]
  mask = jnp.tril(jnp.ones((1, *tokens.shape * 2), bool))
  hidden = model.hidden(params, tokens[None], positions, mask)
  return model.scores(params, hidden)[0]


def plain_score(model, params, tokens):
  padded = jnp.array(tokens + [0] * (32 - len(tokens)))
  return float(scores_of(model, params, padded)[len(tokens) - 1])


@functools.partial(jax.jit, static_argnums=0)
def packed_scores(model, params, rows):
  return preference.pair_scores(model, params, rows)


def test_packed_scores_are_those_of_two_transcripts(network):
  model, params = network
  pairs = random_pairs(9)
  # one row filled to the brim, an empty reply, an empty prompt
  pairs.append(packing.PairTokens([2], [EOC], [EOC]))
  pairs.append(
    packing.PairTokens([2, *[9] * 20], [8] * 4 + [EOC], [7] * 5 + [EOC])
  )
  rows = packing.pack_pairs(pairs, row_length=32, max_pairs=4)
  chosen, rejected = packed_scores(model, params, rows)
  seen = 0
  for i, pair in enumerate(pairs):
    where = rows.pair_ids == i
    assert where.sum() == 1
    for got, reply in ((chosen, pair.chosen), (rejected, pair.rejected)):
      wanted = plain_score(model, params, pair.prompt + reply)
      assert float(got[where][0]) == pytest.approx(wanted, abs=2e-5)
      seen += 1
  assert seen == 2 * len(pairs) == 2 * rows.pair_mask.sum()


@pytest.fixture(scope='module')
def by_blocks(network):
  """The same network with the attention that skips blocks (one device's)."""
  model, params = network
  config = dataclasses.replace(model.config, attention='cpu_blocks')
  return model_lib.Transformer(config), params


def long_pairs(row_length):
  """Many short pairs, and one that fills a row to the brim."""
  reply = [*[9] * 9, EOC]
  brim = packing.PairTokens(
    [2, *[8] * (row_length - 16)], reply, [11, 12, 13, 14, EOC]
  )
  assert len(brim) == row_length
  return [*random_pairs(40, seed=3), brim]


def test_blocks_of_a_row_change_neither_scores_nor_gradients(
  network, by_blocks
):
  row_length = 4 * cpu.BLOCK
  rows = packing.pack_pairs(
    long_pairs(row_length), row_length=row_length, max_pairs=32
  )
  rows = jax.tree.map(jnp.array, rows)
  assert len(rows.tokens) > 2 and rows.pair_mask.sum() == 41
  found = []
  for model, params in (network, by_blocks):
    loss_fn = preference.preference_loss(model)
    grads = jax.jit(jax.grad(lambda p, f=loss_fn: f(p, rows, rows)[0]))(params)
    found.append((packed_scores(model, params, rows), grads))
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=3e-6)


def test_one_pair_never_changes_another_by_blocks(by_blocks):
  model, params = by_blocks
  pairs = random_pairs(40, seed=4)
  changed = [*pairs[:-1], packing.PairTokens([2, 11], [12, EOC], [13, EOC])]
  a, b = (
    packed_scores(
      model, params, packing.pack_pairs(p, row_length=1024, max_pairs=40)
    )
    for p in (pairs, changed)
  )
  np.testing.assert_array_equal(a[0][0, :39], b[0][0, :39])
  assert a[0][0, 39] != b[0][0, 39]


def test_one_pair_never_changes_another(network):
  model, params = network
  pairs = random_pairs(4)
  changed = [*pairs[:3], packing.PairTokens([2, 11], [12, EOC], [13, EOC])]
  rows, other = (
    packing.pack_pairs(p, row_length=64, max_pairs=4) for p in (pairs, changed)
  )
  a, b = (packed_scores(model, params, r) for r in (rows, other))
  assert len(rows.tokens) == 1
  np.testing.assert_array_equal(a[0][0, :3], b[0][0, :3])
  assert a[0][0, 3] != b[0][0, 3]


def test_a_zero_head_gives_ln_two_and_half_the_accuracy(network):
  model, params = network
  params = params | {'scalar_head': jnp.zeros(16)}
  rows = packing.pack_pairs(random_pairs(5), row_length=32, max_pairs=4)
  rows = jax.tree.map(jnp.array, rows)
  loss, metrics = preference.preference_loss(model)(params, rows, rows)
  assert loss == pytest.approx(np.log(2), rel=1e-6)
  assert metrics['accuracy'] == 0.5
  assert metrics['pairs'] == 5


def test_loss_by_hand_and_symmetric(network):
  model, params = network
  rows = jax.tree.map(
    jnp.array, packing.pack_pairs(random_pairs(5), row_length=32, max_pairs=4)
  )
  chosen, rejected = packed_scores(model, params, rows)
  margin = np.array((chosen - rejected)[rows.pair_mask > 0])
  loss_fn = preference.preference_loss(model)
  loss, metrics = loss_fn(params, rows, rows)
  assert loss == pytest.approx(np.log1p(np.exp(-margin)).mean(), rel=1e-5)
  swapped = rows.replace(
    chosen_end=rows.rejected_end, rejected_end=rows.chosen_end
  )
  _, other = loss_fn(params, swapped, swapped)
  assert metrics['accuracy'] + other['accuracy'] == pytest.approx(1.0)
  assert metrics['margin'] == pytest.approx(-other['margin'])


@functools.partial(jax.jit, static_argnums=0)
def plain_logprobs(model, params, tokens):
  """log p(token t + 1 | tokens up to t), [T - 1], of one transcript."""
  positions = jnp.arange(tokens.shape[0])[None]
  mask = jnp.tril(jnp.ones((1, *tokens.shape * 2), bool))
  hidden = model.hidden(params, tokens[None], positions, mask)
  logits = jax.nn.log_softmax(model.logits(params, hidden[0, :-1]))
  return jnp.take_along_axis(logits, tokens[1:, None], axis=1)[:, 0]


def test_reply_logprobs_are_those_of_two_transcripts(network):
  model, params = network
  pairs = random_pairs(9, seed=3)
  rows = packing.pack_pairs(pairs, row_length=40, max_pairs=4)
  sums, counts = preference.reply_logprobs(
    model, params, jax.tree.map(jnp.array, rows), chunk=16
  )
  for i, pair in enumerate(pairs):
    where = rows.pair_ids == i
    for got, n, reply in zip(
      sums, counts, (pair.chosen, pair.rejected), strict=True
    ):
      tokens = jnp.array((pair.prompt + reply + [0] * 32)[:32])
      first = len(pair.prompt)
      wanted = plain_logprobs(model, params, tokens)
      wanted = wanted[first - 1 : first + len(reply) - 1].sum()
      assert float(got[where][0]) == pytest.approx(float(wanted), abs=5e-5)
      assert n[where][0] == len(reply)


def test_packed_gradients_are_those_of_two_transcripts(network):
  model, params = network
  pairs = random_pairs(6, seed=1)
  rows = jax.tree.map(
    jnp.array, packing.pack_pairs(pairs, row_length=48, max_pairs=4)
  )

  def plain_loss(params):
    gaps = [
      plain_score_of(model, params, p.prompt + p.chosen)
      - plain_score_of(model, params, p.prompt + p.rejected)
      for p in pairs
    ]
    return jax.nn.softplus(-jnp.stack(gaps)).mean()

  def packed_loss(params):
    return preference.preference_loss(model)(params, rows, rows)[0]

  got, wanted = (
    jax.jit(jax.grad(fn))(params) for fn in (packed_loss, plain_loss)
  )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def plain_score_of(model, params, tokens):
  padded = jnp.array(tokens + [0] * (32 - len(tokens)))
  return scores_of(model, params, padded)[len(tokens) - 1]


def packed(pairs):
  rows = packing.pack_pairs(pairs, row_length=64, max_pairs=4)
  return jax.tree.map(jnp.array, rows)


def with_scores(batch):
  """The two score arrays [B, M] that the tests below write by hand."""
  shape = batch.pair_mask.shape
  chosen = jnp.zeros(shape).at[0, :3].set(jnp.array([1.0, -0.5, 0.25]))
  rejected = jnp.zeros(shape).at[0, :3].set(jnp.array([0.25, 0.5, 0.25]))
  return chosen, rejected


def test_ranked_terms_by_hand():
  pairs = [
    dataclasses.replace(pair, label=label, margin=margin)
    for pair, label, margin in zip(
      random_pairs(3), (1.0, 0.8, 1.0), (0.0, 0.0, 0.5), strict=True
    )
  ]
  batch = packed(pairs)
  terms = preference.ranked_terms(*with_scores(batch), batch, smoothing=0.1)
  wanted = [
    0.95 * np.log1p(np.exp(-0.75)) + 0.05 * np.log1p(np.exp(0.75)),
    # 0.8 * 0.9 + 0.05 = 0.77
    0.77 * np.log1p(np.exp(1.0)) + 0.23 * np.log1p(np.exp(-1.0)),
    0.95 * np.log1p(np.exp(0.5)) + 0.05 * np.log1p(np.exp(0.5)),
  ]
  np.testing.assert_allclose(terms[0, :3], wanted, rtol=1e-5)


def test_binary_terms_by_hand():
  batch = packed(random_pairs(3))
  terms = preference.binary_terms(*with_scores(batch), batch, smoothing=0.0)
  wanted = (
    np.log1p(np.exp([-1.0, 0.5, -0.25])) + np.log1p(np.exp([0.25, 0.5, 0.25]))
  ) / 2
  np.testing.assert_allclose(terms[0, :3], wanted, rtol=1e-5)


def test_weights_scale_a_pair_and_its_gradient(network):
  model, params = network
  pairs = random_pairs(4)
  batch = packed(pairs)
  loss_fn = preference.preference_loss(model)
  rows = [packed([p]) for p in pairs]
  alone = [float(loss_fn(params, row, row)[0]) for row in rows]
  weights = (2.0, 0.0, 0.5, 1.0)
  batch = packed(
    [
      dataclasses.replace(p, weight=w)
      for p, w in zip(pairs, weights, strict=True)
    ]
  )
  loss, metrics = loss_fn(params, batch, batch)
  assert loss == pytest.approx(np.dot(weights, alone) / 4, rel=1e-5)
  assert metrics['pairs'] == 4


def test_regularisers_add_what_they_say(network):
  model, params = network
  pairs = random_pairs(4)
  batch = packed(pairs)
  plain, _ = preference.preference_loss(model)(params, batch, batch)
  chosen, rejected = preference.pair_scores(model, params, batch)
  real = np.array(batch.pair_mask) > 0
  square = np.square(np.array(chosen + rejected)[real]).mean()
  both = preference.preference_loss(model, centring=0.3, lm_coef=2.0)
  loss, metrics = both(params, batch, batch)
  wanted = plain + 0.3 * square + 2 * metrics['lm_loss']
  assert loss == pytest.approx(float(wanted), rel=1e-5)
  (chosen, _), (count, _) = preference.reply_logprobs(model, params, batch)
  mean = -np.array(chosen)[real].sum() / np.array(count)[real].sum()
  assert metrics['lm_loss'] == pytest.approx(mean, rel=1e-5)


def test_imitation_learns_from_the_chosen_reply_alone(network):
  model, params = network
  pairs = random_pairs(3)
  other = [dataclasses.replace(p, rejected=[9, 9, EOC]) for p in pairs]
  loss_fn = preference.preference_loss(model, objective='imitation', chunk=8)
  grads = [
    jax.grad(lambda p, b=batch: loss_fn(p, b, b)[0])(params)
    for batch in (packed(pairs), packed(other))
  ]
  leaves = zip(*map(jax.tree.leaves, grads), strict=True)
  for a, b in leaves:
    np.testing.assert_allclose(a, b, atol=1e-6)
  assert np.abs(grads[0]['embedding']).max() > 1e-3
  assert not np.any(grads[0]['scalar_head'])


@pytest.mark.parametrize(
  'change', [{'label': 1.5}, {'label': np.nan}, {'margin': -1}, {'weight': -2}]
)
def test_labels_outside_their_range_are_refused(change):
  with pytest.raises(InputError, match='label'):
    examples.Pair('p', 'a', 'b', 'c', 'made-up', **change)

import dataclasses
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import pm
from hh_jax import model as model_lib
from hh_jax import sharding, train, workdir
from hh_jax.checkpoints import native
from hh_jax.data import loader, packing
from hh_jax.errors import InputError
from hh_jax.losses import language_model

MODEL = model_lib.Transformer(
  model_lib.ModelConfig(
    num_layers=2, d_model=16, num_heads=2, d_mlp=32, vocab_size=24
  )
)


def optimizer(lr=1e-2, **changes):
  settings = dict(weight_decay=0.1, clip_norm=1.0, b1=0.9, b2=0.95, eps=1e-8)
  schedule = train.make_schedule('linear', lr=lr, num_steps=10, warmup_steps=2)
  return train.make_optimizer(schedule, **(settings | changes))


def batches(n, size=4):
  rng = np.random.default_rng(0)
  documents = [[2, *rng.integers(5, 24, 14), 3] for _ in range(n * size)]
  rows = packing.pack_documents(documents, row_length=16)
  for i in range(n):
    yield loader.take(rows, slice(i * size, (i + 1) * size))


def run(mesh, steps=3, state=None):
  loss_fn = language_model.language_model_loss(MODEL, chunk=16)
  tx = optimizer()
  fresh, shardings = train.init_state(MODEL.init, tx, jax.random.key(0), mesh)
  state = fresh if state is None else state
  step = train.make_train_step(loss_fn, tx, shardings)
  out = []
  for batch in batches(steps):
    state, metrics = step(state, sharding.place(mesh, batch))
    out.append(jax.device_get(metrics))
  return state, out


def test_an_epoch_with_a_padded_last_batch_compiles_once():
  rows = loader.take(
    packing.pack_documents([[2, *range(5, 18), 3]] * 7, row_length=16),
    slice(7),
  )
  loss_fn = chex.assert_max_traces(
    language_model.language_model_loss(MODEL, chunk=16), n=1
  )
  tx, mesh = optimizer(), sharding.make_mesh(fsdp=2, devices=jax.devices()[:2])
  state, shardings = train.init_state(MODEL.init, tx, jax.random.key(0), mesh)
  step = train.make_train_step(loss_fn, tx, shardings)
  seen = 0
  for batch in loader.train_batches(rows, batch_size=2, seed=0, num_epochs=2):
    state, metrics = step(state, sharding.place(mesh, batch))
    seen += float(metrics['tokens'])
  assert int(state.step) == 8 and seen == 2 * 7 * 14


def test_one_device_and_four_take_the_same_steps():
  one = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  state, metrics = run(one)
  assert metrics[0]['loss'] > metrics[-1]['loss'] > 0
  for fsdp, model in ((4, 1), (2, 2)):
    other, other_metrics = run(sharding.make_mesh(fsdp=fsdp, model=model))
    chex.assert_trees_all_close(metrics, other_metrics, rtol=2e-4)
    chex.assert_trees_all_close(
      jax.device_get(state.params),
      jax.device_get(other.params),
      rtol=1e-3,
      atol=1e-4,
    )
    qkv = other.params['blocks']['qkv']
    assert qkv.sharding.shard_shape(qkv.shape) == (
      2, 16 // fsdp, 3, 2 // model, 8,
    )  # fmt: skip


def test_state_from_copies_parameters():
  mesh = sharding.make_mesh()
  tx = optimizer()
  fresh, _ = train.init_state(MODEL.init, tx, jax.random.key(0), mesh)
  before = jax.device_get(fresh.params)
  state, _ = train.state_from(fresh.params, tx, jax.random.key(1), mesh)
  run(mesh, steps=1, state=state)  # donates it
  chex.assert_trees_all_equal(before, jax.device_get(fresh.params))


def test_schedule_by_hand():
  schedule = train.make_schedule('linear', lr=1.0, num_steps=10, warmup_steps=2)
  got = [float(schedule(i)) for i in (0, 1, 2, 6, 10)]
  np.testing.assert_allclose(got, [0.5, 0.75, 1.0, 0.5, 0.0])
  constant = train.make_schedule(
    'constant', lr=2.0, num_steps=1, warmup_steps=0
  )
  assert float(constant(100)) == 2.0
  with pytest.raises(InputError, match="schedule 'step' is none of"):
    train.make_schedule('step', lr=1.0, num_steps=1, warmup_steps=0)


def test_norms_and_the_scalar_head_do_not_decay():
  params = jax.device_get(MODEL.init(jax.random.key(0)))
  params = jax.tree.map(np.ones_like, params)
  tx = optimizer(clip_norm=1e9)
  zeros = jax.tree.map(np.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  moved = {
    sharding.path_name(path)
    for path, x in jax.tree_util.tree_leaves_with_path(updates)
    if np.any(x)
  }
  assert moved == {
    'embedding', 'blocks/qkv', 'blocks/attn_out', 'blocks/mlp_in',
    'blocks/mlp_out',
  }  # fmt: skip


@dataclasses.dataclass
class State:
  step: int
  params: None = None


class Recorder:
  """A step that counts, and the journal of what fit does."""

  def __init__(self, losses):
    self.losses = losses
    self.events, self.waited = [], []

  def step(self, state, batch):
    metrics = {'loss': self.losses[state.step], 'grad_norm': 1.0}
    return State(state.step + 1), jax.tree.map(jnp.float32, metrics)

  def log(self, step, metrics):
    self.waited.append(metrics['idle_share'])
    self.events.append(('log', step, metrics['loss']))

  def save(self, state):
    self.events.append(('save', state.step))

  def evaluate(self, step, params):
    self.events.append(('eval', step))

  def fit(self, first_step=0, batches=None):
    end = train.fit(
      State(first_step),
      self.step,
      batches or iter(range(99)),
      self,
      num_steps=len(self.losses),
      save_every=2,
      eval_every=2,
    )
    assert end.step == len(self.losses)


def test_fit_logs_every_step_once_in_order_and_saves_what_was_checked():
  recorder = Recorder([5.0, 4.0, 3.0])
  recorder.fit()
  assert recorder.events == [
    ('eval', 0), ('log', 1, 5.0), ('log', 2, 4.0), ('save', 2),
    ('eval', 2), ('log', 3, 3.0), ('save', 3), ('eval', 3),
  ]  # fmt: skip


def test_fit_goes_on_from_the_step_of_the_state():
  recorder = Recorder([5.0, 4.0, 3.0])
  recorder.fit(first_step=2)
  logged = [event for event in recorder.events if event[0] == 'log']
  assert logged == [('log', 3, 3.0)]


@pytest.mark.parametrize(
  ('seconds', 'work', 'share'), [(3.0, 1.0, 0.75), (0.0, 1.0, 0.0)]
)
def test_a_slow_loader_is_seen(monkeypatch, seconds, work, share):
  """By a clock that the loader and the step move, and nothing else."""
  now = [0.0]

  def take(seconds):
    now[0] += seconds

  clock = types.SimpleNamespace(perf_counter=lambda: take(1e-9) or now[0])
  monkeypatch.setattr(loader, 'time', clock)
  recorder = Recorder([1.0] * 7)
  step = recorder.step
  recorder.step = lambda *args: take(work) or step(*args)
  recorder.fit(batches=iter(lambda: take(seconds), 'never'))
  assert recorder.waited[1:] == pytest.approx([share] * 6, abs=1e-6)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_non_finite_loss_stops_before_it_is_saved(bad):
  recorder = Recorder([5.0, 4.0, 3.0, bad, 2.0, 1.0])
  says = 'non-finite loss .* at step 4, batch 3 .* another --workdir'
  with pytest.raises(InputError, match=says):
    recorder.fit()
  assert ('save', 2) in recorder.events
  assert ('save', 4) not in recorder.events


def test_clipping_is_by_global_norm():
  params = {'embedding': jnp.ones((2, 2))}
  tx = train.make_optimizer(
    optax.constant_schedule(1.0),
    weight_decay=0.0, clip_norm=1.0, b1=0.0, b2=0.0, eps=1e6,
  )  # fmt: skip
  grads = {'embedding': jnp.full((2, 2), 50.0)}
  updates, _ = tx.update(grads, tx.init(params), params)
  # eps dwarfs the second moment: the update is the clipped gradient / eps
  np.testing.assert_allclose(updates['embedding'], -0.5e-6, rtol=1e-3)


def _trained(tx, steps):
  """Losses of a run, its last state, and what its steps keep."""
  loss_fn = language_model.language_model_loss(MODEL, chunk=16)
  mesh = sharding.make_mesh()
  state, shardings = train.init_state(MODEL.init, tx, jax.random.key(0), mesh)
  step = train.make_train_step(loss_fn, tx, shardings)
  losses = []
  for batch in list(batches(1)) * steps:
    state, metrics = step(state, sharding.place(mesh, batch))
    losses.append(float(metrics['loss']))
  return losses, state


def test_moments_in_bfloat16_are_half_of_the_bytes_and_as_good():
  plain, state = _trained(optimizer(), 30)
  short, other = _trained(optimizer(moments_dtype='bfloat16'), 30)
  moments = [x for x in jax.tree.leaves(other.opt_state) if x.ndim]
  assert {x.dtype for x in moments} == {jnp.dtype(jnp.bfloat16)}
  assert 2 * sum(x.nbytes for x in moments) == sum(
    x.nbytes for x in jax.tree.leaves(state.opt_state) if x.ndim
  )
  assert {x.dtype for x in jax.tree.leaves(other.params)} == {
    jnp.dtype(jnp.float32)
  }
  # computed in float32: nothing is rounded before the first update
  assert short[:2] == plain[:2] and short != plain
  assert plain[-1] < 0.9 * plain[0]
  assert short[-1] == pytest.approx(plain[-1], rel=0.01)


def test_a_run_with_bfloat16_moments_goes_on_bitwise(tmp_path):
  mesh, tx = sharding.make_mesh(), optimizer(moments_dtype='bfloat16')
  loss_fn = language_model.language_model_loss(MODEL, chunk=16)
  start, shardings = train.init_state(MODEL.init, tx, jax.random.key(0), mesh)
  step = train.make_train_step(loss_fn, tx, shardings)
  checkpoints = native.Checkpoints(tmp_path)
  state, given = start, list(batches(4))
  for i, batch in enumerate(given):
    state, _ = step(state, sharding.place(mesh, batch))
    if i == 1:
      checkpoints.save(state, {})
  checkpoints.close()
  fresh, _ = train.init_state(MODEL.init, tx, jax.random.key(1), mesh)
  other, _ = native.Checkpoints(tmp_path).restore(fresh)
  for batch in given[2:]:
    other, _ = step(other, sharding.place(mesh, batch))
  for a, b in zip(*map(jax.tree.leaves, (state, other)), strict=True):
    assert a.dtype == b.dtype
    if a.ndim:
      np.testing.assert_array_equal(*jax.device_get((a, b)))


def test_a_run_does_not_go_on_with_other_moments(tmp_path):
  config = pm.get_config('tiny').to_dict()
  workdir.open_run(tmp_path, config, 'pm')
  config['optimizer']['moments_dtype'] = 'bfloat16'
  with pytest.raises(InputError, match='moments_dtype') as error:
    workdir.open_run(tmp_path, config, 'pm')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('beta', [0.95, 0.98])
def test_a_moment_in_bfloat16_is_not_biased(beta):
  """The root of nu, whose inverse is the step, of normal gradients."""
  tx = optimizer(moments_dtype='bfloat16', b2=beta, weight_decay=0.0)
  exact = optimizer(b2=beta, weight_decay=0.0)
  params = {'x': jnp.zeros(4096)}
  states = [tx.init(params), exact.init(params)]

  @jax.jit
  def step(states, key):
    grads = {'x': jax.random.normal(key, (4096,))}
    return [
      of.update(grads, state, params)[1]
      for of, state in zip((tx, exact), states, strict=True)
    ]

  for i in range(300):
    states = step(states, jax.random.fold_in(jax.random.key(1), i))
  rounded, whole = (
    optax.tree.get(state, 'nu')['x'].astype(jnp.float32) for state in states
  )
  ratio = np.sqrt(rounded / whole)
  assert abs(ratio.mean() - 1) < 0.005 and ratio.std() < 0.01


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'moments_dtype': 'float16'}, "'float16' is none of"),
    ({'moments_dtype': 'bfloat16', 'b2': 0.999}, 'up to 0.98, not 0.999'),
  ],
)
def test_moments_that_would_not_move_are_refused(changes, message):
  with pytest.raises(InputError, match=message):
    optimizer(**changes)

"""One train step for every objective, and the loop around it."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from hh_jax import sharding, stopping
from hh_jax.data import loader
from hh_jax.errors import InputError
from hh_jax.types import Array, LossFn, Params, TrainState

SCHEDULES = ('constant', 'linear', 'cosine', 'halving')
MOMENTS = ('float32', 'bfloat16')
# bfloat16 has 8 bits: a moment whose step 1 - beta is not well above their
# rounding, 2**-9, stands still. Of normal gradients the root of nu is off by
# .01 % at beta .95, .25 % at .98, 2 to 5 % at .99, up to 58 % at .999.
MAX_BETA_BFLOAT16 = 0.98


def make_schedule(
  name: str,
  *,
  lr: float,
  num_steps: int,
  warmup_steps: int,
  halve_every: int = 0,
) -> optax.Schedule:
  """Learning rate as a pure function of the step, after a linear warm-up.

  'linear' and 'cosine' end at 0; 'halving' halves it every `halve_every` steps
  (Bai et al. 2022, 4.5).
  """
  if (name == 'halving') != (halve_every > 0):
    raise InputError(
      f"schedule 'halving' takes halve_every, the others none: {name!r} has "
      f'{halve_every}'
    )
  decay_steps = max(num_steps - warmup_steps, 1)
  decay = {
    'constant': optax.constant_schedule(lr),
    'linear': optax.linear_schedule(lr, 0.0, decay_steps),
    'cosine': optax.cosine_decay_schedule(lr, decay_steps),
    'halving': lambda step: lr * 0.5 ** (step // max(halve_every, 1)),
  }
  if name not in decay:
    raise InputError(f'schedule {name!r} is none of {SCHEDULES}')
  if not warmup_steps:
    return decay[name]
  # from lr / warmup_steps, so that the first step does something
  warmup = optax.linear_schedule(lr / warmup_steps, lr, warmup_steps)
  return optax.join_schedules([warmup, decay[name]], [warmup_steps])


def make_optimizer(
  schedule: optax.Schedule,
  *,
  weight_decay: float,
  clip_norm: float,
  b1: float,
  b2: float,
  eps: float,
  moments_dtype: str = 'float32',
) -> optax.GradientTransformation:
  """AdamW after clipping by global norm; vectors and norms don't decay.

  With moments_dtype 'bfloat16' both moments are kept in it between steps, and
  computed in float32 (our choice; optax's mu_dtype is of the first alone).
  """
  if moments_dtype not in MOMENTS:
    raise InputError(f'moments_dtype {moments_dtype!r} is none of {MOMENTS}')
  if moments_dtype == 'bfloat16' and max(b1, b2) > MAX_BETA_BFLOAT16:
    raise InputError(
      f"moments_dtype 'bfloat16' takes b1 and b2 up to {MAX_BETA_BFLOAT16}, "
      f'not {max(b1, b2)}: rounding would keep the moments where they are'
    )

  def matrices(params: Params) -> Params:
    def of(path, leaf):
      in_blocks = sharding.path_name(path).split('/')[-2:-1] == ['blocks']
      return leaf.ndim - in_blocks >= 2

    return jax.tree_util.tree_map_with_path(of, params)

  adamw = optax.adamw(
    schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=matrices
  )
  if moments_dtype == 'bfloat16':
    adamw = _kept_in_bfloat16(adamw)
  return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)


def _kept_in_bfloat16(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """The same arithmetic on a state whose float32 arrays are rounded."""

  def cast(state: Any, old: Any, new: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(new) if x.dtype == old else x, state)

  def init(params: Params) -> Any:
    return cast(tx.init(params), jnp.float32, jnp.bfloat16)

  def update(grads: Params, state: Any, params: Params | None = None):
    state = cast(state, jnp.bfloat16, jnp.float32)
    updates, state = tx.update(grads, state, params)
    return updates, cast(state, jnp.float32, jnp.bfloat16)

  return optax.GradientTransformation(init, update)


def init_state(
  init_params: Callable[[Array], Params],
  tx: optax.GradientTransformation,
  key: Array,
  mesh: Mesh,
) -> tuple[TrainState, Any]:
  """A sharded TrainState, and the shardings that every step keeps.

  Parameters and optimizer come out of one jitted call, so that no array is
  ever whole on one device unless its rule says so.
  """

  def init(key: Array) -> TrainState:
    k_params, k_train = jax.random.split(key)
    params = init_params(k_params)
    return TrainState(jnp.int32(0), params, tx.init(params), k_train)

  shardings = sharding.tree_shardings(mesh, jax.eval_shape(init, key))
  return jax.jit(init, out_shardings=shardings)(key), shardings


def state_from(
  params: Params, tx: optax.GradientTransformation, key: Array, mesh: Mesh
) -> tuple[TrainState, Any]:
  """The same from copies of given parameters, which stay usable."""

  def init(params: Params, key: Array) -> TrainState:
    # copied: a step donates the state
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, tx.init(params), key)

  shardings = sharding.tree_shardings(mesh, jax.eval_shape(init, params, key))
  return jax.jit(init, out_shardings=shardings)(params, key), shardings


def _gradients(
  loss_fn: LossFn, params: Params, batch: Any, whole: Any
) -> tuple[Params, dict[str, Array]]:
  """Gradients and metrics, the loss among them."""
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  (loss, metrics), grads = grad_fn(params, batch, whole)
  return grads, {'loss': loss, **metrics}


def _accumulated(
  loss_fn: LossFn, params: Params, batch: Any, *, num: int
) -> tuple[Params, dict[str, Array]]:
  """The same from `num` micro-batches, one after the other."""

  def split(x: Array) -> Array:
    # every num-th row, so that each device keeps its own rows
    return jnp.moveaxis(x.reshape(-1, num, *x.shape[1:]), 1, 0)

  def add(total: Params, micro_batch: Any):
    grads, metrics = _gradients(loss_fn, params, micro_batch, batch)
    return jax.tree.map(jnp.add, total, grads), metrics

  grads, metrics = jax.lax.scan(
    add, jax.tree.map(jnp.zeros_like, params), jax.tree.map(split, batch)
  )
  return grads, {
    name: x.max(axis=0) if name.endswith('_max') else x.sum(axis=0)
    for name, x in metrics.items()
  }


def apply_gradients(
  state: TrainState,
  grads: Params,
  metrics: dict[str, Array],
  tx: optax.GradientTransformation,
  *,
  skip_nonfinite: bool,
) -> tuple[TrainState, dict[str, Array]]:
  """One optimizer step; metrics gain grad_norm, and maybe skipped."""
  metrics = metrics | {'grad_norm': optax.tree.norm(grads)}
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  if skip_nonfinite:
    is_finite = jnp.isfinite(metrics['loss'] + metrics['grad_norm'])
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old),
      (params, opt_state),
      (state.params, state.opt_state),
    )
    metrics['skipped'] = 1.0 - is_finite
  state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  return state, metrics


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  shardings: Any,
  *,
  num_micro_batches: int = 1,
  skip_nonfinite: bool = False,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
  """The jitted step(state, batch) -> (state, metrics); `state` is donated.

  Micro-batches take less memory for the same step: losses and metrics add up
  (those named `*_max`: maxima). With skip_nonfinite a loss or gradient that is
  not finite changes nothing but the step, and the metric `skipped` is 1.
  """

  def train_step(state: TrainState, batch: Any):
    if num_micro_batches == 1:
      grads, metrics = _gradients(loss_fn, state.params, batch, batch)
    else:
      grads, metrics = _accumulated(
        loss_fn, state.params, batch, num=num_micro_batches
      )
    return apply_gradients(
      state, grads, metrics, tx, skip_nonfinite=skip_nonfinite
    )

  return jax.jit(
    train_step, donate_argnames='state', out_shardings=(shardings, None)
  )


def check_finite(metrics: dict[str, float], *, step: int, batch: str) -> None:
  """Raises InputError when loss or gradient norm is NaN or infinite."""
  for name in ('loss', 'grad_norm'):
    if not np.isfinite(metrics[name]):
      raise InputError(
        f'non-finite {name} ({metrics[name]}) at step {step}, {batch}; '
        'checkpoints, if any, are of earlier steps, whose losses are finite; '
        'look at that batch, or take another --workdir for a lower learning '
        'rate'
      )


class Journal(Protocol):
  """Where `fit` writes things down."""

  def log(self, step: int, metrics: dict[str, float]) -> None:
    """`metrics` are those of the step-th update, from 1."""

  def save(self, state: TrainState) -> None:
    """The state is known to be finite."""

  def evaluate(self, step: int, params: Params) -> None:
    """Before update step + 1."""


def fit(
  state: TrainState,
  train_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]],
  batches: Iterator[Any],
  journal: Journal,
  *,
  num_steps: int,
  save_every: int,
  eval_every: int,
) -> TrainState:
  """Goes on from state.step to num_steps and returns the last state.

  A step's metrics are fetched while the next one runs, so the device does not
  wait for the host; `idle_share` says how long it waited for batches (see
  loader.Feed). A state is saved after the loss of the step that made it
  was seen to be finite, so a checkpoint never holds a broken one. A signal
  (stopping.SIGNALS) saves after the step that it comes in, and raises Stopped.
  """
  pending: dict[str, Array] | None = None
  feed, idle_share = loader.Feed(batches), 0.0

  def flush(step: int) -> None:
    """Checks and logs the pending metrics, those of the step-th update."""
    if pending is not None:
      metrics = {k: float(v) for k, v in sharding.fetch(pending).items()}
      check_finite(metrics, step=step, batch=f'batch {step - 1} of this run')
      journal.log(step, metrics | {'idle_share': idle_share})

  with stopping.after_a_step() as waiting:
    for step in range(int(state.step), num_steps):
      if step % eval_every == 0:
        flush(step)
        pending = None
        journal.evaluate(step, state.params)
      batch, waited = feed.next(pending)
      state, metrics = train_step(state, batch)
      flush(step)
      pending, idle_share = metrics, waited
      done = step + 1
      stops = done == num_steps or waiting()
      if stops or done % save_every == 0:
        flush(done)
        pending = None
        journal.save(state)
      if stops:
        break
  journal.evaluate(num_steps, state.params)
  return state

"""Policy updates: all minibatches of all epochs in one device call.

Axis letters: B batch, R reply columns, E epochs, M minibatches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hh_jax import sharding
from hh_jax.losses import ppo
from hh_jax.rl import rollout as rollout_lib
from hh_jax.types import (
  Array,
  PolicyBatch,
  Rollout,
  Samples,
  TokenBatch,
  TrainState,
)  # fmt: skip

Metrics = dict[str, Array]
StepFn = Callable[[TrainState, PolicyBatch], tuple[TrainState, Metrics]]
# state, gradients, metrics -> state, metrics
ApplyFn = Callable[[TrainState, Any, Metrics], tuple[TrainState, Metrics]]


def make_update(
  step: StepFn,
  *,
  shardings: Any,
  num_epochs: int,
  num_minibatches: int,
  aggregate: str,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """The jitted update(state, rollout, text) -> (state, metrics [E * M]).

  Minibatches are redrawn each epoch. `text` has E * M times the rows of a
  minibatch, or is None. `shardings` are those of the state, which it keeps:
  otherwise the second iteration would compile everything again.
  """

  def update(state: TrainState, rollout: Rollout, text: TokenBatch | None):
    return _epochs(
      step,
      state,
      rollout,
      text,
      shardings=shardings,
      num_epochs=num_epochs,
      num_minibatches=num_minibatches,
      aggregate=aggregate,
    )

  return jax.jit(
    update, donate_argnames='state', out_shardings=(shardings, None)
  )


def make_learn(
  nets: rollout_lib.Networks,
  how: rollout_lib.Rewarding,
  surrogate: ppo.SurrogateFn,
  step: StepFn,
  apply: ApplyFn,
  *,
  shardings: Any,
  num_epochs: int,
  aggregate: str,
  entropy_gradient: bool,
) -> Callable[..., tuple[TrainState, Rollout, Metrics, Metrics]]:
  """Score and update in one, for minibatches of all rows.

  The jitted learn(state, frozen, controls, samples) -> (state, rollout, what
  make_score says of it, metrics [E]). The pass that gives the rollout its
  log-probs and values is that of the first update too: a forward pass less.
  """

  def learn(state, frozen, controls, samples: Samples):
    def outputs_of(params):
      return nets.actor_critic(
        params,
        samples.tokens,
        samples.prompt_lengths,
        entropy_gradient=entropy_gradient,
      )

    outputs, pull_back = jax.vjp(outputs_of, state.params)
    rollout, seen = rollout_lib.credit(
      nets, how, outputs, frozen, controls, samples
    )
    weights = ppo.token_weights(rollout.reply_mask, aggregate=aggregate)
    (loss, metrics), gradients = jax.value_and_grad(surrogate, has_aux=True)(
      outputs, PolicyBatch(rollout, weights, None)
    )
    state, first = apply(
      state, pull_back(gradients)[0], {'loss': loss, **metrics}
    )
    state, rest = _epochs(
      step,
      state,
      rollout,
      None,
      shardings=shardings,
      num_epochs=num_epochs - 1,
      num_minibatches=1,
      aggregate=aggregate,
    )
    metrics = jax.tree.map(
      lambda x, y: jnp.concatenate([jnp.float32(x)[None], y]), first, rest
    )
    return state, rollout, seen, metrics

  return jax.jit(
    learn,
    donate_argnames='state',
    out_shardings=(shardings, None, None, None),
  )


def _epochs(
  step: StepFn,
  state: TrainState,
  rollout: Rollout,
  text: TokenBatch | None,
  *,
  shardings: Any,
  num_epochs: int,
  num_minibatches: int,
  aggregate: str,
) -> tuple[TrainState, Metrics]:
  """What make_update's function does."""
  row_sharding = NamedSharding(shardings.step.mesh, P(sharding.ROWS))
  num_updates = num_epochs * num_minibatches
  batch = rollout.tokens.shape[0]

  def placed(tree: Any) -> Any:
    # gathered rows would otherwise be whole on every device
    return jax.tree.map(
      lambda x: jax.lax.with_sharding_constraint(x, row_sharding), tree
    )

  def rows(epoch: Array) -> Array:
    key = jax.random.fold_in(state.key, state.step)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), batch)
    return order.reshape(num_minibatches, -1)

  def body(state: TrainState, xs: tuple[Array, TokenBatch | None]):
    index, text = xs
    minibatch = placed(jax.tree.map(lambda x: x[index], rollout))
    if text is not None:
      text = placed(text)
      targets = jnp.maximum(text.loss_mask.sum(), 1.0)
      text = text.replace(loss_mask=text.loss_mask / targets)
    weights = ppo.token_weights(minibatch.reply_mask, aggregate=aggregate)
    return step(state, PolicyBatch(minibatch, weights, text))

  index = jax.vmap(rows)(jnp.arange(num_epochs)).reshape(
    num_updates, batch // num_minibatches
  )
  text = jax.tree.map(lambda x: x.reshape(num_updates, -1, *x.shape[1:]), text)
  return jax.lax.scan(body, state, (index, text))

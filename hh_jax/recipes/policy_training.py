"""The loop of policy optimisation: sample, score, update."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from hh_jax import metrics as metrics_lib
from hh_jax import sampling, sharding, stopping, train
from hh_jax.checkpoints import native
from hh_jax.losses import language_model, ppo
from hh_jax.model import Transformer
from hh_jax.recipes import phases as phases_lib
from hh_jax.recipes import policy_evaluation, policy_watch
from hh_jax.rl import advantages, alarms, updates
from hh_jax.rl import controls as controls_lib
from hh_jax.rl import rollout as rollout_lib
from hh_jax.types import Params, Rollout, TokenBatch, TrainState

Phases = dict[str, phases_lib.Phase]


def text_fn(model: Transformer, *, chunk: int) -> ppo.TextFn:
  """Language-model loss of the policy on weighted text (PPO-ptx), nats."""

  def loss(params: Params, text: TokenBatch) -> jax.Array:
    logprobs = language_model.document_logprobs(
      model, params['policy'], text, chunk=chunk
    )
    return -(logprobs * text.loss_mask[:, 1:]).sum()

  return loss


def shares_pass(config: ml_collections.ConfigDict) -> bool:
  """Whether the first update sees all rows, and so the pass that scored them.

  Text and micro-batches have passes of their own.
  """
  parts = config.num_minibatches * config.num_micro_batches
  return parts == 1 and not config.ptx_coef


def make_rewarding(config: ml_collections.ConfigDict) -> rollout_lib.Rewarding:
  """How scores become advantages, as config says."""
  return rollout_lib.Rewarding(
    kl_estimator=config.kl_estimator,
    kl_in_reward=config.kl_in == 'reward',
    no_stop=config.no_stop,
    no_stop_penalty=config.no_stop_penalty,
    advantage_fn=advantages.make(
      config.advantage,
      gamma=config.gamma,
      lam=config.lam,
      num_samples=config.samples_per_prompt,
    ),
    whiten=config.whiten_advantages,
  )


def make_jitted(
  config: ml_collections.ConfigDict,
  nets: rollout_lib.Networks,
  tx: Any,
  shardings: Any,
) -> dict[str, Callable[..., Any]]:
  """sample, score and update of an iteration, as config says.

  Where shares_pass, the last two are one, learn. Where decoding has a layout of
  its own, reshard comes before them.
  """
  how = make_rewarding(config)
  surrogate = ppo.surrogate_loss(
    clip_eps=config.clip_eps,
    value_clip=config.value_clip,
    value_coef=0.0 if nets.values == 'none' else config.value_coef,
    entropy_coef=config.entropy_coef,
    kl_estimator=config.kl_estimator,
  )
  entropy_gradient = config.entropy_coef > 0
  loss_fn = ppo.ppo_loss(
    nets.actor_critic.policy_fn(entropy_gradient=entropy_gradient),
    surrogate,
    text_fn=text_fn(nets.policy, chunk=nets.chunk) if config.ptx_coef else None,
    text_coef=config.ptx_coef,
  )
  step = train.make_train_step(
    loss_fn,
    tx,
    shardings,
    num_micro_batches=config.num_micro_batches,
    skip_nonfinite=True,
  )
  jitted = {}
  if config.decode_params == 'gathered':
    jitted['reshard'] = rollout_lib.make_reshard(
      nets, shardings.params['policy']
    )
  jitted['sample'] = rollout_lib.make_sample(
    nets, num_samples=config.samples_per_prompt, slots=config.slots
  )
  settings = dict(
    shardings=shardings,
    num_epochs=config.num_epochs,
    aggregate=config.aggregate,
  )
  if shares_pass(config):
    apply = functools.partial(train.apply_gradients, tx=tx, skip_nonfinite=True)
    jitted['learn'] = updates.make_learn(
      *(nets, how, surrogate, step, apply),
      entropy_gradient=entropy_gradient,
      **settings,
    )
  else:
    jitted['score'] = rollout_lib.make_score(nets, how)
    jitted['update'] = updates.make_update(
      step, num_minibatches=config.num_minibatches, **settings
    )
  return jitted


def make_phases(
  config: ml_collections.ConfigDict,
  nets: rollout_lib.Networks,
  tx: Any,
  shardings: Any,
) -> Phases:
  """The same, each timed, with its memory."""
  jitted = make_jitted(config, nets, tx, shardings)
  return {name: phases_lib.Phase(fn) for name, fn in jitted.items()}


@dataclasses.dataclass
class Loop:
  """One run's moving parts; `run` is the loop."""

  config: ml_collections.ConfigDict
  mesh: Mesh
  frozen: Params
  phases: Phases
  decode: Callable[[Sequence[int]], str]  # of the tokenizer
  prompts: Any  # iterator of Prompts
  text: Any  # iterator of TokenBatch, or None
  state: TrainState
  controls: controls_lib.Controls | None = None  # set by the first evaluation

  def begin(self, start: controls_lib.Controls) -> None:
    """Before the first iteration: what adapts, and values in its scale.

    A value network that is a copy of the PM predicts raw scores, and the
    returns are of normalised ones. (With score_norm 'running' they move on,
    and the values have to follow.)
    """
    self.controls = start
    if self.config.value_net != 'pm':
      return
    value, scale = self.state.params['value'], start.score_var**-0.5
    head, bias = value['scalar_head'], value['scalar_bias']
    moved = {
      'scalar_head': jax.device_put(head * scale, head.sharding),
      'scalar_bias': jax.device_put(
        (bias - start.score_mean) * scale, bias.sharding
      ),
    }
    self.state = self.state.replace(
      params=self.state.params | {'value': value | moved}
    )

  def iteration(
    self, key: jax.Array
  ) -> tuple[Rollout, dict[str, Any], dict[str, Any]]:
    """Samples replies to the next prompts, scores them and learns from them.

    The rollout, what it says of the policy that sampled, and the metrics of all
    updates, [E * M] each.
    """
    prompts = sharding.place(self.mesh, next(self.prompts))
    policy = self.state.params['policy']
    if 'reshard' in self.phases:
      policy = self.phases['reshard'](policy)
    samples = self.phases['sample'](policy, prompts, key)
    del policy  # its bytes, before the phase that needs most of them
    samples, is_cut = sampling.cut_at_markers(samples, self.decode)
    if is_cut.any():
      samples = sharding.place(self.mesh, samples)
    frozen = {
      'reference': self.frozen['reference'],
      'pm': self.frozen['pm_score'],
    }
    given = frozen, self.controls.arrays(), samples
    if 'learn' in self.phases:
      self.state, rollout, *metrics = self.phases['learn'](self.state, *given)
    else:
      rollout, seen = self.phases['score'](self.state.params, *given)
      text = sharding.place(self.mesh, next(self.text)) if self.text else None
      self.state, update = self.phases['update'](self.state, rollout, text)
      metrics = seen, update
    seen, update = sharding.fetch(metrics)
    return rollout, seen | {'spelt_marker_rate': is_cut.mean()}, update

  def adapt(self, seen: dict[str, Any]) -> None:
    """Moves the KL coefficient and the score normaliser."""
    c = self.config
    if c.kl_target:
      self.controls.seen_kl(
        float(seen[f'kl_{c.kl_estimator}']),
        target=c.kl_target,
        samples=c.batch_size,
        horizon=c.kl_horizon,
      )
    if c.score_norm == 'running':
      self.controls.seen_scores(
        float(seen['pm_score']), float(seen['pm_score_std']), c.batch_size
      )

  def host_state(self, seen: policy_watch.Seen) -> dict[str, Any]:
    """What a checkpoint holds beside arrays."""
    return {
      'batches': self.prompts.get_state(),
      'text': self.text.get_state() if self.text else None,
      'controls': dataclasses.asdict(self.controls),
      'seen': dataclasses.asdict(seen),
    }

  def restore(self, checkpoints: native.Checkpoints) -> policy_watch.Seen:
    """Goes back to the newest checkpoint, if there is one."""
    if (restored := checkpoints.restore(self.state)) is None:
      return policy_watch.Seen()
    self.state, host = restored
    self.prompts.set_state(host['batches'])
    if self.text:
      self.text.set_state(host['text'])
    self.controls = controls_lib.Controls(**host['controls'])
    return policy_watch.Seen(**host['seen'])


def make_watch(
  config: ml_collections.ConfigDict,
  workdir: str,
  writer: metrics_lib.MetricsWriter,
  evaluation: policy_evaluation.Log,
  seen: policy_watch.Seen,
) -> policy_watch.Watch:
  """The run's watch, as config.alarms says."""
  thresholds = config.alarms.to_dict()
  action, max_failed = (thresholds.pop(k) for k in ('action', 'max_failed'))
  return policy_watch.Watch(
    workdir=pathlib.Path(workdir),
    writer=writer,
    evaluation=evaluation,
    thresholds=alarms.Thresholds(**thresholds),
    stops=action == 'stop',
    max_failed=max_failed,
    tolerance=policy_watch.SAMPLER_TOLERANCE[config.model.dtype],
    seen=seen,
  )


def iterate(
  loop: Loop,
  watch: policy_watch.Watch,
  step: int,
  *,
  key: jax.Array,
  schedule: Callable[[int], Any],
) -> dict[str, float]:
  """Iteration `step`, from 1: its metrics, which the watch has written."""
  begin, coef = time.perf_counter(), loop.controls.kl_coef
  rollout, seen, update = loop.iteration(key)
  # what is refused here was learnt from, and is never saved
  values = watch.check_rollout(step, rollout, seen)
  steps = int(loop.state.step)
  values |= {
    'ppo/kl_coef': coef,  # that this iteration used
    'ppo/lr': float(schedule(steps - 1)),
    'ppo/optimizer_steps': steps,
  }
  watch.iteration(step, values, update, rollout)
  loop.adapt(seen)
  wall = time.perf_counter() - begin
  watch.phases(step, loop.phases, wall=wall)
  return values


def train_policy(
  loop: Loop,
  workdir: str,
  evaluation: policy_evaluation.Log,
  *,
  key: jax.Array,
  schedule: Callable[[int], Any],
) -> dict[str, float]:
  """Runs the loop to its end, or to an alarm; what the summary says of it.

  A signal (stopping.SIGNALS) saves after the iteration that it comes in, and
  raises Stopped.
  """
  config, kept = loop.config, loop.config.checkpoints
  per_iteration = config.num_epochs * config.num_minibatches
  checkpoints = native.Checkpoints(
    workdir, keep=kept.keep, every=kept.every * per_iteration
  )
  seen = loop.restore(checkpoints)
  step = int(loop.state.step) // per_iteration
  with (
    metrics_lib.MetricsWriter(
      workdir, resume_step=step, **config.track
    ) as writer,
    metrics_lib.progress(config.num_iterations, config.advantage) as bar,
    contextlib.closing(checkpoints),
    stopping.after_a_step() as waiting,
  ):
    watch = make_watch(config, workdir, writer, evaluation, seen)
    while not waiting():
      if step % config.eval_every == 0 or step == config.num_iterations:
        watch.evaluate(step, loop.state, loop.frozen)
      if loop.controls is None:
        loop.begin(evaluation.initial_controls(config))
      if step == config.num_iterations or watch.must_stop or waiting():
        break
      step_key = jax.random.fold_in(key, step)
      step += 1
      values = iterate(loop, watch, step, key=step_key, schedule=schedule)
      bar.update(
        step,
        {'pm': values['rollout/pm_score'], 'kl': values['rollout/kl_k1']},
      )
      if step % config.save_every == 0:
        checkpoints.save(loop.state, loop.host_state(watch.seen))
    if not waiting():
      watch.evaluate(step, loop.state, loop.frozen)
    if loop.controls is not None:
      checkpoints.save(loop.state, loop.host_state(watch.seen))
  return watch.summary() | {
    'train/iterations': step,
    # where it adapts, the last iteration's KL has moved it on
    'train/next_kl_coef': loop.controls.kl_coef,
  }

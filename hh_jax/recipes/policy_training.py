"""The loop of policy optimisation: sample, score, update."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from hh_jax import metrics as metrics_lib
from hh_jax import sampling, sharding, train
from hh_jax.checkpoints import native
from hh_jax.losses import language_model, ppo
from hh_jax.model import Transformer
from hh_jax.recipes import phases as phases_lib
from hh_jax.recipes import policy_evaluation, policy_watch
from hh_jax.rl import advantages, alarms
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


def make_jitted(
  config: ml_collections.ConfigDict,
  nets: rollout_lib.Networks,
  tx: Any,
  shardings: Any,
) -> dict[str, Callable[..., Any]]:
  """sample, score and update of an iteration, as config says."""
  in_reward = config.kl_in == 'reward'
  how = rollout_lib.Rewarding(
    kl_estimator=config.kl_estimator,
    kl_in_reward=in_reward,
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
  loss_fn = ppo.ppo_loss(
    nets.actor_critic.policy_fn(entropy_gradient=config.entropy_coef > 0),
    clip_eps=config.clip_eps,
    value_clip=config.value_clip,
    value_coef=0.0 if nets.values == 'none' else config.value_coef,
    entropy_coef=config.entropy_coef,
    kl_estimator=config.kl_estimator,
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
  return {
    'sample': rollout_lib.make_sample(
      nets,
      num_samples=config.samples_per_prompt,
      slots=config.slots,
      gathers_params=config.decode_params == 'gathered',
    ),
    'score': rollout_lib.make_score(nets, how),
    'update': rollout_lib.make_update(
      step,
      shardings=shardings,
      num_epochs=config.num_epochs,
      num_minibatches=config.num_minibatches,
      aggregate=config.aggregate,
    ),
  }


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

  def collect(self, key: jax.Array) -> tuple[Rollout, dict[str, Any]]:
    """Samples replies to the next prompts, and scores them."""
    prompts = sharding.place(self.mesh, next(self.prompts))
    samples = self.phases['sample'](self.state.params['policy'], prompts, key)
    samples, is_cut = sampling.cut_at_markers(samples, self.decode)
    if is_cut.any():
      samples = sharding.place(self.mesh, samples)
    frozen = {
      'reference': self.frozen['reference'],
      'pm': self.frozen['pm_score'],
    }
    rollout, seen = self.phases['score'](
      self.state.params, frozen, self.controls.arrays(), samples
    )
    return rollout, jax.device_get(seen) | {'spelt_marker_rate': is_cut.mean()}

  def update(self, rollout: Rollout) -> dict[str, Any]:
    """All minibatches of all epochs; their metrics, [E * M] each."""
    text = sharding.place(self.mesh, next(self.text)) if self.text else None
    self.state, metrics = self.phases['update'](self.state, rollout, text)
    return jax.device_get(metrics)

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
    if checkpoints.latest_step() is None:
      return policy_watch.Seen()
    self.state, host = checkpoints.restore(self.state)
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
  coef = loop.controls.kl_coef
  rollout, seen = loop.collect(key)
  values = watch.check_rollout(step, rollout, seen)
  update = loop.update(rollout)
  steps = int(loop.state.step)
  values |= {
    'ppo/kl_coef': coef,
    'ppo/lr': float(schedule(steps - 1)),
    'ppo/optimizer_steps': steps,
  }
  watch.iteration(step, values, update, rollout)
  watch.phases(step, loop.phases)
  loop.adapt(seen)
  return values


def train_policy(
  loop: Loop,
  workdir: str,
  evaluation: policy_evaluation.Log,
  *,
  key: jax.Array,
  schedule: Callable[[int], Any],
) -> dict[str, float]:
  """Runs the loop to its end, or to an alarm; what the summary says of it."""
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
  ):
    watch = make_watch(config, workdir, writer, evaluation, seen)
    while True:
      if step % config.eval_every == 0 or step == config.num_iterations:
        watch.evaluate(step, loop.state, loop.frozen)
      if loop.controls is None:
        loop.begin(evaluation.initial_controls(config))
      if step == config.num_iterations or watch.must_stop:
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
    watch.evaluate(step, loop.state, loop.frozen)
    checkpoints.save(loop.state, loop.host_state(watch.seen))
    return watch.summary() | {
      'train/iterations': step,
      'train/kl_coef': loop.controls.kl_coef,
    }

"""Trains a policy against a preference model with PPO."""

from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from hh_jax import metrics as metrics_lib
from hh_jax import sampling, sharding, train
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.checkpoints import native
from hh_jax.data import loader, packing, sources
from hh_jax.data.examples import Prompt
from hh_jax.errors import InputError
from hh_jax.losses import ppo
from hh_jax.recipes import common, ensembles, policy_evaluation
from hh_jax.rl import policy as policy_lib
from hh_jax.rl import rollout as rollout_lib
from hh_jax.types import Params, Prompts, TrainState

VALUE_INITS = ('pm', 'policy')
COUNTS = (  # config fields of 1 or more
  'max_prompt',
  'max_reply',
  'num_iterations',
  'num_epochs',
  'num_minibatches',
  'head_chunk',
  'eval_every',
  'eval_samples',
  'save_every',
)


def pack(
  prompts: Sequence[Prompt],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  max_prompt: int,
) -> tuple[Prompts, int]:
  """Left-padded prompts that fit max_prompt, and how many did not."""
  ids = tokenizer.encode_batch([prompt.text for prompt in prompts])
  ids = [[tokenizer.bos_id, *prompt] for prompt in ids]
  rows, dropped = packing.pad_prompts(ids, length=max_prompt)
  if not loader.num_rows(rows):
    raise InputError(f'no prompt fits config.max_prompt {max_prompt}')
  return rows, dropped


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for settings that cannot work, or not together."""
  common.check_positive(config, *COUNTS)
  common.check_checkpoints(config)
  mesh = common.make_mesh(config.mesh)
  common.check_batch(config, mesh)
  common.check_batch(config, mesh, name='eval_batch_size')
  rows = mesh.shape['fsdp'] * config.num_minibatches
  if config.batch_size % rows:
    raise InputError(
      f'config.batch_size {config.batch_size} is not divisible by '
      f'num_minibatches={config.num_minibatches} x fsdp={mesh.shape["fsdp"]}'
    )
  if config.value_init not in VALUE_INITS:
    raise InputError(
      f'config.value_init {config.value_init!r} is none of {VALUE_INITS}'
    )
  for name in ('kl_coef', 'no_stop_penalty', 'value_coef'):
    common.check_range(config, name, 0)
  for name in ('gamma', 'lam'):
    common.check_range(config, name, 0, 1)
  for name in ('clip_eps', 'value_clip'):
    common.check_range(config, name, 1e-9)
  ensembles.check(config)
  for member in ensembles.members(config) if config.heldout_pm else ():
    if _same(config.heldout_pm, member):
      raise InputError(
        f'config.heldout_pm {config.heldout_pm} is the PM that trains the '
        'policy'
      )
  if not config.temperature > 0:
    raise InputError(f'config.temperature {config.temperature} is not positive')


def _same(link: str, other: str) -> bool:
  """Whether both are of one run, at whatever steps."""
  paths = [pathlib.Path(common.split_step(x)[0]) for x in (link, other)]
  return paths[0].resolve() == paths[1].resolve()


def make_networks(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> rollout_lib.Networks:
  """The functions of policy, value and preference models."""
  policy = common.make_model(config.model, tokenizer)
  pm = common.make_model(config.pm_model, tokenizer)
  return rollout_lib.Networks(
    policy=policy,
    value=pm if config.value_init == 'pm' else policy,
    pm=pm,
    combine=ensembles.make_combine(config),
    distribution=sampling.reply_distribution(
      tokenizer, temperature=config.temperature
    ),
    max_reply=config.max_reply,
    end_id=tokenizer.eoc_id,
    chunk=config.head_chunk,
  )


def load_frozen(
  config: ml_collections.ConfigDict,
  nets: rollout_lib.Networks,
  mesh: Mesh,
  fingerprint: str,
) -> Params:
  """Parameters that never change: reference, pm and, if named, heldout_pm.

  'pm_score' is a tuple where config.ensemble has other members.
  """

  def load(link: str, model) -> Params:
    return common.load_params(
      config, link, model, mesh, fingerprint=fingerprint
    )

  frozen = {
    'reference': load('init_from', nets.policy),
    'pm_score': ensembles.load(config, nets.pm, mesh, fingerprint=fingerprint),
  }
  if config.heldout_pm:
    frozen['heldout_pm_score'] = load('heldout_pm', nets.pm)
  return frozen


def initial_state(
  config: ml_collections.ConfigDict, frozen: Params, tx: Any, mesh: Mesh
) -> tuple[TrainState, Any]:
  """The policy starts as the reference, the value as config.value_init says."""
  value = frozen['pm_score' if config.value_init == 'pm' else 'reference']
  if isinstance(value, tuple):
    value, *_ = value  # config.pm's
  params = {'policy': frozen['reference'], 'value': value}
  key = common.stream(config.seed, common.INIT)
  return train.state_from(params, tx, key, mesh)


def make_evaluator(
  config: ml_collections.ConfigDict,
  nets: rollout_lib.Networks,
  frozen: Params,
  source: sources.Source,
  tokenizer: tokenizer_lib.Tokenizer,
  mesh: Mesh,
) -> policy_evaluation.Evaluator:
  """Evaluates on config.eval_prompts test prompts, spread over all that fit."""
  prompts = source.prompts('test')
  rows, _ = pack(prompts, tokenizer, max_prompt=config.max_prompt)
  rows = loader.spread(rows, config.eval_prompts)
  if loader.num_rows(rows) < 2:
    raise InputError(
      'standard errors need 2 prompts: config.eval_prompts is '
      f'{config.eval_prompts}, {loader.num_rows(rows)} fits config.max_prompt'
    )
  names = tuple(name for name in frozen if name.endswith('pm_score'))
  return policy_evaluation.Evaluator(
    evaluate=rollout_lib.make_evaluate(nets, names),
    rows=rows,
    prompts=prompts,
    tokenizer=tokenizer,
    gold_score=source.gold_score,
    mesh=mesh,
    key=common.stream(config.seed, common.EVAL),
    batch_size=config.eval_batch_size,
    num_samples=config.eval_samples,
  )


def make_update(config, nets: rollout_lib.Networks, tx, shardings):
  """The jitted update of the state with one rollout."""
  policy_fn = policy_lib.make_policy_fn(
    nets.policy,
    nets.value,
    distribution=nets.distribution,
    max_reply=nets.max_reply,
    chunk=nets.chunk,
  )
  loss_fn = ppo.ppo_loss(
    policy_fn,
    clip_eps=config.clip_eps,
    value_clip=config.value_clip,
    value_coef=config.value_coef,
  )
  return rollout_lib.make_update(
    train.make_train_step(loss_fn, tx, shardings),
    shardings=shardings,
    num_epochs=config.num_epochs,
    num_minibatches=config.num_minibatches,
  )


def train_metrics(
  step: int, rollout: dict[str, Any], update: dict[str, Any]
) -> dict[str, float]:
  """One iteration's scalars; those of minibatches are averaged.

  The first minibatch must see the policy that sampled: its largest ratio is
  logged by itself, 1 up to rounding.
  """
  rollout, update = jax.device_get((rollout, update))
  out = {f'rollout/{k}': float(v) for k, v in rollout.items()}
  out |= {f'ppo/{k}': float(np.mean(v)) for k, v in update.items()}
  out['ppo/ratio_max'] = float(np.max(update['ratio_max']))
  out['ppo/first_ratio_max'] = float(update['ratio_max'][0])
  worst = {k: float(np.sum(update[k])) for k in ('loss', 'grad_norm')}
  train.check_finite(worst, step=step, batch='this rollout')
  return out


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Trains for config.num_iterations; returns the summary."""
  check(config)
  workdir_lib.open_run(workdir, config.to_dict(), 'ppo')
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  nets = make_networks(config, tokenizer)
  frozen = load_frozen(config, nets, mesh, tokenizer.fingerprint)
  source = common.load_source(config.data)
  prompts = source.prompts('train')
  rows, dropped = pack(prompts, tokenizer, max_prompt=config.max_prompt)
  evaluator = make_evaluator(config, nets, frozen, source, tokenizer, mesh)
  native.write_card(workdir, nets.policy, tokenizer.fingerprint)

  updates = config.num_iterations * config.num_epochs * config.num_minibatches
  tx, _ = common.make_optimizer(config.optimizer, num_steps=updates)
  state, shardings = initial_state(config, frozen, tx, mesh)
  state = train_policy(
    config,
    workdir,
    state=state,
    frozen=frozen,
    rows=rows,
    collect=rollout_lib.make_collect(
      nets,
      kl_coef=config.kl_coef,
      gamma=config.gamma,
      lam=config.lam,
      no_stop_penalty=config.no_stop_penalty,
    ),
    update=make_update(config, nets, tx, shardings),
    evaluation=policy_evaluation.Log(workdir, evaluator),
    mesh=mesh,
  )
  summary = policy_evaluation.read_gains(workdir) | {
    'train/iterations': config.num_iterations,
    'train/samples': config.num_iterations * config.batch_size,
    'train/optimizer_steps': int(state.step),
    'train/prompts': loader.num_rows(rows),
    'train/prompts_dropped_over_long': dropped,
  }
  workdir_lib.write_summary(workdir, summary)
  return summary


def train_policy(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  state: TrainState,
  frozen: Params,
  rows: Prompts,
  collect,
  update,
  evaluation: policy_evaluation.Log,
  mesh: Mesh,
) -> TrainState:
  """The loop: sample and score, then update; evaluations in between."""
  batches = loader.train_batches(
    rows, batch_size=config.batch_size, seed=config.seed
  )
  per_iteration = config.num_epochs * config.num_minibatches
  kept = config.checkpoints
  checkpoints = native.Checkpoints(
    workdir, keep=kept.keep, every=kept.every * per_iteration
  )
  if checkpoints.latest_step() is not None:
    state, host = checkpoints.restore(state)
    batches.set_state(host['batches'])
  first = int(state.step) // per_iteration
  key = common.stream(config.seed, common.SAMPLE)

  with (
    metrics_lib.MetricsWriter(
      workdir, resume_step=first, **config.track
    ) as writer,
    metrics_lib.progress(config.num_iterations, 'ppo') as bar,
    contextlib.closing(checkpoints),
  ):
    for i in range(first, config.num_iterations):
      if i % config.eval_every == 0:
        writer.write(i, evaluation(i, state.params['policy'], frozen))
      batch = sharding.place(mesh, next(batches))
      rollout, seen = collect(
        state.params,
        {
          'reference': frozen['reference'],
          'pm': frozen['pm_score'],
          'score_mean': evaluation.score_mean,
        },
        batch,
        jax.random.fold_in(key, i),
      )
      state, updated = update(state, rollout)
      values = train_metrics(i + 1, seen, updated)
      writer.write(i + 1, values)
      bar.update(
        i + 1,
        {'pm': values['rollout/pm_score'], 'kl': values['rollout/kl']},
      )
      if (i + 1) % config.save_every == 0 or i + 1 == config.num_iterations:
        checkpoints.save(state, {'batches': batches.get_state()})
    last = config.num_iterations
    writer.write(last, evaluation(last, state.params['policy'], frozen))
  return state

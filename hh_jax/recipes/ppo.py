"""Trains a policy against a preference model: PPO, RLOO, GRPO, REINFORCE."""

import jax
from jax.sharding import Mesh
import ml_collections

from hh_jax import tokenizer as tokenizer_lib
from hh_jax import types
from hh_jax import workdir as workdir_lib
from hh_jax.checkpoints import native
from hh_jax.data import loader, prepared, sources
from hh_jax.errors import InputError
from hh_jax.losses import ppo
from hh_jax.recipes import (
  common,
  ensembles,
  policy_evaluation,
  policy_networks,
  policy_prompts,
  policy_samples,
  policy_training,
  pretrain,
)
from hh_jax.rl import advantages, alarms, controls, kl, rewards
from hh_jax.rl import rollout as rollout_lib
from hh_jax.types import Params

COUNTS = (  # config fields of 1 or more
  'max_prompt',
  'max_reply',
  'samples_per_prompt',
  'num_iterations',
  'num_epochs',
  'num_minibatches',
  'num_micro_batches',
  'head_chunk',
  'kl_horizon',
  'eval_every',
  'eval_prompts',
  'eval_samples',
  'save_every',
)
CHOICES = {  # config field -> its values
  'advantage': advantages.ESTIMATORS,
  'aggregate': ppo.AGGREGATES,
  'decode_params': ('split', 'gathered'),
  'kl_estimator': kl.ESTIMATORS,
  'kl_in': ('reward', 'loss'),
  'no_stop': rewards.NO_STOP,
  'score_norm': controls.SCORE_NORMS,
  'value_net': tuple(policy_networks.VALUE_NETS),
}


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for settings that cannot work, or not together."""
  common.check_positive(config, *COUNTS)
  common.check_checkpoints(config)
  for name, allowed in CHOICES.items():
    if config[name] not in allowed:
      raise InputError(
        f'config.{name} {config[name]!r} is none of {", ".join(allowed)}'
      )
  for name in (
    'kl_coef', 'kl_target', 'no_stop_penalty', 'value_coef', 'value_clip',
    'entropy_coef', 'ptx_coef', 'ptx_rows', 'halve_every', 'slots',
  ):  # fmt: skip
    common.check_range(config, name, 0)
  for name in ('gamma', 'lam'):
    common.check_range(config, name, 0, 1)
  common.check_range(config, 'clip_eps', 1e-9)
  common.check_temperature(config)
  check_batches(config, common.make_mesh(config.mesh))
  check_combinations(config)
  check_alarms(config.alarms)
  ensembles.check(config)
  ensembles.check_apart(config)
  policy_prompts.check(config)


def check_batches(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
  """Raises InputError for batches that do not divide as they have to."""
  common.check_batches(config, mesh)
  common.check_batch(config, mesh, 'batch_size', 'samples_per_prompt')
  if config.ptx_rows:
    common.check_batch(config, mesh, 'ptx_rows', 'num_micro_batches')


def check_combinations(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for choices that do not go together."""
  in_groups = config.advantage in advantages.OVER_GROUPS
  if in_groups and config.samples_per_prompt < 2:
    raise InputError(
      f'config.advantage {config.advantage} compares the replies to one '
      'prompt: samples_per_prompt must be 2 or more'
    )
  if in_groups != (config.value_net == 'none'):
    raise InputError(
      f'config.advantage {config.advantage} '
      + ('learns no values: value_net must be none' if in_groups
         else 'needs values: value_net must not be none')
    )  # fmt: skip
  if in_groups and config.whiten_advantages:
    raise InputError(
      f'config.advantage {config.advantage} has a baseline of its own: '
      'whiten_advantages must be False, it would take off another, over tokens'
    )
  if config.kl_in == 'loss' and config.kl_estimator == 'k1':
    raise InputError(
      'config.kl_in loss: the expected gradient of kl_estimator k1 is 0; take '
      'k2 or k3'
    )
  if config.kl_target and not config.kl_coef:
    raise InputError('config.kl_target cannot adapt a kl_coef of 0')
  if bool(config.ptx_coef) != bool(config.ptx_rows):
    raise InputError(
      f'config.ptx_coef {config.ptx_coef} and ptx_rows {config.ptx_rows}: '
      'either both or none'
    )
  if config.ptx_coef and config.ptx_row_length < 2:  # a token and its target
    raise InputError(
      f'config.ptx_row_length {config.ptx_row_length} is not 2 or more'
    )
  halving = config.optimizer.schedule == 'halving'
  if halving != bool(config.halve_every):
    raise InputError(
      f'config.halve_every {config.halve_every} with optimizer.schedule '
      f'{config.optimizer.schedule!r}: above 0 and halving go together'
    )
  updates = config.num_epochs * config.num_minibatches
  if halving and config.halve_every * updates < config.batch_size:
    raise InputError(
      f'config.halve_every {config.halve_every} replies are less than an '
      f'optimizer step: batch_size {config.batch_size} has {updates}'
    )


def check_alarms(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for thresholds that cannot be."""
  for name in ('max_kl', 'max_pm_gap'):
    common.check_range(config, name, 0, section='alarms')
  for name in ('max_repetition', 'min_stop_rate'):
    common.check_range(config, name, 0, 1, section='alarms')
  common.check_range(config, 'max_failed', 1, section='alarms')
  if config.action not in alarms.ACTIONS:
    raise InputError(
      f'config.alarms.action {config.action!r} is none of '
      f'{", ".join(alarms.ACTIONS)}'
    )


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
  rows, _ = policy_prompts.pack(
    prompts, tokenizer, max_prompt=config.max_prompt
  )
  rows = loader.spread(rows, config.eval_prompts)
  if loader.num_rows(rows) < 2:
    raise InputError(
      'standard errors need 2 prompts: config.eval_prompts is '
      f'{config.eval_prompts}, {loader.num_rows(rows)} fits config.max_prompt'
    )
  names = tuple(name for name in frozen if name.endswith('pm_score'))
  reshard = None
  if config.decode_params == 'gathered':
    layout = jax.tree.map(lambda x: x.sharding, frozen['reference'])
    reshard = rollout_lib.make_reshard(nets, layout)
  sampler = policy_samples.Sampler(
    draw=rollout_lib.make_draw(nets),
    judge=rollout_lib.make_evaluate(nets, names),
    decode=tokenizer.decode,
    mesh=mesh,
    key=common.stream(config.seed, common.EVAL),
    batch_size=config.eval_batch_size,
    num_samples=config.eval_samples,
    reshard=reshard,
  )
  return policy_evaluation.Evaluator(sampler, rows, prompts, source.gold_score)


def prepare(
  config: ml_collections.ConfigDict,
  source: sources.Source,
  tokenizer: tokenizer_lib.Tokenizer,
) -> tuple[policy_prompts.TrainPrompts, types.TokenBatch | None]:
  """Training prompts, and rows of text; None without PTX."""
  prompts = policy_prompts.load(config, source, tokenizer)
  if not config.ptx_coef:
    return prompts, None
  return prompts, pretrain.pack(
    source.documents('train'), tokenizer, row_length=config.ptx_row_length
  )


def text_batches(
  config: ml_collections.ConfigDict, rows: types.TokenBatch | None
) -> loader.Batches | None:
  """Endless batches of text for an iteration's updates; None without PTX."""
  if rows is None:
    return None
  updates = config.num_epochs * config.num_minibatches
  return loader.train_batches(
    rows, batch_size=config.ptx_rows * updates, seed=config.seed
  )


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Trains for config.num_iterations; returns the summary."""
  check(config)
  workdir_lib.open_run(workdir, config.to_dict(), 'ppo')
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  nets = policy_networks.make_networks(
    config, tokenizer, value_net=config.value_net
  )
  frozen = policy_networks.load_frozen(
    config, nets, mesh, tokenizer.fingerprint
  )
  source = common.load_source(config.data)
  evaluator = make_evaluator(config, nets, frozen, source, tokenizer, mesh)
  prompts, text = prepared.once(
    workdir, lambda: prepare(config, source, tokenizer)
  )
  native.write_card(workdir, nets.policy, tokenizer.fingerprint)

  per_iteration = config.num_epochs * config.num_minibatches
  tx, schedule = common.make_optimizer(
    config.optimizer,
    num_steps=config.num_iterations * per_iteration,
    halve_every=config.halve_every * per_iteration // config.batch_size,
  )
  state, shardings = policy_networks.initial_state(config, frozen, tx, mesh)
  loop = policy_training.Loop(
    config=config,
    mesh=mesh,
    frozen=frozen,
    phases=policy_training.make_phases(config, nets, tx, shardings),
    decode=tokenizer.decode,
    prompts=policy_prompts.batches(
      prompts,
      batch_size=config.batch_size // config.samples_per_prompt,
      seed=config.seed,
    ),
    text=text_batches(config, text),
    state=state,
  )
  done = policy_training.train_policy(
    loop,
    workdir,
    policy_evaluation.Log(workdir, evaluator),
    key=common.stream(config.seed, common.SAMPLE),
    schedule=schedule,
  )
  counts = {f'train/{name}': n for name, n in prompts.counts.items()}
  summary = policy_evaluation.read_gains(workdir) | done | counts
  summary |= {
    'train/samples': done['train/iterations'] * config.batch_size,
    'train/optimizer_steps': int(jax.device_get(loop.state.step)),
  }
  workdir_lib.write_summary(workdir, summary)
  return summary

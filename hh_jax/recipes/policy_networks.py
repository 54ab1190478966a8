"""Which networks a policy run has, and where their parameters come from."""

from typing import Any

from jax.sharding import Mesh
import ml_collections

from hh_jax import sampling, train
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.recipes import common, ensembles
from hh_jax.rl import rollout as rollout_lib
from hh_jax.types import Params, TrainState

# config.value_net -> policy.VALUES
VALUE_NETS = {
  'pm': 'separate',
  'policy': 'separate',
  'head': 'head',
  'none': 'none',
}


def make_networks(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  value_net: str,
) -> rollout_lib.Networks:
  """The functions of policy, value and preference models."""
  policy = common.make_model(config.model, tokenizer)
  pm = common.make_model(config.pm_model, tokenizer, name='pm_model')
  return rollout_lib.Networks(
    policy=policy,
    value=pm if value_net == 'pm' else policy,
    values=VALUE_NETS[value_net],
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
  """Parameters that never change: 'reference', and those of load_judges."""
  reference = common.load_params(
    config, 'init_from', nets.policy, mesh, fingerprint=fingerprint
  )
  judges = load_judges(config, nets, mesh, fingerprint)
  return {'reference': reference} | judges


def load_judges(
  config: ml_collections.ConfigDict,
  nets: rollout_lib.Networks,
  mesh: Mesh,
  fingerprint: str,
) -> dict[str, Params]:
  """'pm_score' (a tuple: an ensemble) and, if named, 'heldout_pm_score'."""
  judges = {
    'pm_score': ensembles.load(config, nets.pm, mesh, fingerprint=fingerprint)
  }
  if config.heldout_pm:
    judges['heldout_pm_score'] = common.load_params(
      config, 'heldout_pm', nets.pm, mesh, fingerprint=fingerprint
    )
  return judges


def initial_state(
  config: ml_collections.ConfigDict, frozen: Params, tx: Any, mesh: Mesh
) -> tuple[TrainState, Any]:
  """The policy starts as the reference, the value as config.value_net says."""
  params = {'policy': frozen['reference']}
  if VALUE_NETS[config.value_net] == 'separate':
    value = frozen['pm_score' if config.value_net == 'pm' else 'reference']
    # of an ensemble: config.pm's
    params['value'] = value[0] if isinstance(value, tuple) else value
  key = common.stream(config.seed, common.INIT)
  return train.state_from(params, tx, key, mesh)

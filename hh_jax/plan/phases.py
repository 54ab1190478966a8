"""The jitted functions of a recipe, with the shapes and places of their arrays.

No array is made: what a recipe loads or packs is a shape with a sharding here.
Axis letters: B rows, T tokens a row, M pairs a row, P prompt, R reply.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import ml_collections
import numpy as np

from hh_jax import sampling, sharding, train, types
from hh_jax.errors import InputError
from hh_jax.losses import language_model, preference
from hh_jax.plan import formula
from hh_jax.recipes import (
  common,
  pm,
  policy_networks,
  policy_training,
  ppo,
  pretrain,
)
from hh_jax.types import TrainState

Config = ml_collections.ConfigDict


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """A tokenizer as far as shapes go; ids as hh_jax.tokenizer has them."""

  vocab_size: int
  pad_id: int = 0
  unk_id: int = 1
  bos_id: int = 2
  eos_id: int = 3
  eoc_id: int = 4
  human_id: int = 5
  assistant_id: int = 6


@dataclasses.dataclass(frozen=True)
class Phase:
  """One device call of a recipe's loop."""

  name: str
  jitted: Callable[..., Any]
  # (results of earlier phases) -> arguments, trees of ShapeDtypeStruct
  arguments: Callable[[dict[str, Any]], tuple[Any, ...]]
  resident: Any  # arrays that stay on the chips beside the arguments
  flops: float  # the model's, of one call, all chips (formula)
  calls: int | None  # of the whole run; None: as many as the data make
  open_trips: int = 1  # of loops that data end, in all
  inner_trips: float = 1  # of such loops within them, a trip


@dataclasses.dataclass(frozen=True)
class _Shapes:
  """Shapes on a mesh."""

  mesh: Mesh

  def rows(self, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """[B, ...], split as sharding.place does."""
    split = sharding.row_sharding(self.mesh, shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

  def tree(self, tree: Any) -> Any:
    """Parameters or a state, by the table of rules."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree,
      sharding.tree_shardings(self.mesh, tree),
    )

  def state(self, params: Any, tx: Any) -> TrainState:
    def init(key):
      return TrainState(jnp.int32(0), params(key), tx.init(params(key)), key)

    return self.tree(jax.eval_shape(init, jax.random.key(0)))

  def key(self) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    place = NamedSharding(self.mesh, P())
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=place)


def shardings_of(tree: Any) -> Any:
  return jax.tree.map(lambda x: x.sharding, tree)


def chip_bytes(tree: Any) -> int:
  """Bytes of a chip's share."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * _itemsize(x.dtype)
    for x in jax.tree.leaves(tree)
  )


def _itemsize(dtype: Any) -> int:
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return 8  # two words, threefry's
  return np.dtype(dtype).itemsize


def _token_batch(shapes: _Shapes, rows: int, length: int) -> types.TokenBatch:
  ids = [shapes.rows(rows, length)] * 3
  return types.TokenBatch(*ids, shapes.rows(rows, length, dtype=jnp.float32))


def _packed_pairs(shapes: _Shapes, config: Config) -> types.PackedPairs:
  b, t, m = config.batch_size, config.row_length, config.max_pairs
  floats = ('pair_mask', 'labels', 'margins', 'weights')
  a_token = ('tokens', 'positions', 'segments', 'branches', 'parents')
  return types.PackedPairs(
    **{
      field.name: shapes.rows(
        b,
        t if field.name in a_token else m,
        dtype=jnp.float32 if field.name in floats else jnp.int32,
      )
      for field in dataclasses.fields(types.PackedPairs)
    }
  )


def _train_phase(
  config: Config,
  mesh: Mesh,
  model: Any,
  loss_fn: types.LossFn,
  batch: Any,
  *,
  predicted: int,
  calls: int | None,
) -> list[Phase]:
  """The step of supervised.train_on_rows."""
  tx, _ = common.make_optimizer(config.optimizer, num_steps=calls or 1)
  state = _Shapes(mesh).state(model.init, tx)
  num = config.num_micro_batches
  step = train.make_train_step(
    loss_fn, tx, shardings_of(state), num_micro_batches=num
  )
  tokens = config.batch_size * config.row_length
  flops = formula.train(
    model.config, tokens, columns=config.row_length, predicted=predicted
  )
  return [Phase('train', step, lambda _: (state, batch), (), flops, calls)]


def _pretrain(config: Config, mesh: Mesh, vocabulary: Any) -> list[Phase]:
  pretrain.check(config)
  model = common.make_model(config.model, vocabulary)
  return _train_phase(
    config,
    mesh,
    model,
    language_model.language_model_loss(model, chunk=config.head_chunk),
    _token_batch(_Shapes(mesh), config.batch_size, config.row_length),
    predicted=config.batch_size * (config.row_length - 1),
    calls=config.num_steps,
  )


def _pm(config: Config, mesh: Mesh, vocabulary: Any) -> list[Phase]:
  pm.check(config)
  model = common.make_model(config.model, vocabulary)
  has_head = config.lm_coef or config.objective == 'imitation'
  loss_fn = preference.preference_loss(
    model, **{name: config[name] for name in pm.LOSS_OPTIONS}
  )
  return _train_phase(
    config,
    mesh,
    model,
    loss_fn,
    _packed_pairs(_Shapes(mesh), config),
    predicted=config.batch_size * config.row_length if has_head else 0,
    calls=None,
  )


def _ppo(config: Config, mesh: Mesh, vocabulary: Any) -> list[Phase]:
  ppo.check(config)
  shapes = _Shapes(mesh)
  nets = policy_networks.make_networks(
    config, vocabulary, value_net=config.value_net
  )
  updates = config.num_epochs * config.num_minibatches
  tx, _ = common.make_optimizer(
    config.optimizer,
    num_steps=config.num_iterations * updates,
    halve_every=config.halve_every * updates // config.batch_size,
  )

  def params(key):
    both = {'policy': nets.policy.init(key)}
    if nets.values == 'separate':
      both['value'] = nets.value.init(key)
    return both

  state = shapes.state(params, tx)
  return _policy_phases(
    config,
    shapes,
    state,
    _frozen(config, nets, shapes),
    jitted=policy_training.make_jitted(config, nets, tx, shardings_of(state)),
    flops=formula.ppo(config, nets),
  )


def _policy_phases(
  config: Config,
  shapes: _Shapes,
  state: TrainState,
  frozen: dict[str, Any],
  *,
  jitted: dict[str, Callable[..., Any]],
  flops: dict[str, float],
) -> list[Phase]:
  """As policy_training.Loop calls them."""
  rows = config.batch_size // config.samples_per_prompt
  ids = shapes.rows(rows)
  prompts = types.Prompts(shapes.rows(rows, config.max_prompt), ids, ids)
  number = jax.ShapeDtypeStruct((), np.float32)
  controls = dict.fromkeys(('kl_coef', 'score_mean', 'score_std'), number)
  updates = config.num_epochs * config.num_minibatches
  text = None
  if config.ptx_coef:
    text = _token_batch(
      shapes, config.ptx_rows * updates, config.ptx_row_length
    )
  judges = {'reference': frozen['reference'], 'pm': frozen['pm_score']}
  others = {k: v for k, v in state.params.items() if k != 'policy'}
  held_out = [v for k, v in frozen.items() if k == 'heldout_pm_score']
  policy = state.params['policy']
  arguments = {
    'reshard': lambda _: (policy,),
    'sample': lambda seen: (
      seen.get('reshard', policy),
      *(prompts, shapes.key()),
    ),
    'score': lambda seen: (state.params, judges, controls, seen['sample']),
    'update': lambda seen: (state, seen['score'][0], text),
    'learn': lambda seen: (state, judges, controls, seen['sample']),
  }
  resident = {
    'reshard': (others, state.opt_state, frozen),
    'sample': (
      state.params if 'reshard' in jitted else others,
      *(state.opt_state, frozen),
    ),
    'score': (state.opt_state, held_out),
    'update': frozen,
    'learn': held_out,
  }
  return [
    Phase(
      name,
      jitted[name],
      arguments[name],
      resident[name],
      flops[name],
      config.num_iterations,
      **(_decode_trips(config, shapes.mesh) if name == 'sample' else {}),
    )
    for name in jitted
  ]


def _frozen(config: Config, nets: Any, shapes: _Shapes) -> dict[str, Any]:
  """As policy_networks.load_frozen lays them out."""
  pm_params, reference = (
    shapes.tree(jax.eval_shape(net.init, jax.random.key(0)))
    for net in (nets.pm, nets.policy)
  )
  members = 1 + len(config.ensemble.others)
  frozen = {
    'reference': reference,
    'pm_score': (pm_params,) * members if members > 1 else pm_params,
  }
  if config.heldout_pm:
    frozen['heldout_pm_score'] = pm_params
  return frozen


def _decode_trips(config: Config, mesh: Mesh) -> dict[str, float]:
  """Steps of all decode loops, and refills a step, where replies are full."""
  replies, ways = config.batch_size, sharding.ways(mesh)
  slots = min(config.slots or replies, replies)
  steps = -(-replies // slots) * config.max_reply
  at_once = sampling.at_once(-(-slots // ways), config.samples_per_prompt)
  refills = replies / ways / at_once
  return {'open_trips': steps, 'inner_trips': refills / steps}


# Recipe -> (a field that only its config has, its phases).
_RECIPES = {
  'ppo': ('clip_eps', _ppo),
  'pm': ('objective', _pm),  # and pmp
  'pretrain': ('num_steps', _pretrain),
}


def recipe_of(config: Config) -> str:
  """Which recipe a config is for; InputError where it is none of _RECIPES."""
  if 'model' in config and 'teacher' not in config:
    for recipe, (field, _) in _RECIPES.items():
      if field in config:
        return recipe
  raise InputError(
    'the config is of none of the recipes that can be planned: '
    f'{", ".join(_RECIPES)}'
  )


def make(
  config: Config, mesh: Mesh, *, vocab_size: int, steps: int | None = None
) -> list[Phase]:
  """The phases of the recipe that the config is for, checked as it checks.

  `steps`: calls of a phase, where the data decide and not the config.
  """
  _, of = _RECIPES[recipe_of(config)]
  return [
    dataclasses.replace(x, calls=steps if x.calls is None else x.calls)
    for x in of(config, mesh, Vocabulary(vocab_size))
  ]


def num_params(config: Config, vocab_size: int) -> int:
  """Of one network of config.model."""
  model = common.make_model(config.model, Vocabulary(vocab_size))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(shapes))


def results(lowered: Any, compiled: Any) -> Any:
  """Shapes of what a phase returns, where its program puts them."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    lowered.out_info,
    compiled.output_shardings,
  )


def in_rows(tree: Any, arguments: Any) -> Any:
  """Results of a phase that does not compile: split by rows, unless it says."""
  (some, *_) = (
    x.sharding for x in jax.tree.leaves(arguments) if x.sharding is not None
  )

  def of(x: Any) -> jax.ShapeDtypeStruct:
    spec = sharding.fit(some.mesh, x.shape, sharding.ROWS)
    place = x.sharding or NamedSharding(some.mesh, spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

  return jax.tree.map(of, tree)

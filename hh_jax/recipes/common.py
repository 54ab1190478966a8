"""What several recipes do first: tokenizer, data, model, parameters."""

from collections.abc import Sequence
import math
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import optax

from hh_jax import attention, distributed, sampling, sharding, sizes, train
from hh_jax import model as model_lib
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.checkpoints import native
from hh_jax.data import sources
from hh_jax.errors import InputError
from hh_jax.model import Transformer
from hh_jax.types import Params

# Fixed ids of the random streams of a run (folded into its root key).
INIT, SAMPLE, EVAL = 1, 2, 3
# Link to another run -> recipes it may be of. All networks have one shape of
# tree, so a run of the wrong kind would load, and mean nothing.
KINDS = {'init_from': ('pretrain', 'distill', 'sft'), 'teacher': ('pretrain',),
         'pm': ('pm',), 'heldout_pm': ('pm',),
         'ensemble.others': ('pm',)}  # fmt: skip


# What may be otherwise when a run goes on: its steps are the same to rounding.
MAY_CHANGE = ('num_micro_batches',)
# Size of a batch -> by what it is split, before the devices split it.
BATCHES = {
  'batch_size': ('num_minibatches', 'num_micro_batches'),
  'eval_batch_size': (),
  'teacher_batch_size': (),
  'exact_rows': (),
}


def check_seed(seed: int) -> None:
  """Raises InputError unless it is a seed that JAX and NumPy both take."""
  if not 0 <= seed < 2**32:
    raise InputError(f'config.seed {seed} is not in 0 .. 2**32 - 1')


def stream(seed: int, name: int) -> jax.Array:
  """The key of one random stream of the run with that seed."""
  check_seed(seed)
  return jax.random.fold_in(jax.random.key(seed), name)


def load_tokenizer(run: str) -> tokenizer_lib.Tokenizer:
  """The tokenizer of a finished `tokenizer` run."""
  if not run:
    raise InputError('config.tokenizer is empty: name a tokenizer run')
  path = pathlib.Path(run) / 'tokenizer.model'
  return tokenizer_lib.Tokenizer.load(path)


def load_source(data: ml_collections.ConfigDict) -> sources.Source:
  """The data source that `config.data` names."""
  return sources.build(data.name, data.options.to_dict())


def make_model(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  name: str = 'model',
) -> Transformer:
  """The transformer of the section `name` of a run's config, which is `config`;
  its vocabulary is the tokenizer's.

  On CPUs of several processes its layers are unrolled, whatever scan_unroll
  says: see distributed.needs_unrolled.
  """
  fields = config.to_dict()
  size = fields.pop('size')
  if distributed.needs_unrolled() and size in sizes.SIZES:
    num_layers = sizes.SIZES[size][0]
    if fields['scan_unroll'] < num_layers:
      distributed.say(
        f'config.{name}.scan_unroll is {num_layers} here, on the CPUs of '
        'several processes'
      )
    fields['scan_unroll'] = max(fields['scan_unroll'], num_layers)
  try:
    shape = model_lib.sized(size, vocab_size=tokenizer.vocab_size, **fields)
    attention.check(
      shape.attention,
      jax.default_backend(),
      dtype=shape.dtype,
      head_dim=shape.head_dim,
    )
  except ValueError as e:
    raise InputError(f'config.{name}: {e}') from e
  return Transformer(shape)


def make_mesh(config: ml_collections.ConfigDict) -> Mesh:
  """The mesh of `config.mesh`."""
  try:
    return sharding.make_mesh(**config)
  except ValueError as e:
    raise InputError(f'config.mesh: {e}') from e


def make_optimizer(
  config: ml_collections.ConfigDict, *, num_steps: int, halve_every: int = 0
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """AdamW of `config.optimizer` for a run of num_steps, and its schedule.

  `halve_every` is in optimizer steps, for the schedule 'halving'.
  """
  for name in ('lr', 'warmup_steps', 'weight_decay', 'eps'):
    check_range(config, name, 0, section='optimizer')
  # 0 would train nothing
  check_range(config, 'clip_norm', 1e-9, section='optimizer')
  for name in ('b1', 'b2'):
    check_range(config, name, 0, 0.999999, section='optimizer')
  schedule = train.make_schedule(
    config.schedule,
    lr=config.lr,
    num_steps=num_steps,
    warmup_steps=config.warmup_steps,
    halve_every=halve_every,
  )
  tx = train.make_optimizer(
    schedule,
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    moments_dtype=config.moments_dtype,
  )
  return tx, schedule


def split_step(link: str) -> tuple[str, int | str | None]:
  """(RUN, STEP) of 'RUN@STEP', or (RUN, None) of a run alone.

  The checkpoint that RUN/checkpoints/STEP holds, in optimizer steps; 'best' is
  that of RUN/best. A directory whose own name has an @ is a run. InputError
  where STEP is none.
  """
  run, at, step = link.rpartition('@')
  if not at or '/' in step or pathlib.Path(link).is_dir():
    return link, None
  if step == native.BEST:
    return run, step
  if not (step.isascii() and step.isdigit()):
    raise InputError(
      f'{link}: {step!r} is no step: want RUN, RUN@STEP or RUN@{native.BEST}'
    )
  return run, int(step)


def read_link(
  config: Any, link: str, *, kinds: Sequence[str] = ()
) -> dict[str, Any]:
  """The config.json of the run that config[link] names.

  `kinds` are the recipes it may be of, where they are not those of KINDS.
  Raises InputError for a run that is not finished (unless a step of it is
  named: RUN@STEP), of another recipe, or a language model by its objective.
  """
  if not config[link]:
    raise InputError(f'config.{link} is empty: name a finished run')
  run, step = split_step(config[link])
  if step is None and not workdir_lib.is_finished(run):
    raise InputError(
      f'config.{link} {run} is no finished run: it has no summary.json'
    )
  there, kinds = workdir_lib.read_config(run), kinds or KINDS[link]
  if there['recipe'] not in kinds:
    raise InputError(
      f'config.{link} {run} is a {there["recipe"]} run, not a '
      f'{" or ".join(kinds)} run'
    )
  if step == native.BEST:
    _check_keeps_best(f'config.{link} {config[link]}', there)
  needs_score = link in KINDS  # other links read activations
  if needs_score and there['config'].get('objective') == 'imitation':
    raise InputError(
      f'config.{link} {run} is a language model: it has no score'
    )
  return there


def _check_keeps_best(named: str, there: dict[str, Any]) -> None:
  """Raises InputError where the run of RUN@best was not one that keeps it."""
  if there['recipe'] != 'ppo':
    raise InputError(
      f'{named}: a {there["recipe"]} run keeps no best checkpoint, ppo runs do'
    )
  if not there['config']['heldout_pm']:
    raise InputError(
      f'{named}: the run kept no best checkpoint, because it had no held-out '
      'preference model (config.heldout_pm)'
    )


def load_params(
  config: ml_collections.ConfigDict,
  link: str,
  model: Transformer,
  mesh: Mesh,
  *,
  fingerprint: str,
  kinds: Sequence[str] = (),
) -> Params:
  """The parameters of the run, or RUN@STEP, that config[link] names.

  `kinds` are the recipes it may be of, where they are not those of KINDS. Of a
  `ppo` run they are the policy's.
  """
  there = read_link(config, link, kinds=kinds)
  run, step = split_step(config[link])
  return native.load_params(
    run,
    model,
    mesh,
    tokenizer_fingerprint=fingerprint,
    step=step,
    part='policy' if there['recipe'] == 'ppo' else None,
  )


def _check_field(config: Any, name: str) -> None:
  if name not in config:
    raise InputError(f'the config has no {name}: it is none for this recipe')


def check_range(
  config: Any,
  name: str,
  low: float,
  high: float = float('inf'),
  *,
  section: str = '',
) -> None:
  """Raises InputError unless low <= config[name] <= high.

  `section` is where in the run's config this one stands, '' for the run's own.
  """
  _check_field(config, name)
  if not low <= config[name] <= high:
    key = f'config.{section}.{name}' if section else f'config.{name}'
    raise InputError(f'{key} {config[name]} is not between {low} and {high}')


def check_positive(config: Any, *names: str) -> None:
  """Raises InputError unless these fields are 1 or more."""
  for name in names:
    _check_field(config, name)
    if config[name] < 1:
      raise InputError(f'config.{name} {config[name]} is not 1 or more')


def check_temperature(config: Any) -> None:
  """Raises InputError for one that sampling.SamplingDistribution refuses."""
  check_range(config, 'temperature', sampling.MIN_TEMPERATURE)


def check_checkpoints(config: Any) -> None:
  """Raises InputError for checkpoints that could not be kept as asked."""
  _check_field(config, 'checkpoints')
  check_positive(config, 'save_every')
  keep, every = config.checkpoints.keep, config.checkpoints.every
  if keep < 1:
    raise InputError(f'config.checkpoints.keep {keep} is not 1 or more')
  if every < 0 or every % config.save_every:
    raise InputError(
      f'config.checkpoints.every {every} is no multiple of save_every '
      f'{config.save_every}'
    )


def check_batches(config: Any, mesh: Mesh) -> None:
  """Raises InputError when a batch of the config does not fit the mesh."""
  check_positive(config, 'batch_size')
  for name, parts in BATCHES.items():
    if name in config:
      check_batch(config, mesh, name, *(x for x in parts if x in config))


def check_batch(config: Any, mesh: Mesh, name: str, *parts: str) -> None:
  """The same of one; `parts` are the fields by which it is split before."""
  check_positive(config, name, *parts)
  split = {part: config[part] for part in parts if config[part] > 1}
  if config[name] % (math.prod(split.values()) * sharding.ways(mesh)):
    by = [*map('{}={}'.format, split, split.values()), sharding.sizes(mesh)]
    raise InputError(
      f'config.{name} {config[name]} is not divisible by {" x ".join(by)}'
    )

"""The stages that learn from fixed rows: pretraining, preference models."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import optax

from hh_jax import distributed, sharding, train
from hh_jax import metrics as metrics_lib
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.checkpoints import native
from hh_jax.data import loader
from hh_jax.model import Transformer
from hh_jax.recipes import common
from hh_jax.types import LossFn, Params, TrainState


def initial_state(
  config: ml_collections.ConfigDict,
  model: Transformer,
  mesh: Mesh,
  tx: Any,
  *,
  fingerprint: str,
  kinds: Sequence[str],
) -> tuple[TrainState, Any]:
  """A fresh state, or one that starts from the run `config.init_from`."""
  key = common.stream(config.seed, common.INIT)
  if not config.init_from:
    return train.init_state(model.init, tx, key, mesh)
  params = common.load_params(
    config, 'init_from', model, mesh, fingerprint=fingerprint, kinds=kinds
  )
  return train.state_from(params, tx, key, mesh)


def make_evaluate(
  loss_fn: LossFn, name: str, rows: Any, mesh: Mesh, *, batch_size: int
) -> Callable[[Params], dict[str, float]]:
  """params -> {name: the mean a target token over all rows}.

  The loss's metrics have the sum, as NAME_sum, and the number of `tokens`.
  """
  step = jax.jit(lambda params, batch: loss_fn(params, batch, batch)[1])

  def evaluate(params: Params) -> dict[str, float]:
    sums = [
      sharding.fetch(step(params, sharding.place(mesh, batch)))
      for batch in loader.eval_batches(rows, batch_size=batch_size)
    ]
    tokens = sum(float(s['tokens']) for s in sums)
    return {name: sum(float(s[f'{name}_sum']) for s in sums) / tokens}

  return evaluate


def first_and_last(workdir: str, *names: str) -> dict[str, float]:
  """Of every named metric its first and last value: NAME_before and NAME."""
  distributed.wait_for_writer()
  lines = metrics_lib.read_metrics(pathlib.Path(workdir) / metrics_lib.METRICS)
  out = {}
  for name in names:
    values = [line[name] for line in lines if name in line]
    out[f'{name}_before'], out[name] = values[0], values[-1]
  return out


@dataclasses.dataclass(frozen=True)
class _Journal:
  """What `train.fit` calls to write things down."""

  writer: metrics_lib.MetricsWriter
  bar: metrics_lib.Progress
  checkpoints: native.Checkpoints
  batches: loader.Batches
  totals: dict[str, int]  # metrics that are logged as running sums
  schedule: optax.Schedule
  evaluation: Callable[[Params], dict[str, float]]

  def log(self, step: int, metrics: dict[str, float]) -> None:
    for name in self.totals:
      self.totals[name] += int(metrics[name])
    values = metrics | self.totals | {'lr': float(self.schedule(step - 1))}
    self.writer.write(step, {f'train/{k}': v for k, v in values.items()})
    shown = {'loss', 'accuracy'} & metrics.keys()
    self.bar.update(step, {name: metrics[name] for name in sorted(shown)})

  def save(self, state: TrainState) -> None:
    host = {'batches': self.batches.get_state(), 'totals': self.totals}
    self.checkpoints.save(state, host)

  def evaluate(self, step: int, params: Params) -> None:
    values = self.evaluation(params)
    self.writer.write(step, {f'eval/{k}': v for k, v in values.items()})


def train_on_rows(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  name: str,
  model: Transformer,
  tokenizer: tokenizer_lib.Tokenizer,
  mesh: Mesh,
  loss_fn: LossFn,
  rows: Any,
  num_epochs: int | None,
  num_steps: int,
  counted: tuple[str, ...],
  evaluate: Callable[[Params], dict[str, float]],
  init_kinds: Sequence[str] = ('pretrain',),
  notes: Sequence[str] = (),
) -> Params:
  """Trains on packed rows for num_steps and returns the parameters.

  Starts from the newest checkpoint in workdir where there is one. `counted`
  names the loss's metrics that are logged as running sums; `evaluate` runs
  every config.eval_every steps and at the end; `init_kinds` are the recipes
  whose runs config.init_from may name; `notes` are said on stderr once nothing
  more can be refused.
  """
  tx, schedule = common.make_optimizer(config.optimizer, num_steps=num_steps)
  fingerprint = tokenizer.fingerprint
  state, shardings = initial_state(
    config, model, mesh, tx, fingerprint=fingerprint, kinds=init_kinds
  )
  batches = loader.train_batches(
    rows, batch_size=config.batch_size, seed=config.seed, num_epochs=num_epochs
  )
  native.write_card(workdir, model, fingerprint)
  checkpoints = native.Checkpoints(workdir, **config.checkpoints)
  totals = dict.fromkeys(counted, 0)
  if (restored := checkpoints.restore(state)) is not None:
    state, host = restored
    batches.set_state(host['batches'])
    totals |= host['totals']
  writer = metrics_lib.MetricsWriter(
    workdir, resume_step=int(state.step), **config.track
  )
  for note in notes:
    distributed.say(note)
  bar = metrics_lib.progress(num_steps, name)
  with contextlib.closing(checkpoints), writer, bar:
    state = train.fit(
      state,
      train.make_train_step(
        loss_fn, tx, shardings, num_micro_batches=config.num_micro_batches
      ),
      (sharding.place(mesh, batch) for batch in batches),
      _Journal(writer, bar, checkpoints, batches, totals, schedule, evaluate),
      num_steps=num_steps,
      save_every=config.save_every,
      eval_every=config.eval_every,
    )
  return state.params

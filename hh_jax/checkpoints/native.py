"""Native checkpoints: orbax under DIR/checkpoints, and a card of the model.

A checkpoint holds three items: `params` (what other runs start from), `train`
(optimizer, step, key) and `host` (JSON: data iterator state, running totals),
and checksums of their files. It appears whole, by renaming, or not at all.
"""

from collections.abc import Sequence
import functools
import pathlib
import sys
from typing import Any

import jax
from jax.sharding import Mesh
import orbax.checkpoint as ocp
from orbax.checkpoint import multihost

from hh_jax import distributed, sharding
from hh_jax import workdir as workdir_lib
from hh_jax.checkpoints import integrity
from hh_jax.errors import InputError
from hh_jax.model import Transformer
from hh_jax.types import Params, TrainState

# Folders of a run: every checkpoint that is kept, the best by some score, and
# those whose files are not what was written.
STEPS, BEST, DAMAGED = 'checkpoints', 'best', 'damaged'
_UNFINISHED = '*.orbax-checkpoint-tmp'
_WRITTEN = 'async_write_complete'  # orbax's name of a barrier


def _abstract(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of device arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def _train_item(state: TrainState) -> dict[str, Any]:
  return {'step': state.step, 'opt_state': state.opt_state, 'key': state.key}


def _damage(step: pathlib.Path, items: Sequence[str] = ()) -> str | None:
  """integrity.damage; each process reads its share, and all hear of it."""
  found = integrity.damage(step, items, share=distributed.share())
  return distributed.first_said(found or '') or None


class Checkpoints:
  """The checkpoints of one run directory.

  The newest `keep` stay, and those at multiples of `every` steps (0: no more).
  Saving goes on in the background; a full disk is an InputError at the next
  call, and leaves older checkpoints as they are.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    *,
    keep: int = 1,
    every: int = 0,
    folder: str = STEPS,
  ):
    self._path = pathlib.Path(workdir).absolute() / folder
    policies = [ocp.checkpoint_managers.LatestN(keep)]
    if every:
      policies.append(ocp.checkpoint_managers.EveryNSteps(every))
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
        policies
      ),
      cleanup_tmp_directories=True,  # of saves that were killed
      async_options=ocp.AsyncOptions(
        post_finalization_callback=self._seal, barrier_sync_fn=self._meet
      ),
    )
    with integrity.full_disk_named(self._path):
      self._manager = ocp.CheckpointManager(self._path, options=options)

  def _seal(self) -> None:
    """Called in the background when all items are written, before renaming."""
    for step in self._path.glob(_UNFINISHED):
      integrity.seal(step)

  def _meet(self, *, key: str, timeout_ms: int) -> None:
    """Where several processes wait for each other while they save.

    Before they do so for the first time, all of this one's files are there. In
    a thread of its own: what the main thread is at does not count here.
    """
    if _WRITTEN in key:
      for step in self._path.glob(_UNFINISHED):
        integrity.seal_share(step, multihost.process_index())
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

  def save(self, state: TrainState, host: dict[str, Any]) -> None:
    """Saves under the step of the state; a step saved already is left."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    with integrity.full_disk_named(self._path):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(state.params),
          train=ocp.args.StandardSave(_train_item(state)),
          host=ocp.args.JsonSave(host),
        ),
      )

  @functools.cached_property
  def resumable_step(self) -> int | None:
    """The newest step at the start whose files are whole; None without steps.

    Newer ones that are damaged are moved to DAMAGED, and said so on stderr.
    InputError where all are: a run does not start anew by itself.
    """
    reasons: dict[int, str] = {}
    for step in (steps := sorted(self._manager.all_steps(), reverse=True)):
      if (reason := _damage(self._path / str(step))) is None:
        break
      reasons[step] = reason
    if steps and len(reasons) == len(steps):
      raise InputError(
        f'{self._path}: all checkpoints are damaged (step {steps[0]}: '
        f'{reasons[steps[0]]}); delete the run to start it anew'
      )
    distributed.by_writer(lambda: self._set_aside(reasons))
    self._manager.reload()
    return self._manager.latest_step()

  def _set_aside(self, reasons: dict[int, str]) -> None:
    """Steps that are damaged, and why."""
    aside = self._path.parent / DAMAGED
    for step, reason in reasons.items():
      aside.mkdir(exist_ok=True)
      (self._path / str(step)).rename(aside / str(step))
      print(
        f'hh_jax: the checkpoint at step {step} is damaged ({reason}), moved '
        f'to {aside / str(step)}',
        file=sys.stderr,
      )

  def restore(
    self, like: TrainState
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """The state at resumable_step, laid out like `like`, and its host item."""
    if self.resumable_step is None:
      return None
    item = self._manager.restore(
      self.resumable_step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(_abstract(like.params)),
        train=ocp.args.StandardRestore(_abstract(_train_item(like))),
        host=ocp.args.JsonRestore(),
      ),
    )
    return TrainState(params=item.params, **item.train), item.host

  def wait(self) -> None:
    """Until a save that is under way is whole."""
    with integrity.full_disk_named(self._path):
      self._manager.wait_until_finished()

  def close(self) -> None:
    try:
      self.wait()
    finally:
      self._manager.close()


def save_best(workdir: str | pathlib.Path, state: TrainState) -> None:
  """Makes this state the one that `RUN@best` names."""
  checkpoints = Checkpoints(workdir, folder=BEST)
  checkpoints.save(state, {})
  checkpoints.close()


def write_card(
  workdir: str | pathlib.Path, model: Transformer, tokenizer_fingerprint: str
) -> None:
  """Writes what a checkpoint of this run fits: model shape and tokenizer."""
  card = {'model': model.config.shape, 'tokenizer': tokenizer_fingerprint}
  workdir_lib.write_json(pathlib.Path(workdir) / workdir_lib.CARD, card)


def check_card(
  run: str | pathlib.Path, model: Transformer, tokenizer_fingerprint: str
) -> None:
  """Raises InputError unless the run's checkpoints fit model and tokenizer."""
  path = pathlib.Path(run) / workdir_lib.CARD
  if not path.is_file():
    raise InputError(f'{run} is not a run with a model ({path} is missing)')
  card = workdir_lib.read_json(path)
  if not isinstance(card.get('model'), dict) or 'tokenizer' not in card:
    raise InputError(f'{path} does not say which model it is of')
  for name, value in model.config.shape.items():
    if card['model'].get(name) != value:
      raise InputError(
        f'{run} holds a model with {name} {card["model"].get(name)!r}, '
        f'this run asks for {value!r}'
      )
  if card['tokenizer'] != tokenizer_fingerprint:
    raise InputError(f'{run} was trained with another tokenizer')


def load_params(
  run: str | pathlib.Path,
  model: Transformer,
  mesh: Mesh,
  *,
  tokenizer_fingerprint: str,
  step: int | str | None = None,
  part: str | None = None,
) -> Params:
  """The parameters of a run at a step (None: the newest), over the mesh.

  Step BEST is what save_best kept. `part` names a network of a tree that holds
  several, such as 'policy'.

  Raises:
    InputError: no checkpoint at that step, or one of another size or tokenizer.
  """
  check_card(run, model, tokenizer_fingerprint)
  path = _stored(run, step)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  like = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    sharding.tree_shardings(mesh, shapes),
  )
  restore = ocp.args.StandardRestore(like)
  if part is not None:
    like = {part: like}
    restore = ocp.args.PyTreeRestore(
      like,
      restore_args=ocp.checkpoint_utils.construct_restore_args(like),
      partial_restore=True,
    )
  with ocp.CheckpointManager(path.parent) as manager:
    item = manager.restore(
      int(path.name), args=ocp.args.Composite(params=restore)
    )
  return item.params if part is None else item.params[part]


def _stored(run: str | pathlib.Path, step: int | str | None) -> pathlib.Path:
  """The folder of that checkpoint, whose parameters are whole."""
  path = pathlib.Path(run).absolute() / (BEST if step == BEST else STEPS)
  step = None if step == BEST else step
  names = [p.name for p in path.iterdir()] if path.is_dir() else []
  steps = sorted(int(name) for name in names if name.isdigit())
  if not steps:
    kind = f'{BEST} checkpoint' if path.name == BEST else 'checkpoint yet'
    raise InputError(f'{run} has no {kind}')
  if step is not None and step not in steps:
    there = ', '.join(map(str, steps))
    raise InputError(
      f'{run} has no checkpoint at step {step}: there is {there}'
    )
  step = steps[-1] if step is None else step
  if reason := _damage(path / str(step), ('params',)):
    raise InputError(
      f'{run}: the checkpoint at step {step} is damaged: {reason}'
    )
  return path / str(step)

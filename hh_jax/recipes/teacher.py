"""A teacher's pass over rows with a context before each document, stored once.

`distill` reads it. B rows a batch, K stored tokens.
"""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np

from hh_jax import metrics as metrics_lib
from hh_jax import sharding, types
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import distillation, loader
from hh_jax.errors import InputError
from hh_jax.losses import context_distillation as loss_lib
from hh_jax.model import Transformer
from hh_jax.recipes import common
from hh_jax.types import Array, Params


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A language model, and the context that it reads first."""

  model: Transformer
  params: Params
  context: Array  # int32 [C], opens with bos
  mesh: Mesh

  def hidden(self, rows: types.TokenBatch) -> Array:
    """What predicts tokens 1 .. T - 1 of the rows, float32 [B, T - 1, D]."""

    hidden = functools.partial(loss_lib.teacher_hidden, self.model)
    rows = sharding.place(self.mesh, rows)
    return jax.jit(hidden)(self.params, self.context, rows)


def load(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  mesh: Mesh,
) -> tuple[Teacher, dict[str, Any]]:
  """The teacher that config names, and a card of what its pass depends on."""
  context = distillation.read_context(config.context, config.context_file)
  model = common.make_model(
    config.teacher_model, tokenizer, name='teacher_model'
  )
  params = common.load_params(
    config, 'teacher', model, mesh, fingerprint=tokenizer.fingerprint
  )
  ids = jnp.array([tokenizer.bos_id, *tokenizer.encode(context)], jnp.int32)
  card = {
    'context': hashlib.sha256(context.encode()).hexdigest(),
    'context_tokens': len(ids) - 1,
    'tokenizer': tokenizer.fingerprint,
    'teacher': {
      'shape': model.config.shape,
      'dtype': model.config.dtype,
      'params': _digest(params),
    },
  }
  return Teacher(model, params, ids, mesh), card


def _digest(params: Params) -> str:
  """Tells two runs, or two steps of one, from each other."""
  some = sharding.fetch((params['final_norm'], params['embedding'][:64]))
  digest = hashlib.sha256()
  for x in some:
    digest.update(np.ascontiguousarray(x).tobytes())
  return digest.hexdigest()


def store_of(
  config: ml_collections.ConfigDict,
  workdir: str,
  split: str,
  rows: types.TokenBatch,
  teacher: Teacher,
  card: dict[str, Any],
) -> distillation.Store:
  """Where the pass over a split is: in the run config.stored, or this one.

  InputError for a run of that name without a finished pass like ours.
  """
  path = pathlib.Path(config.stored or workdir) / 'teacher' / split
  if config.stored and not (path / distillation.CARD).is_file():
    raise InputError(
      f'config.stored {config.stored} has no pass of a teacher: {path} is '
      'missing'
    )
  fields = distillation.Fields(
    config.row_length,
    config.top_k,
    teacher.model.config.vocab_size,
    config.stored_dtype,
  )
  store = distillation.Store(path, rows, fields, card)
  if config.stored:
    store.open()
    store.read()  # refuses one that `run` would go on with
  return store


def run(
  teacher: Teacher,
  store: distillation.Store,
  *,
  top_k: int,
  chunk: int,
  batch_size: int,
  name: str,
) -> types.DistillBatch:
  """Stores the teacher's pass over its rows; goes on where one stopped."""

  def top(params: Params, context: Array, batch: types.TokenBatch):
    hidden = loss_lib.teacher_hidden(teacher.model, params, context, batch)
    found = loss_lib.top_logprobs(
      teacher.model, params, hidden, top_k=top_k, chunk=chunk
    )
    # aligned with its token; nothing predicts a row's first
    return jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (1, 0), (0, 0)]), found)

  compiled = jax.jit(top)
  rows, start = store.rows, store.open()
  num = loader.num_rows(rows)
  with metrics_lib.progress(num, name) as bar:
    for first in range(start, num, batch_size):
      some = loader.take(rows, slice(first, first + batch_size))
      batch = sharding.place(teacher.mesh, loader.pad_rows(some, batch_size))
      out = compiled(teacher.params, teacher.context, batch)
      real = loader.num_rows(some)
      tokens, logprobs = (np.asarray(x)[:real] for x in sharding.fetch(out))
      store.write(
        first,
        {'tokens': some.tokens, 'top_tokens': tokens, 'logprobs': logprobs},
      )
      bar.update(first + real, {})
  return store.read()


def remainder(batch: types.DistillBatch) -> float:
  """Mean probability that the teacher gives to tokens that are not stored."""
  rest = np.exp(batch.logprobs[..., -1].astype(np.float64))
  mask = np.asarray(batch.rows.loss_mask)
  return float((rest * mask).sum() / mask.sum())

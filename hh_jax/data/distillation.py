"""Texts to distil a context on, and the teacher's pass over them on disk.

Axis letters: N rows, T columns, K stored tokens.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib

import numpy as np

from hh_jax import dialogue, distributed, types, workdir
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data import hhh_prompt, packing
from hh_jax.errors import InputError

DTYPES = ('float16', 'float32')
CARD, DONE = 'card.json', 'done.json'


def read_context(name: str, file: str) -> str:
  """The text of a named context (hhh_prompt.CONTEXTS), or of a file.

  White space at its end is cut off: a document opens with its own. InputError
  unless exactly one of the two is given, and for a file without text.
  """
  if bool(name) == bool(file):
    raise InputError(
      f'want one of config.context {name!r} and config.context_file {file!r}'
    )
  if name:
    if name not in hhh_prompt.CONTEXTS:
      raise InputError(
        f'config.context {name!r} is none of {tuple(hhh_prompt.CONTEXTS)}'
      )
    return hhh_prompt.CONTEXTS[name]
  try:
    text = pathlib.Path(file).read_text(encoding='utf-8').rstrip()
  except OSError as error:
    raise InputError(f'config.context_file {file}: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise InputError(f'config.context_file {file} is not UTF-8') from error
  if not text:
    raise InputError(f'config.context_file {file} is empty')
  return text


def opened(text: str) -> str:
  """`text` as the human's words, '\\n\\nHuman: ...'; a transcript stays itself.

  Bai et al. 2022, A.1, put pretraining text after an opening 'Human:'.
  """
  if text.startswith(dialogue.HUMAN):
    return text
  return f'{dialogue.HUMAN} {text.strip()}'


def mix(
  texts: Sequence[str],
  answers: Sequence[str],
  *,
  answers_share: float,
  total: int,
  seed: int,
) -> list[str]:
  """`total` texts in random order, answers_share of them answers.

  total = 0 takes as many as there are at that share. Each text is there once.
  InputError where there are too few of either.
  """
  if not 0 <= answers_share <= 1:
    raise InputError(f'config.answers_share {answers_share} is not in [0, 1]')
  kinds = ((answers, answers_share), (texts, 1 - answers_share))
  if not total:
    total = min(int(len(there) / share) for there, share in kinds if share)
  num_answers = round(total * answers_share)
  rng = np.random.default_rng(seed)
  drawn = []
  for there, wanted, name in (
    (answers, num_answers, 'answers'),
    (texts, total - num_answers, 'texts'),
  ):
    if len(there) < wanted:
      raise InputError(
        f'the mixture needs {wanted} {name}, there are {len(there)}'
      )
    drawn += [there[i] for i in rng.permutation(len(there))[:wanted]]
  if not drawn:
    raise InputError('there is no text to distil on')
  return [drawn[i] for i in rng.permutation(len(drawn))]


def pack(
  texts: Sequence[str], tokenizer: tokenizer_lib.Tokenizer, *, row_length: int
) -> tuple[types.TokenBatch, int]:
  """Rows [N, T] of texts between bos and eos, and how many were cut.

  A text that is too long keeps its start: only there the context was right
  before it. Every token but bos is a target.
  """
  ids = tokenizer.encode_batch(list(texts))
  closed = [[tokenizer.bos_id, *doc, tokenizer.eos_id] for doc in ids]
  num_cut = sum(len(doc) > row_length for doc in closed)
  closed = [doc[:row_length] for doc in closed]
  return packing.pack_documents(closed, row_length=row_length), num_cut


@dataclasses.dataclass(frozen=True)
class Fields:
  """Shape and dtype of what is stored of one row."""

  row_length: int
  top_k: int
  vocab_size: int
  dtype: str  # of log-probabilities

  def of(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    small = self.vocab_size <= 2**16
    return {
      'tokens': ((self.row_length,), np.dtype(np.int32)),
      'top_tokens': (
        (self.row_length, self.top_k),
        np.dtype(np.uint16 if small else np.int32),
      ),
      'logprobs': (
        (self.row_length, self.top_k + 1),
        np.dtype(self.dtype),
      ),
    }


class Store:
  """A teacher's pass over rows, in one raw file a field under a folder.

  Rows are written in blocks, in order; done.json counts those that are whole
  on disk, so that a pass which was killed goes on after them. card.json says
  what the pass is of: another one under the same path is refused.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    rows: types.TokenBatch,
    fields: Fields,
    card: dict[str, object],
  ):
    self._path, self.rows = pathlib.Path(path), rows
    self._num = rows.tokens.shape[0]
    self._fields = fields.of()
    self._card = {
      'rows': self._num,
      'fields': dataclasses.asdict(fields),
      **card,
    }

  def open(self) -> int:
    """Makes the folder, or checks what it holds; the number of whole rows."""
    file = self._path / CARD
    distributed.by_writer(self._begin)
    there = json.loads(file.read_text())
    if there != json.loads(json.dumps(self._card)):
      names = {*there, *self._card}
      other = sorted(n for n in names if there.get(n) != self._card.get(n))
      raise InputError(
        f'{self._path} holds another pass: {", ".join(other)} differ'
      )
    return self.num_rows()

  def _begin(self) -> None:
    file = self._path / CARD
    if not file.exists():
      self._path.mkdir(parents=True, exist_ok=True)
      workdir.write_json(file, self._card)

  def num_rows(self) -> int:
    """How many rows are whole on disk."""
    file = self._path / DONE
    return json.loads(file.read_text())['rows'] if file.exists() else 0

  def write(self, start: int, block: dict[str, np.ndarray]) -> None:
    """Writes rows from `start` on; they count only once they are on disk."""
    distributed.by_writer(lambda: self._write(start, block))

  def _write(self, start: int, block: dict[str, np.ndarray]) -> None:
    (num,) = {len(values) for values in block.values()}
    for name, (shape, dtype) in self._fields.items():
      values = np.ascontiguousarray(block[name], dtype)
      if values.shape[1:] != shape:
        raise ValueError(f'{name} {values.shape} are no rows of {shape}')
      file = self._path / f'{name}.bin'
      with open(file, 'r+b' if file.exists() else 'wb') as f:
        f.seek(start * dtype.itemsize * int(np.prod(shape)))
        f.write(values.tobytes())
        f.flush()
        os.fsync(f.fileno())
    workdir.write_json(self._path / DONE, {'rows': start + num})

  def read(self) -> types.DistillBatch:
    """The pass beside its rows; arrays stay on disk until they are indexed.

    InputError for a pass that is not finished or is over other tokens.
    """
    if self.num_rows() != self._num:
      raise InputError(
        f'{self._path} holds {self.num_rows()} of {self._num} rows: the pass '
        'is not finished'
      )
    stored = {
      name: np.memmap(
        self._path / f'{name}.bin', dtype, 'r', shape=(self._num, *shape)
      )
      for name, (shape, dtype) in self._fields.items()
    }
    first, step = distributed.share()

    def check() -> None:
      ours = (x[first::step] for x in (stored['tokens'], self.rows.tokens))
      if not np.array_equal(*ours):
        raise InputError(f'{self._path} holds the pass over other texts')

    distributed.by_all(check)
    return types.DistillBatch(
      self.rows, stored['top_tokens'], stored['logprobs']
    )

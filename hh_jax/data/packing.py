"""Token ids -> fixed-size rows, packed first-fit so that little is padding.

Axis letters: T columns of a row, M pairs a row. All arrays are numpy, one
entry a row; data/loader.py batches them.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from hh_jax import tokenizer as tokenizer_lib
from hh_jax import types
from hh_jax.data.examples import Pair


@dataclasses.dataclass(frozen=True)
class PairTokens:
  """One comparison as ids; both replies end with the end-of-context token."""

  prompt: list[int]
  chosen: list[int]
  rejected: list[int]
  label: float = 1.0  # as of examples.Pair, the next two also
  margin: float = 0.0
  weight: float = 1.0
  is_cut: bool = False  # whether the prompt lost its start

  def __len__(self) -> int:
    return len(self.prompt) + len(self.chosen) + len(self.rejected)


def encode_pairs(
  pairs: Sequence[Pair],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  row_length: int,
) -> tuple[list[PairTokens | None], dict[str, int]]:
  """Token ids of every pair, None where it cannot fit a row, and counts.

  A prompt that is too long loses its oldest tokens (the paper is silent; the
  judged reply and what led to it stay). Replies are never cut: a pair whose
  replies leave no room for one prompt token is dropped and counted.
  """
  out: list[PairTokens | None] = []
  counts = {'kept': 0, 'prompt_cut': 0, 'dropped_over_long': 0}
  end = [tokenizer.eoc_id]
  for pair in pairs:
    prompt = [tokenizer.bos_id, *tokenizer.encode(pair.prompt)]
    chosen = tokenizer.encode(pair.chosen) + end
    rejected = tokenizer.encode(pair.rejected) + end
    room = row_length - len(chosen) - len(rejected)
    if room < 1:
      counts['dropped_over_long'] += 1
      out.append(None)
      continue
    counts['kept'] += 1
    is_cut = len(prompt) > room
    counts['prompt_cut'] += is_cut
    about = (pair.label, pair.margin, pair.weight, is_cut)
    out.append(PairTokens(prompt[-room:], chosen, rejected, *about))
  return out, counts


def first_fit(lengths: Sequence[int], capacity: int, *, window: int = 64):
  """Item indices a row, each row at most `capacity` long.

  First-fit in the given order over at most `window` open rows; the fullest is
  closed when there are more.
  """
  rows: list[list[int]] = []
  open_rows: list[tuple[int, int]] = []  # (row, room left)
  for item, length in enumerate(lengths):
    if length > capacity:
      raise ValueError(f'item {item} is {length} long, a row holds {capacity}')
    for slot, (row, room) in enumerate(open_rows):
      if length <= room:
        rows[row].append(item)
        open_rows[slot] = (row, room - length)
        break
    else:
      rows.append([item])
      open_rows.append((len(rows) - 1, capacity - length))
      if len(open_rows) > window:  # close the fullest
        open_rows.remove(min(open_rows, key=lambda entry: entry[1]))
  return rows


def pack_documents(
  documents: Sequence[Sequence[int]],
  *,
  row_length: int,
  first_targets: Sequence[int] | None = None,
) -> types.TokenBatch:
  """All documents in rows [num_rows, T]; longer ones are cut into pieces.

  Every token but the first of a document (or piece) is a target; with
  `first_targets` those from that index of the document on.
  """
  firsts = [1] * len(documents) if first_targets is None else first_targets
  pieces = [
    (document[i : i + row_length], max(first - i, 1))
    for document, first in zip(documents, firsts, strict=True)
    for i in range(0, len(document), row_length)
  ]
  rows = first_fit([len(piece) for piece, _ in pieces], row_length)
  tokens, positions, segments = np.zeros((3, len(rows), row_length), np.int32)
  loss_mask = np.zeros(tokens.shape, np.float32)
  for r, items in enumerate(rows):
    start = 0
    for number, item in enumerate(items, start=1):
      piece, first = pieces[item]
      stop = start + len(piece)
      tokens[r, start:stop] = piece
      positions[r, start:stop] = np.arange(stop - start)
      segments[r, start:stop] = number
      loss_mask[r, start + first : stop] = 1
      start = stop
  return types.TokenBatch(tokens, positions, segments, loss_mask)


def pack_pairs(
  pairs: Sequence[PairTokens | None], *, row_length: int, max_pairs: int
) -> types.PackedPairs:
  """All pairs that are not None in rows [num_rows, T], M = max_pairs a row."""
  ids = [i for i, pair in enumerate(pairs) if pair is not None]
  rows = first_fit([len(pairs[i]) for i in ids], row_length)
  rows = [
    row[i : i + max_pairs]
    for row in rows
    for i in range(0, len(row), max_pairs)
  ]
  grid = np.zeros((5, len(rows), row_length), np.int32)
  tokens, positions, segments, branches, parents = grid
  ends = np.zeros((2, len(rows), max_pairs), np.int32)
  pair_ids = np.full((len(rows), max_pairs), -1, np.int32)
  about = np.zeros((3, len(rows), max_pairs), np.float32)
  for r, items in enumerate(rows):
    start = 0
    for m, item in enumerate(items):
      pair = pairs[ids[item]]
      parts = (pair.prompt, pair.chosen, pair.rejected)
      prompt_end = start + len(pair.prompt) - 1
      for branch, part in enumerate(parts):
        stop = start + len(part)
        offset = len(pair.prompt) if branch else 0
        tokens[r, start:stop] = part
        positions[r, start:stop] = offset + np.arange(len(part))
        segments[r, start:stop] = m + 1
        branches[r, start:stop] = branch
        parents[r, start:stop] = np.arange(start, stop) - 1
        parents[r, start] = prompt_end if branch else start
        if branch:
          ends[branch - 1, r, m] = stop - 1
        start = stop
      pair_ids[r, m] = ids[item]
      about[:, r, m] = pair.label, pair.margin, pair.weight
  pair_mask = (pair_ids >= 0).astype(np.float32)
  return types.PackedPairs(
    tokens, positions, segments, branches, *ends, parents, pair_mask, *about,
    pair_ids,
  )  # fmt: skip


def pad_prompts(
  prompts: Sequence[Sequence[int]], *, length: int
) -> tuple[types.Prompts, int]:
  """Prompts that fit, padded left to [N, P], and how many were dropped."""
  kept = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) <= length]
  tokens = np.zeros((len(kept), length), np.int32)
  for row, i in enumerate(kept):
    tokens[row, length - len(prompts[i]) :] = prompts[i]
  lengths = np.array([len(prompts[i]) for i in kept], np.int32)
  ids = np.array(kept, np.int32)
  return types.Prompts(tokens, lengths, ids), len(prompts) - len(kept)

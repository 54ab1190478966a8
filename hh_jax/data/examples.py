"""What every data source yields: comparisons, and splits by conversation."""

from collections.abc import Iterable
import dataclasses
import hashlib
import math

from hh_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Pair:
  """One comparison: two replies to the same prompt (Bai et al. 2022, 2.2).

  `prompt + chosen` and `prompt + rejected` are the two transcripts, character
  for character: the prompt ends with '\\n\\nAssistant:' and a reply usually
  starts with a space.
  """

  prompt: str
  chosen: str
  rejected: str
  conversation: str  # pairs of one conversation never straddle a split
  source: str  # tranche, such as 'harmless-base' or 'gold-base'
  p_chosen: float | None = None  # P(rater prefers chosen); None if unknown
  label: float = 1.0  # P(chosen is better) to train on: 1, or a soft label
  margin: float = 0.0  # by which chosen should win, PM units, >= 0
  weight: float = 1.0  # in the loss, >= 0

  def __post_init__(self):
    if not (
      0 <= self.label <= 1
      and 0 <= self.margin < math.inf
      and 0 <= self.weight < math.inf
    ):
      raise InputError(
        f'a pair of {self.source} has label {self.label}, margin {self.margin},'
        f' weight {self.weight}: want 0 <= label <= 1, the others finite, >= 0'
      )


def bucket(conversation: str, num_buckets: int) -> int:
  """Stable bucket in [0, num_buckets) of a conversation id."""
  digest = hashlib.sha256(conversation.encode('utf-8')).digest()
  return int.from_bytes(digest[:8], 'little') % num_buckets


def take_part(
  pairs: Iterable[Pair], *, part: int, num_parts: int
) -> list[Pair]:
  """The pairs of the conversations that fall into part `part` of num_parts."""
  if not 0 <= part < num_parts:
    raise InputError(f'part {part} is not in [0, num_parts={num_parts})')
  return [p for p in pairs if bucket(p.conversation, num_parts) == part]


def distinct(pairs: Iterable[Pair]) -> list[Pair]:
  """The pairs whose two transcripts differ; the others can tell nothing."""
  return [pair for pair in pairs if pair.chosen != pair.rejected]


def apart(pairs: Iterable[Pair], trained: Iterable[Pair]) -> list[Pair]:
  """The pairs of conversations that no pair of `trained` is of."""
  seen = {pair.conversation for pair in trained}
  return [pair for pair in pairs if pair.conversation not in seen]


def is_harmless(pair: Pair) -> bool:
  """Whether raters went by harmlessness (red teaming), by its tranche."""
  return 'harmless' in pair.source


def mix(
  pairs: Iterable[Pair], *, total: int, helpful_share: float, seed: int
) -> list[Pair]:
  """`total` pairs of which helpful_share are helpful, the rest harmless.

  Conversations are taken in a random order that only the seed decides, so a
  smaller total is a subset of a larger one at the same share (Bai et al. 2022,
  5.1). InputError where there are too few of either.
  """
  if total < 1 or not 0 <= helpful_share <= 1:
    raise InputError(
      f'want total >= 1 and 0 <= helpful_share <= 1, not {total}, '
      f'{helpful_share}'
    )
  kinds: dict[bool, list[Pair]] = {False: [], True: []}
  for pair in pairs:
    kinds[is_harmless(pair)].append(pair)
  num_helpful = round(total * helpful_share)
  chosen = []
  for found, wanted, name in (
    (kinds[False], num_helpful, 'helpful'),
    (kinds[True], total - num_helpful, 'harmless'),
  ):
    if len(found) < wanted:
      raise InputError(
        f'the mixture needs {wanted} {name} pairs, there are {len(found)}'
      )
    order = sorted(
      found,
      key=lambda p: hashlib.sha256(
        f'{seed}/{p.conversation}'.encode()
      ).digest(),
    )
    chosen += order[:wanted]
  return chosen


@dataclasses.dataclass(frozen=True)
class Prompt:
  """The human side of a dialogue; ends with '\\n\\nAssistant:'."""

  text: str
  source: str
  is_sensitive: bool = False  # keep it and its replies out of reports

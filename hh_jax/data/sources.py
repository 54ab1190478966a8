"""Where text, comparisons and prompts come from: name -> Source.

To add a data set, write a Source and name it in SOURCES; its fields become
`config.data.options`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from hh_jax import dialogue
from hh_jax.data import gold_world, hh_rlhf, stack_exchange, web_pairs
from hh_jax.data.examples import Pair, Prompt
from hh_jax.errors import InputError

# (prompts, replies) -> gold scores [N], PM units
GoldFn = Callable[[Sequence[str], Sequence[str]], np.ndarray]


class Source:
  """Data by split, 'train' or 'test'; the two share no conversation."""

  gold_score: ClassVar[GoldFn | None] = None  # None where nobody knows it

  def documents(self, split: str) -> Sequence[str]:
    """Text for language modelling."""
    raise NotImplementedError

  def pairs(self, split: str) -> Sequence[Pair]:
    """Comparisons."""
    raise NotImplementedError

  def prompts(self, split: str) -> Sequence[Prompt]:
    """What a policy is asked."""
    raise NotImplementedError

  def report(self) -> dict[str, Any]:
    """Rows kept and dropped so far, and why."""
    return {}


def _check_seed(seed: int) -> None:
  if seed < 0:
    raise InputError(f'config.data.options.seed {seed} is negative')


def _split_seed(seed: int, split: str) -> int:
  """Each split has a seed of its own: more of one never changes the other."""
  return 2 * seed + ('train', 'test').index(split)


@dataclasses.dataclass(frozen=True)
class GoldWorld(Source):
  """The simulator of data/gold_world.py; test splits have num_test items."""

  seed: int
  num_documents: int
  num_pairs: int
  num_prompts: int
  num_test: int
  preface_share: float  # of documents, whose assistant is better
  harmful_share: float  # of requests
  temperature: float  # of the raters
  flip: float  # share of labels turned around

  def __post_init__(self):
    for name in ('num_documents', 'num_pairs', 'num_prompts', 'num_test'):
      if getattr(self, name) < 1:
        raise InputError(f'config.data.options.{name} is not 1 or more')
    _check_seed(self.seed)
    gold_world.preference(0, 0, temperature=self.temperature, flip=self.flip)

  def _size(self, split: str, train_size: int) -> int:
    return train_size if split == 'train' else self.num_test

  def documents(self, split: str) -> Sequence[str]:
    return gold_world.documents(
      self._size(split, self.num_documents),
      _split_seed(self.seed, split),
      preface_share=self.preface_share,
      harmful_share=self.harmful_share,
    )

  def pairs(self, split: str) -> Sequence[Pair]:
    return gold_world.pairs(
      self._size(split, self.num_pairs),
      _split_seed(self.seed, split),
      harmful_share=self.harmful_share,
      temperature=self.temperature,
      flip=self.flip,
    )

  def prompts(self, split: str) -> Sequence[Prompt]:
    texts = gold_world.prompts(
      self._size(split, self.num_prompts),
      _split_seed(self.seed, split),
      harmful_share=self.harmful_share,
    )
    return [Prompt(text, 'gold-world') for text in texts]

  @staticmethod
  def gold_score(prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
    """True scores [N], PM units."""
    both = zip(prompts, replies, strict=True)
    return np.array([gold_world.gold_score(p, r).total for p, r in both])


@dataclasses.dataclass(frozen=True)
class HHRlhf(Source):
  """Anthropic's HH-RLHF files (Bai et al. 2022), by tranche.

  Training pairs and prompts whose conversation is in the test tranches are
  left out, and counted in the report.
  """

  data_dir: str  # holds TRANCHE/{train,test}.jsonl.gz; what is missing there
  download: bool  # is fetched to cache_dir, or refused
  cache_dir: str
  train: tuple[str, ...]
  test: tuple[str, ...]
  prompt_files: tuple[str, ...]  # more training prompts
  max_train_pairs: int  # of each tranche, 0: all
  max_test_pairs: int  # of each tranche, 0: all
  max_broken: float  # share of broken lines that a file may have

  def __post_init__(self):
    for name in ('max_train_pairs', 'max_test_pairs'):
      if getattr(self, name) < 0:
        raise InputError(f'config.data.options.{name} is negative')

  _report: dict[str, Any] = dataclasses.field(
    default_factory=dict, init=False, repr=False
  )
  _pairs: dict[str, list[Pair]] = dataclasses.field(
    default_factory=dict, init=False, repr=False
  )

  def pairs(self, split: str) -> Sequence[Pair]:
    if split not in self._pairs:
      tranches = {'train': self.train, 'test': self.test}[split]
      limit = {'train': self.max_train_pairs, 'test': self.max_test_pairs}
      self._pairs[split] = [
        pair
        for tranche in tranches
        for pair in self._load(tranche, split)[: limit[split] or None]
      ]
    return self._pairs[split]

  def documents(self, split: str) -> Sequence[str]:
    return [pair.prompt + pair.chosen for pair in self.pairs(split)]

  def prompts(self, split: str) -> Sequence[Prompt]:
    texts: dict[str, str] = {}
    for pair in self.pairs(split):
      # what is in a harmless set too stays sensitive
      if pair.prompt not in texts or not pair.source.startswith('helpful'):
        texts[pair.prompt] = pair.source
    for path in self.prompt_files if split == 'train' else ():
      extra, report = hh_rlhf.read_prompts(path)
      self._report[path] = report.to_dict()
      for text in extra:
        if dialogue.conversation_key(text) not in self._held_out:
          texts.setdefault(text, 'prompts')
    return [
      Prompt(text, source, is_sensitive=not source.startswith('helpful'))
      for text, source in texts.items()
    ]

  def report(self) -> dict[str, Any]:
    return dict(self._report)

  def _load(self, tranche: str, split: str) -> Sequence[Pair]:
    loaded = hh_rlhf.load(
      self.data_dir,
      tranche,
      split,
      cache_dir=self.cache_dir,
      download=self.download,
      max_broken=self.max_broken,
    )
    report = loaded.report.to_dict()
    kept = list(loaded)
    if split == 'train':
      kept = [p for p in kept if p.conversation not in self._held_out]
      report['in_test_conversations'] = len(loaded) - len(kept)
    self._report[f'{tranche}/{split}'] = report
    return kept

  @functools.cached_property
  def _held_out(self) -> frozenset[str]:
    return frozenset(pair.conversation for pair in self.pairs('test'))


@dataclasses.dataclass(frozen=True)
class WebPairs(Source):
  """Answers to questions, ranked by votes, for PMP (data/web_pairs.py)."""

  form: str  # 'ranked' or 'binarised'
  _report: dict[str, Any] = dataclasses.field(
    default_factory=dict, init=False, repr=False
  )

  def __post_init__(self):
    if self.form not in web_pairs.FORMS:
      raise InputError(
        f'config.data.options.form {self.form!r} is none of {web_pairs.FORMS}'
      )

  def questions(self, split: str) -> Sequence[web_pairs.Question]:
    """Questions with their answers, and the url of each."""
    raise NotImplementedError

  def documents(self, split: str) -> Sequence[str]:
    return [web_pairs.document(q) for q in self.questions(split)]

  def pairs(self, split: str) -> Sequence[Pair]:
    questions, limit = self.questions(split), self.max_pairs_per_question
    ranked, counts = web_pairs.rank(questions, max_pairs=limit)
    self._report[f'pairs/{split}'] = counts
    if not ranked:
      raise InputError(f'no two {split} answers can be ranked: {counts}')
    return web_pairs.binarise(ranked) if self.form == 'binarised' else ranked

  def prompts(self, split: str) -> Sequence[Prompt]:
    # a report would quote real posts without their url
    return [
      Prompt(q.prompt, q.source, is_sensitive=bool(q.url))
      for q in self.questions(split)
    ]

  def report(self) -> dict[str, Any]:
    return dict(self._report)


@dataclasses.dataclass(frozen=True)
class StackExchange(WebPairs):
  """Stack Exchange posts; data/stack_exchange.py says what files hold."""

  files: tuple[str, ...]
  test_share: float  # of the questions
  max_pairs_per_question: int  # ranked pairs, 0: all
  max_broken: float  # share of broken rows that a file may have

  def __post_init__(self):
    super().__post_init__()
    if self.max_pairs_per_question < 0:
      raise InputError('config.data.options.max_pairs_per_question is negative')
    if not 0 < self.test_share < 1:
      raise InputError('config.data.options.test_share is not in (0, 1)')

  def questions(self, split: str) -> Sequence[web_pairs.Question]:
    wanted = bool(('train', 'test').index(split))
    kept = [
      q
      for q in self._questions
      if web_pairs.is_test(q.conversation, self.test_share) == wanted
    ]
    if not kept:
      raise InputError(
        f'no {split} question: test_share {self.test_share} splits '
        f'{len(self._questions)}'
      )
    return kept

  @functools.cached_property
  def _questions(self) -> Sequence[web_pairs.Question]:
    questions, reports = stack_exchange.load(
      self.files, max_broken=self.max_broken
    )
    self._report.update({r.file: r.to_dict() for r in reports})
    return questions


@dataclasses.dataclass(frozen=True)
class GoldWeb(WebPairs):
  """Simulated questions and votes of the gold world; all are benign."""

  max_pairs_per_question: ClassVar[int] = 0  # all
  gold_score: ClassVar[GoldFn | None] = staticmethod(GoldWorld.gold_score)

  seed: int
  num_questions: int
  num_answers: int  # of each question
  num_test: int  # questions

  def __post_init__(self):
    super().__post_init__()
    least = {'num_questions': 1, 'num_answers': 2, 'num_test': 1}
    for name, low in least.items():
      if getattr(self, name) < low:
        raise InputError(f'config.data.options.{name} is not {low} or more')
    _check_seed(self.seed)

  def questions(self, split: str) -> Sequence[web_pairs.Question]:
    return web_pairs.gold_questions(
      self.num_questions if split == 'train' else self.num_test,
      _split_seed(self.seed, split),
      num_answers=self.num_answers,
    )


SOURCES: dict[str, type[Source]] = {
  'gold_world': GoldWorld,
  'hh_rlhf': HHRlhf,
  'stack_exchange': StackExchange,
  'gold_web': GoldWeb,
}


def build(name: str, options: dict[str, Any]) -> Source:
  """The source of that name; `options` are its fields."""
  if name not in SOURCES:
    raise InputError(f'data source {name!r} is none of {tuple(SOURCES)}')
  wanted = {f.name for f in dataclasses.fields(SOURCES[name]) if f.init}
  if wanted != set(options):
    raise InputError(
      f'data source {name!r} takes {sorted(wanted)}, not {sorted(options)}'
    )
  return SOURCES[name](**options)

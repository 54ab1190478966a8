"""Makes up prompts for RL: a language model, shown human queries, goes on."""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import gzip
import json
import pathlib

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from hh_jax import dialogue, distributed, sampling, sharding, types
from hh_jax import metrics as metrics_lib
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.data import hh_rlhf, loader, machine_prompts, packing
from hh_jax.errors import InputError
from hh_jax.recipes import common

FILE, ATTEMPTS = 'prompts.jsonl.gz', 'attempts.jsonl'
COUNTS = (  # config fields of 1 or more
  'num_prompts',
  'max_query',
  'max_attempts',
)

# numbers of attempts, texts to go on from -> texts, and whether each ended
DrawFn = Callable[
  [Sequence[int], Sequence[str]], tuple[list[str], Sequence[bool]]
]


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, *COUNTS)
  common.check_batches(config, common.make_mesh(config.mesh))
  common.check_range(config, 'num_shown', 0)
  common.check_temperature(config)
  common.check_range(config, 'top_p', 1e-6, 1)
  if config.max_attempts < config.num_prompts:
    raise InputError(
      f'config.max_attempts {config.max_attempts} is less than num_prompts '
      f'{config.num_prompts}'
    )


def make_distribution(
  tokenizer: tokenizer_lib.Tokenizer, *, temperature: float, top_p: float
) -> sampling.SamplingDistribution:
  """Over ordinary text; a query ends at the line's or document's end, or where
  the next turn begins."""
  (line_end,) = tokenizer.encode('\n')
  stop = (tokenizer.human_id, tokenizer.assistant_id, line_end)
  return sampling.SamplingDistribution(
    temperature=temperature,
    top_p=top_p,
    banned=(
      tokenizer.pad_id,
      tokenizer.unk_id,
      tokenizer.bos_id,
      tokenizer.eoc_id,
    ),
    stop=(tokenizer.eos_id, *stop),
  )


def make_draw(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  mesh: Mesh,
) -> DrawFn:
  """Samples what the run config.init_from goes on with, a batch at a time."""
  model = common.make_model(config.model, tokenizer)
  params = common.load_params(
    config, 'init_from', model, mesh, fingerprint=tokenizer.fingerprint
  )
  distribution = make_distribution(
    tokenizer, temperature=config.temperature, top_p=config.top_p
  )
  key = common.stream(config.seed, common.SAMPLE)
  # bos and the last marker, and each query after its own
  length = 2 + config.num_shown * (1 + config.max_query)

  @jax.jit
  def sample(params, prompts: types.Prompts) -> types.Samples:
    return sampling.sample(
      model,
      params,
      prompts,
      key,
      distribution=distribution,
      max_reply=config.max_query,
      row_ids=prompts.ids,
    )

  def draw(attempts: Sequence[int], texts: Sequence[str]):
    ids = tokenizer.encode_batch(list(texts))
    rows, dropped = packing.pad_prompts(
      [[tokenizer.bos_id, *row] for row in ids], length=length
    )
    if dropped:
      raise ValueError(f'{dropped} contexts are longer than {length} tokens')
    rows = dataclasses.replace(rows, ids=np.array(attempts, np.int32))
    # the last batch may be smaller: one shape, and one that the mesh divides
    rows = loader.take(rows, np.arange(config.batch_size) % len(attempts))
    samples = sharding.fetch(sample(params, sharding.place(mesh, rows)))
    samples = loader.take(samples, slice(len(attempts)))
    drawn = map(tokenizer.decode, sampling.reply_tokens(samples))
    return list(drawn), samples.is_stopped.tolist()

  return draw


def conversation_keys(texts: Iterable[str]) -> frozenset[str]:
  """The conversations of prompts."""
  return frozenset(map(dialogue.conversation_key, texts))


class Maker:
  """Tries until there are enough; what every batch gave is in a file.

  An attempt depends on its number alone, so a run that was interrupted goes on
  with the next batch and ends with the same prompts.
  """

  def __init__(
    self,
    path: pathlib.Path,
    draw: DrawFn,
    *,
    queries: Sequence[str],
    train_keys: frozenset[str],
    test_keys: frozenset[str],
    num_shown: int,
    seed: int,
  ):
    self._path, self._draw = path, draw
    self._queries, self._num_shown, self._seed = queries, num_shown, seed
    self._train_keys, self._test_keys = train_keys, test_keys
    self.made: list[str] = []  # prompts
    self.dropped: collections.Counter[str] = collections.Counter()
    self.attempts = 0
    self._keys: set[str] = set()
    if path.exists():
      batches = workdir_lib.read_rows(path, unfinished=True)
      workdir_lib.write_rows(path, batches)  # without a torn last line
      for batch in batches:
        self._count(batch)

  def _count(self, batch: dict) -> None:
    self.made += batch['prompts']
    self._keys |= conversation_keys(batch['prompts'])
    self.dropped.update(batch['dropped'])
    self.attempts += batch['attempts']

  def try_batch(self, size: int) -> None:
    """One batch of attempts, counted and written down."""
    numbers = range(self.attempts, self.attempts + size)
    shown = [
      machine_prompts.shown(
        self._queries, i, num=self._num_shown, seed=self._seed
      )
      for i in numbers
    ]
    texts, ended = self._draw(numbers, [*map(machine_prompts.context, shown)])
    prompts, dropped, keys = [], collections.Counter(), set(self._keys)
    for text, is_ended, queries in zip(texts, ended, shown, strict=True):
      reason = machine_prompts.problem(
        text,
        is_ended=is_ended,
        shown_keys=conversation_keys(map(machine_prompts.as_prompt, queries)),
        test_keys=self._test_keys,
        train_keys=self._train_keys,
        made_keys=keys,
      )
      if reason is not None:
        dropped[reason] += 1
        continue
      prompts.append(machine_prompts.as_prompt(text.strip()))
      keys |= conversation_keys(prompts[-1:])
    batch = {'prompts': prompts, 'dropped': dropped, 'attempts': size}
    distributed.by_writer(lambda: self._append(batch))
    self._count(batch)

  def _append(self, batch: dict) -> None:
    with open(self._path, 'a', encoding='utf-8') as f:
      f.write(json.dumps(batch) + '\n')


def write(path: pathlib.Path, prompts: Sequence[str]) -> None:
  """Gzipped lines of {"prompt": ...}; checked to be what is read again."""
  text = ''.join(json.dumps({'prompt': p}) + '\n' for p in prompts)
  workdir_lib.write_bytes(path, gzip.compress(text.encode(), mtime=0))
  again, report = hh_rlhf.read_prompts(path)
  if again != list(prompts):
    raise RuntimeError(f'{path} is not read as it was written: {report}')


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Writes workdir/prompts.jsonl.gz; returns the summary."""
  check(config)
  root = workdir_lib.open_run(
    workdir, config.to_dict(), 'prompts', may_change=('max_attempts',)
  )
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  source = common.load_source(config.data)
  human = source.prompts('train')
  maker = Maker(
    root / ATTEMPTS,
    make_draw(config, tokenizer, mesh),
    queries=machine_prompts.short_enough(
      machine_prompts.first_lines(human), tokenizer, max_query=config.max_query
    ),
    train_keys=conversation_keys(p.text for p in human),
    test_keys=conversation_keys(p.text for p in source.prompts('test')),
    num_shown=config.num_shown,
    seed=config.seed,
  )
  wanted, most = config.num_prompts, config.max_attempts
  with metrics_lib.progress(wanted, 'prompts') as bar:
    while len(maker.made) < wanted and maker.attempts < most:
      maker.try_batch(min(config.batch_size, most - maker.attempts))
      bar.update(min(len(maker.made), wanted), {'attempts': maker.attempts})
  dropped = {name: maker.dropped[name] for name in machine_prompts.REASONS}
  if len(maker.made) < wanted:
    raise InputError(
      f'only {len(maker.made)} of config.num_prompts {wanted} prompts after '
      f'{maker.attempts} attempts (config.max_attempts {most}; a larger one '
      f'goes on from here): dropped {dropped}'
    )
  write(root / FILE, maker.made[:wanted])
  workdir_lib.write_json(
    root / 'data_report.json',
    {'dropped': dropped, 'attempts': maker.attempts, 'made': len(maker.made)},
  )
  summary = {
    'prompts': wanted,
    'attempts': maker.attempts,
    'kept_share': len(maker.made) / maker.attempts,
    'chars': float(np.mean([len(p) for p in maker.made[:wanted]])),
    **{f'dropped/{name}': count for name, count in dropped.items()},
  }
  workdir_lib.write_summary(workdir, summary)
  return summary

"""Samples n replies a prompt and keeps the best: best-of-n, rejection sampling.

Bai et al. 2022, B.6. What ranks highest of k replies, by the score of a
preference model (or an ensemble) less PPO's penalty for a reply cut at the
length limit, is judged by that PM, a held-out one and the gold score where
known, for every k up to n. Writes

  summary.json    the curves over k, gains, the spread within prompts
  samples.npz     scores, `ranking`, lengths and stops, [prompts, samples];
                  `prompt`, the prompts' numbers in the source
  samples.jsonl   each prompt with its first and its best reply, without the
                  text of sensitive ones
  best.jsonl.gz   with split=train alone: a line a prompt, in order, with
                  `prompt` (ends with '\\n\\nAssistant:'), `reply` (as sampled,
                  leading space and all, the stop token left out: the two join
                  up to a transcript), `source`, `pm_score` and `best_of`. All
                  texts are there: it is training data, as its source.
"""

from collections.abc import Iterator, Sequence
import gzip
import io
import json
import pathlib
import shutil
from typing import Any

import ml_collections
import numpy as np

from hh_jax import distributed
from hh_jax import metrics as metrics_lib
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.data import loader, sources
from hh_jax.data.examples import Prompt
from hh_jax.errors import InputError
from hh_jax.evals import best_of_n, frontier
from hh_jax.recipes import (
  common,
  ensembles,
  policy_evaluation,
  policy_networks,
  policy_prompts,
  policy_samples,
)  # fmt: skip
from hh_jax.recipes.policy_samples import Values
from hh_jax.rl import rollout
from hh_jax.types import Prompts

KINDS = ('pretrain', 'distill', 'sft', 'ppo')
SPLITS = ('train', 'test')
COUNTS = ('max_prompt', 'max_reply', 'head_chunk', 'chunk_prompts')


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for settings that cannot work, or not together."""
  common.check_positive(config, *COUNTS)
  common.check_seed(config.seed)
  common.check_range(config, 'num_samples', 2)
  common.check_range(config, 'no_stop_penalty', 0)
  common.check_range(config, 'slots', 0)
  common.check_batches(config, common.make_mesh(config.mesh))
  if config.num_prompts != 0:  # 0: all
    common.check_range(config, 'num_prompts', 2)
  if config.split not in SPLITS:
    raise InputError(f'config.split {config.split!r} is none of {SPLITS}')
  if not config.ks:
    raise InputError('config.ks is empty: name a k, as (1,)')
  for k in config.ks:
    if type(k) is not int or not 1 <= k <= config.num_samples:
      raise InputError(
        f'config.ks: {k!r} is no whole number from 1 to num_samples '
        f'{config.num_samples}'
      )
  common.check_temperature(config)
  ensembles.check(config)
  ensembles.check_apart(config)


def chunks(
  config: ml_collections.ConfigDict,
  folder: pathlib.Path,
  rows: Prompts,
  prompts: Sequence[Prompt],
  gold_score: sources.GoldFn | None,
  sample,
) -> Iterator[tuple[Values, list[str]]]:
  """Values and replies of each chunk of prompts, in order.

  Each is kept in folder/chunks when it is complete, and read from there when
  it is there already. InputError on a score that is not finite.
  """
  path = folder / 'chunks'
  path.mkdir(exist_ok=True)
  starts = range(0, loader.num_rows(rows), config.chunk_prompts)
  with metrics_lib.progress(len(starts), 'best_of_n') as bar:
    for i, start in enumerate(starts):
      file = path / f'{i:05d}.npz'
      if not file.exists():
        part = loader.take(rows, slice(start, start + config.chunk_prompts))
        values, replies = sample(part)
        if gold_score is not None:
          texts = [prompts[j].text for j in part.ids]
          texts = [x for x in texts for _ in range(config.num_samples)]
          gold = gold_score(texts, replies)
          values['gold_score'] = gold.reshape(-1, config.num_samples)
        _check_finite(values, part)
        values['ranking'] = values['pm_score'] - config.no_stop_penalty * (
          1 - values['stop_rate']
        )
        _save(file, values, replies)
      values, replies = _load(file)
      bar.update(i + 1, {'pm': float(values['pm_score'].mean())})
      yield values, replies


def _check_finite(values: Values, rows: Prompts) -> None:
  for name, scores in values.items():
    if not np.isfinite(scores).all():
      row = int(np.argwhere(~np.isfinite(scores))[0, 0])
      raise InputError(
        f'{name} of a reply to prompt {rows.ids[row]} is not finite'
      )


def _save(path: pathlib.Path, values: Values, replies: list[str]) -> None:
  text = np.frombuffer(json.dumps(replies).encode(), np.uint8)
  file = io.BytesIO()
  np.savez(file, replies=text, **values)
  workdir_lib.write_bytes(path, file.getvalue())


def _load(path: pathlib.Path) -> tuple[Values, list[str]]:
  values = policy_evaluation.read_values(path)
  return values, json.loads(values.pop('replies').tobytes())


def describe(
  prompt: Prompt, values: Values, row: int, replies: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Rows of samples.jsonl and of best.jsonl.gz for one prompt.

  Of several best replies the first one is kept.
  """
  best = int(values['ranking'][row].argmax())
  shown = not prompt.is_sensitive
  sample = {
    'shown': shown,
    'prompt': prompt.text if shown else '',
    'first': replies[0] if shown else '',
    'best': replies[best] if shown else '',
  }
  for name, scores in values.items():
    if name.endswith('score'):
      sample[f'first_{name}'] = float(scores[row, 0])
      sample[f'best_{name}'] = float(scores[row, best])
  return sample, {
    'prompt': prompt.text,
    'reply': replies[best],
    'source': prompt.source,
    'pm_score': float(values['pm_score'][row, best]),
    'best_of': len(replies),
  }


def summarise(values: Values, ks: Sequence[int]) -> dict[str, Any]:
  """Curves over all k, and the k that are asked for, for every scorer.

  `gain` is over k = 1, paired by prompt; errors are over prompts. PM scores
  are raw: only their differences mean something.
  """
  ranking = values['ranking']
  if np.ptp(values['pm_score']) == 0:
    score = values['pm_score'].flat[0]
    raise InputError(f'all replies have the PM score {score}: no ranking')
  num = range(1, ranking.shape[1] + 1)
  summary: dict[str, Any] = {
    'kl': [best_of_n.kl(k) for k in num],  # exact, nats
    'log_k': [best_of_n.log_k(k) for k in num],  # as Bai et al. 2022 write it
  }
  for name in (name for name in values if name.endswith('score')):
    curve = best_of_n.curve(ranking, values[name]).report()
    summary[f'curve/{name}'] = curve
    std, std_se = frontier.within_prompt_std(values[name])
    summary[f'within_prompt_std/{name}'] = std
    summary[f'within_prompt_std/{name}_se'] = std_se
    for k in ks:
      for what in ('mean', 'se', 'gain', 'gain_se'):
        summary[f'best_of_{k}/{name}_{what}'] = curve[what][k - 1]
  for name in ('length', 'stop_rate'):
    best = best_of_n.expected_best(ranking, values[name], ks=ks).mean(axis=0)
    for k, value in zip(ks, best, strict=True):
      summary[f'best_of_{k}/{name}'] = value
  return summary


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Samples, ranks and writes what the module says; returns the summary."""
  check(config)
  folder = workdir_lib.open_run(workdir, config.to_dict(), 'best_of_n')
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  common.read_link(config, 'run', kinds=KINDS)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  nets = policy_networks.make_networks(config, tokenizer, value_net='none')
  policy = common.load_params(
    *(config, 'run', nets.policy, mesh),
    fingerprint=tokenizer.fingerprint,
    kinds=KINDS,
  )
  judges = policy_networks.load_judges(
    config, nets, mesh, tokenizer.fingerprint
  )
  source = common.load_source(config.data)
  prompts = source.prompts(config.split)
  rows, dropped = read_rows(config, prompts, tokenizer)
  sampler = policy_samples.Sampler(
    draw=rollout.make_draw(nets, slots=config.slots),
    judge=rollout.make_judge(nets),
    decode=tokenizer.decode,
    mesh=mesh,
    key=common.stream(config.seed, common.SAMPLE),
    batch_size=config.batch_size,
    num_samples=config.num_samples,
  )
  parts = chunks(
    *(config, folder, rows, prompts, source.gold_score),
    lambda part: sampler(policy, judges, part, part.ids),
  )
  values = write(config, folder, rows, prompts, parts)
  summary = summarise(values, config.ks) | {
    'samples/prompts': loader.num_rows(rows),
    'samples/per_prompt': config.num_samples,
    'samples/prompts_dropped_over_long': dropped,
  }
  workdir_lib.write_summary(workdir, summary)
  distributed.by_writer(lambda: shutil.rmtree(folder / 'chunks'))
  return summary


def read_rows(
  config: ml_collections.ConfigDict,
  prompts: Sequence[Prompt],
  tokenizer: tokenizer_lib.Tokenizer,
) -> tuple[Prompts, int]:
  """The prompts that fit, num_prompts of them, and how many do not fit."""
  if not prompts:
    raise InputError(f'config.data has no {config.split} prompts')
  rows, dropped = policy_prompts.pack(
    prompts, tokenizer, max_prompt=config.max_prompt
  )
  if config.num_prompts:
    rows = loader.spread(rows, config.num_prompts)
  if loader.num_rows(rows) < 2:
    raise InputError('standard errors need 2 prompts, 1 fits config.max_prompt')
  last = (int(rows.ids.max()) + 1) * config.num_samples
  if last > np.iinfo(np.int32).max:
    raise InputError(f'{last} replies are more than int32 can number')
  return rows, dropped


def write(
  config: ml_collections.ConfigDict,
  folder: pathlib.Path,
  rows: Prompts,
  prompts: Sequence[Prompt],
  parts: Iterator[tuple[Values, list[str]]],
) -> Values:
  """samples.npz, samples.jsonl and, of training prompts, best.jsonl.gz."""
  kept, samples, best = [], [], []
  ids = iter(rows.ids.tolist())
  n = config.num_samples
  for values, replies in parts:
    kept.append(values)
    for row in range(len(replies) // n):
      mine = replies[row * n : (row + 1) * n]
      sample, line = describe(prompts[next(ids)], values, row, mine)
      samples.append({'index': len(samples)} | sample)
      best.append(line)
  merged = {
    name: np.concatenate([part[name] for part in kept]) for name in kept[0]
  }
  file = io.BytesIO()
  np.savez(file, prompt=rows.ids, **merged)
  workdir_lib.write_bytes(folder / 'samples.npz', file.getvalue())
  workdir_lib.write_rows(folder / 'samples.jsonl', samples)
  if config.split == 'train':
    text = ''.join(json.dumps(line) + '\n' for line in best)
    packed = gzip.compress(text.encode(), mtime=0)
    workdir_lib.write_bytes(folder / 'best.jsonl.gz', packed)
  return merged

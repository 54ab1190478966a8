"""Prints a policy's replies: to prompts of a file or a pipe, or in a chat.

Text on stdout, or with config.json an object a prompt:
  {"prompt": TRANSCRIPT, "replies": [{"text", "logprob", "stopped"}]}
A reply ends where the next turn begins, however that is spelled. `logprob`
(nats) is of all tokens that were drawn, the one that stopped it among them;
`stopped` is false where config.max_reply cut it. Notes go to stderr.

A run directory is not needed; one that is named gets samples.jsonl with the
same objects. The same seed gives the same reply to a prompt at the same place,
whatever the batch size.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
import re
import sys
from typing import Any

import jax
import ml_collections

from hh_jax import dialogue, distributed, generation, sampling, sharding
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.data import hh_rows
from hh_jax.errors import InputError
from hh_jax.recipes import common, sample_chat, sample_prompts
from hh_jax.types import Params

KINDS = ('pretrain', 'distill', 'sft', 'ppo')
SAMPLES = 'samples.jsonl'
MESSAGES = 'sample/messages'  # in the summary of a chat
CHUNK = 1024  # prompts that share a key; printed when all have their replies
# of a terminal: a model that draws bytes would move its cursor
_CONTROLS = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f]')

Row = dict[str, Any]  # {'prompt': ..., 'replies': [...]}


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, 'max_prompt', 'max_reply', 'num_samples')
  common.check_range(config, 'top_k', 0)
  common.check_seed(config.seed)
  if not 0 < config.top_p <= 1:
    raise InputError(
      f'config.top_p {config.top_p} is not above 0 and at most 1'
    )
  common.check_temperature(config)
  common.check_batches(config, common.make_mesh(config.mesh))


@dataclasses.dataclass(frozen=True)
class Policy:
  """Draws replies of one run."""

  generator: generation.Generator
  params: Params
  tokenizer: tokenizer_lib.Tokenizer
  key: jax.Array

  def rows(
    self, prompts: Sequence[str], ids: Sequence[Sequence[int]], number: int
  ) -> list[Row]:
    """The row of every prompt; `number` names their random stream."""
    key = jax.random.fold_in(self.key, number)
    found = self.generator(self.params, ids, key)
    return [
      {'prompt': prompt, 'replies': [*map(self._reply, replies)]}
      for prompt, replies in zip(prompts, found, strict=True)
    ]

  def _reply(self, reply: generation.Reply) -> Row:
    if not math.isfinite(reply.logprob):
      raise InputError(
        f'a reply has log-probability {reply.logprob}: the parameters of '
        'config.run are not finite'
      )
    drawn = self.tokenizer.decode(reply.ids)
    text = dialogue.truncate_reply(drawn)
    stopped = reply.is_stopped or text != drawn
    return {'text': text, 'logprob': reply.logprob, 'stopped': stopped}


def load_tokenizer(
  config: ml_collections.ConfigDict, there: Mapping[str, Any]
) -> tokenizer_lib.Tokenizer:
  """That of config.tokenizer, or of the run whose config.json is `there`."""
  own = there['config']['tokenizer']
  if not config.tokenizer and not pathlib.Path(own).is_dir():
    raise InputError(
      f'config.tokenizer is empty, and {own}, which config.run '
      f'{config.run} names, is not there: name the tokenizer run'
    )
  return common.load_tokenizer(config.tokenizer or own)


def load_policy(
  config: ml_collections.ConfigDict,
  there: Mapping[str, Any],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  num_prompts: int,
) -> Policy:
  """The policy of config.run, for so many prompts at a time or fewer."""
  mesh = common.make_mesh(config.mesh)
  # as it was trained, but for what only its machine or training asked for
  fields = there['config']['model'] | {'attention': 'auto', 'remat': 'none'}
  model = common.make_model(ml_collections.ConfigDict(fields), tokenizer)
  try:
    distribution = sampling.reply_distribution(
      tokenizer,
      temperature=config.temperature,
      top_k=config.top_k,
      top_p=config.top_p,
    )
  except ValueError as error:
    raise InputError(f'config: {error}') from error
  ways = sharding.ways(mesh)
  return Policy(
    generator=generation.Generator(
      model=model,
      distribution=distribution,
      max_reply=config.max_reply,
      batch_size=min(config.batch_size, -(-num_prompts // ways) * ways),
      widths=sampling.default_widths(config.max_prompt),
      mesh=mesh,
      num_samples=config.num_samples,
    ),
    params=common.load_params(
      *(config, 'run', model, mesh),
      fingerprint=tokenizer.fingerprint,
      kinds=KINDS,
    ),
    tokenizer=tokenizer,
    key=common.stream(config.seed, common.SAMPLE),
  )


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Prints the replies; workdir may be ''. Returns the summary."""
  check(config)
  if distributed.num_processes() > 1 and not config.prompts:
    raise InputError('config.prompts is empty: only one process can read stdin')
  path = None
  if workdir:
    folder = workdir_lib.open_run(workdir, config.to_dict(), 'sample')
    path = folder / SAMPLES
  there = common.read_link(config, 'run', kinds=KINDS)
  tokenizer = load_tokenizer(config, there)
  if not config.prompts and sys.stdin is not None and sys.stdin.isatty():
    summary = chat(config, there, tokenizer, path)
  else:
    summary = answer(config, there, tokenizer, path)
  if workdir:
    workdir_lib.write_summary(workdir, summary)
  return summary


def read_prompts(config: ml_collections.ConfigDict) -> list[str]:
  """The prompts of config.prompts, or of stdin."""
  if config.prompts:
    lines = hh_rows.read_lines(pathlib.Path(config.prompts))
    return sample_prompts.read(lines, config.prompts)
  return sample_prompts.read(sys.stdin.buffer if sys.stdin else (), 'stdin')


def answer(
  config: ml_collections.ConfigDict,
  there: Mapping[str, Any],
  tokenizer: tokenizer_lib.Tokenizer,
  path: pathlib.Path | None,
) -> dict[str, float]:
  """Prints the replies to all prompts in order; those in `path` as they are."""
  prompts = read_prompts(config)
  ids = sample_prompts.encode(prompts, tokenizer, max_prompt=config.max_prompt)
  rows = _stored(path, prompts)
  is_only = len(prompts) * config.num_samples == 1
  for number, row in enumerate(rows, 1):
    _print(row, number, is_json=config.json, is_only=is_only)
  if len(rows) < len(prompts):
    policy = load_policy(config, there, tokenizer, num_prompts=len(prompts))
    for part in _chunks(policy, prompts, ids, start=len(rows)):
      for number, row in enumerate(part, len(rows) + 1):
        _print(row, number, is_json=config.json, is_only=is_only)
      rows += part
      if path is not None:
        workdir_lib.write_rows(path, rows)
  replies = [reply for row in rows for reply in row['replies']]
  if cut := sum(not reply['stopped'] for reply in replies):
    distributed.say(
      f'{cut} of {len(replies)} replies were cut at config.max_reply '
      f'{config.max_reply}'
    )
  return {
    'sample/prompts': len(rows),
    'sample/replies': len(replies),
    'sample/stop_rate': 1 - cut / len(replies),
  }


def _chunks(
  policy: Policy,
  prompts: Sequence[str],
  ids: Sequence[Sequence[int]],
  *,
  start: int,
) -> Iterator[list[Row]]:
  for first in range(start, len(prompts), CHUNK):
    part = slice(first, first + CHUNK)
    yield policy.rows(prompts[part], ids[part], first // CHUNK)


def _stored(path: pathlib.Path | None, prompts: Sequence[str]) -> list[Row]:
  """The rows of whole chunks that an interrupted or finished run has left."""
  if path is None or not path.exists():
    return []
  rows = workdir_lib.read_rows(path, ('prompt', 'replies'))
  is_whole = len(rows) == len(prompts) or len(rows) % CHUNK == 0
  if not is_whole or [r['prompt'] for r in rows] != prompts[: len(rows)]:
    raise InputError(
      f'{path} holds replies to other prompts: name another --workdir'
    )
  return rows


def chat(
  config: ml_collections.ConfigDict,
  there: Mapping[str, Any],
  tokenizer: tokenizer_lib.Tokenizer,
  path: pathlib.Path | None,
) -> dict[str, float]:
  """Talks at the terminal; goes on with the chat that `path` holds."""
  if config.num_samples > 1:
    raise InputError(
      f'config.num_samples {config.num_samples}: a chat goes on from one reply'
    )
  rows = _stored_chat(path)
  turns = _turns(rows[-1]) if rows else []
  policy = load_policy(config, there, tokenizer, num_prompts=1)

  def reply(prompt: str, ids: Sequence[int]) -> str:
    rows.extend(policy.rows([prompt], [ids], number=len(rows)))
    if path is not None:
      _keep_chat(path, rows)
    (drawn,) = rows[-1]['replies']
    said = f'Assistant:{_shown(drawn["text"])}\n'
    print(json.dumps(rows[-1]) if config.json else said, flush=True)
    if not drawn['stopped']:
      distributed.say(f'cut at config.max_reply {config.max_reply}')
    return drawn['text']

  before = f' after {len(rows)} messages' if rows else ''
  distributed.say(
    f'a chat with {config.run}{before}; Ctrl-D ends it. The first replies take '
    'longer: programs are compiled'
  )
  sample_chat.with_line_editing()
  try:
    sample_chat.talk(
      reply, tokenizer, max_prompt=config.max_prompt, turns=turns
    )
  except KeyboardInterrupt:
    print(file=sys.stderr)  # leaves the line that shows ^C
    raise
  return {MESSAGES: len(rows)}


def _stored_chat(path: pathlib.Path | None) -> list[Row]:
  if path is None or not path.exists():
    return []
  folder = path.parent
  if workdir_lib.is_finished(folder) and (
    MESSAGES not in workdir_lib.read_summary(folder)
  ):
    raise InputError(f'{path} is no chat: name another --workdir')
  return workdir_lib.read_rows(path, ('prompt', 'replies'))


def _keep_chat(path: pathlib.Path, rows: Sequence[Row]) -> None:
  """Writes the messages and their number: a chat may end after any of them,
  by Ctrl-C too, and is never found with a number that is not its own."""
  (path.parent / workdir_lib.SUMMARY).unlink(missing_ok=True)
  workdir_lib.write_rows(path, rows)
  workdir_lib.write_summary(path.parent, {MESSAGES: len(rows)})


def _turns(row: Row) -> list[dialogue.Turn]:
  """The dialogue up to and with the reply of a chat's row."""
  (reply,) = row['replies']
  return [*dialogue.parse(row['prompt'] + reply['text'])]


def _print(row: Row, number: int, *, is_json: bool, is_only: bool) -> None:
  """A row on stdout; `is_only`: it is the only reply, which needs no number."""
  if is_json:
    print(json.dumps(row), flush=True)
    return
  replies = row['replies']
  for i, reply in enumerate(replies, 1):
    if not is_only:
      print(f'--- {number}.{i}' if len(replies) > 1 else f'--- {number}')
    print(_shown(reply['text'].strip()), flush=True)


def _shown(text: str) -> str:
  """The text, at a terminal without what would control it."""
  return _CONTROLS.sub('\ufffd', text) if sys.stdout.isatty() else text

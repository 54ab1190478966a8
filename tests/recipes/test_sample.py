"""Replies to prompts of files and pipes, and chats, on tiny runs."""

import gzip
import io
import json
import shutil

import chex
import jax
import pytest

from hh_jax import dialogue, generation
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.errors import InputError
from hh_jax.recipes import common, sample, sample_chat, sample_prompts
from tests.conftest import REPO
from tests.recipes import chain as chain_lib

CONFIG = str(REPO / 'configs' / 'sample.py')
SMALL = ('max_prompt=48', 'max_reply=6', 'batch_size=4')
WORDS = ('bread', 'a kite', 'soup')
LINES = '\n'.join(f'how do i make {word} ?' for word in WORDS)


class Terminal(io.StringIO):
  """Stdin of a person who types these lines, then Ctrl-D."""

  def isatty(self):
    return True


class Interrupted(Terminal):
  """Of a person who types Ctrl-C at the end."""

  def readline(self, *args):
    line = super().readline(*args)
    if not line:
      raise KeyboardInterrupt
    return line


@pytest.fixture
def stdin(monkeypatch):
  """Sets what is on stdin: text or bytes of a pipe, or a Terminal."""

  def put(given):
    if not isinstance(given, Terminal):
      data = given.encode() if isinstance(given, str) else given
      given = io.TextIOWrapper(io.BytesIO(data))
    monkeypatch.setattr('sys.stdin', given)

  put('')
  return put


@pytest.fixture
def run(chain, stdin):
  """Runs `sample` on a run of the chain; flags override."""

  def run(*flags, of='pretrain', workdir=''):
    argv = ['sample', f'--config={CONFIG}', *chain.links(f'run={of}')]
    argv += [f'--config.{flag}' for flag in (*SMALL, *flags)]
    return chain_lib.command(argv + [f'--workdir={workdir}'] * bool(workdir))

  return run


@pytest.fixture
def no_model(monkeypatch):
  """Fails where parameters would be loaded."""

  def load(*args, **kwargs):
    raise AssertionError('the policy was loaded')

  monkeypatch.setattr(sample, 'load_policy', load)


def rows(done):
  assert done.code == 0, done.err
  return [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.parametrize(
  ('text', 'prompt'),
  [
    (' hi  there ', '\n\nHuman: hi  there\n\nAssistant:'),
    ('Humans: a', '\n\nHuman: Humans: a\n\nAssistant:'),
    ('Human: hi ', '\n\nHuman: hi \n\nAssistant:'),
    ('\n\nHuman: hi\n\nAssistant:', '\n\nHuman: hi\n\nAssistant:'),
    ('Human: hi\n\nAssistant: ', '\n\nHuman: hi\n\nAssistant:'),
    (
      '\n\nHuman: a\n\nAssistant: b\n\nHuman: c',
      '\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:',
    ),
  ],
)
def test_a_message_or_a_transcript_becomes_a_prompt(text, prompt):
  assert sample_prompts.as_prompt(text) == prompt


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('', 'the prompt is empty'),
    (' \t', 'the prompt is empty'),
    ('Human: a\n\nAssistant: b', 'ends with an Assistant turn'),
    ('Assistant: b', 'ends with an Assistant turn'),
    ('\n\nAssistant:', 'no Human turn'),
    ('\n\nHuman: \n\nAssistant:', 'an empty Human turn'),
    ('well\n\nHuman: a', 'text before its first turn'),
  ],
)
def test_what_cannot_be_answered_is_refused(text, says):
  with pytest.raises(InputError, match=says):
    sample_prompts.as_prompt(text)


def test_lines_of_text_and_of_json():
  text = '\ufeffa\r\nb \u2028 c\n\n \n'.encode().splitlines(keepends=True)
  wanted = ['a', 'b \u2028 c']
  wanted = [f'\n\nHuman: {x}\n\nAssistant:' for x in wanted]
  assert sample_prompts.read(text, 'x') == wanted
  objects = [json.dumps({'prompt': p, 'id': 1}).encode() for p in wanted]
  assert sample_prompts.read(objects, 'x') == wanted


@pytest.mark.parametrize(
  ('lines', 'says'),
  [
    ([], 'there is no prompt in x'),
    ([b'\n', b'  '], 'there is no prompt in x'),
    ([b'a\n', b'\n', b'b'], 'x:2: the prompt is empty'),
    ([b'a\n', b'\xff'], 'x:2: not UTF-8'),
    ([b'{"prompt": "a"}', b'b'], 'x:2: not JSON'),
    ([b'{"prompt": 1}'], 'x:1: prompt is 1, not text'),
    ([b'{"text": "a"}'], 'x:1: not a JSON object with the key prompt'),
    ([b'{"prompt": "a"}', b'[1]'], 'x:2: not a JSON object'),
  ],
)
def test_a_bad_line_is_named(lines, says):
  with pytest.raises(InputError, match=says):
    sample_prompts.read(lines, 'x')


class Letters:
  """A tokenizer with an id a character."""

  bos_id = 1

  def encode(self, text):
    if 'é' in text:
      raise InputError('no é here')
    return [ord(c) for c in text]


def test_a_prompt_that_is_too_long_or_no_text_is_named():
  assert sample_prompts.encode(['ab'], Letters(), max_prompt=3) == [[1, 97, 98]]
  with pytest.raises(InputError, match='prompt 2 has 4 tokens, more than'):
    sample_prompts.encode(['ab', 'abc'], Letters(), max_prompt=3)
  with pytest.raises(InputError, match='prompt 1: no é'):
    sample_prompts.encode(['é'], Letters(), max_prompt=3)


def test_the_oldest_turns_give_way():
  turns = dialogue.parse('\n\nHuman: a\n\nAssistant: b\n\nHuman: c')
  whole = '\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:'
  last = '\n\nHuman: c\n\nAssistant:'
  for limit, prompt in ((len(whole) + 1, whole), (len(whole), last)):
    kept, text, ids = sample_chat.fit(turns, Letters(), max_prompt=limit)
    assert text == prompt and ids == [1, *map(ord, prompt)]
    assert dialogue.render(kept) + dialogue.ASSISTANT == prompt
  with pytest.raises(InputError, match=f'has {len(last) + 1} tokens'):
    sample_chat.fit(turns, Letters(), max_prompt=len(last))


def test_a_chat_keeps_the_dialogue_and_says_what_it_leaves_out(stdin, capsys):
  asked = []

  def reply(prompt, ids):
    asked.append(prompt)
    return ' ok'

  # 50 characters hold two messages of one, with the reply between them
  stdin(Terminal('a\n\n  \nb\n' + 'x' * 60 + '\né\nlonger one\n'))
  sample_chat.talk(reply, Letters(), max_prompt=53)
  first = '\n\nHuman: a\n\nAssistant:'
  assert asked == [
    first,
    f'{first} ok\n\nHuman: b\n\nAssistant:',
    '\n\nHuman: longer one\n\nAssistant:',
  ]
  out, err = capsys.readouterr()
  notes = [x for x in err.replace('Human: ', '').splitlines() if x]
  assert out == ''
  assert notes == [
    f'hh_jax: not sent: the message has {60 + len(first)} tokens, more than '
    'config.max_prompt 53',
    'hh_jax: not sent: no é here',
    'hh_jax: the oldest 4 turns no longer fit config.max_prompt 53 and are '
    'left out',
  ]


def test_a_turn_spelled_out_of_pieces_ends_the_reply(chain):
  tokenizer = common.load_tokenizer(str(chain.path / 'tokenizer'))
  spelled = [i for x in (' ok', '\n', '\n', 'Hum', 'an: and')
             for i in tokenizer.encode(x)]  # fmt: skip
  assert tokenizer.human_id not in spelled
  drawn = [
    generation.Reply(ids=spelled, logprob=-1.5, is_stopped=False),
    generation.Reply(tokenizer.encode(' ok'), -0.5, is_stopped=False),
  ]
  policy = sample.Policy(
    generator=lambda params, ids, key: [drawn],
    params=None,
    tokenizer=tokenizer,
    key=jax.random.key(0),
  )
  (row,) = policy.rows(['p'], [[1]], 0)
  assert row == {
    'prompt': 'p',
    'replies': [
      {'text': ' ok', 'logprob': -1.5, 'stopped': True},
      {'text': ' ok', 'logprob': -0.5, 'stopped': False},
    ],
  }
  drawn.append(generation.Reply([], float('nan'), is_stopped=True))
  with pytest.raises(InputError, match='config.run are not finite'):
    policy.rows(['p'], [[1]], 0)


def test_a_pipe_is_answered_in_order_whatever_the_batch(run, stdin):
  flags = ('json=true', 'num_samples=2')
  stdin(LINES)
  done = run(*flags)
  prompts = [
    f'\n\nHuman: how do i make {word} ?\n\nAssistant:' for word in WORDS
  ]
  assert [row['prompt'] for row in rows(done)] == prompts
  replies = [reply for row in rows(done) for reply in row['replies']]
  assert len(replies) == 6 and len({r['text'] for r in replies}) > 1
  for reply in replies:
    assert list(reply) == ['text', 'logprob', 'stopped']
    assert reply['logprob'] < 0
  cut = sum(not reply['stopped'] for reply in replies)
  said = f'hh_jax: {cut} of 6 replies were cut at config.max_reply 6\n'
  assert done.err == said * bool(cut)

  stdin(LINES)
  again = rows(run(*flags, 'batch_size=8'))
  assert [r['text'] for row in again for r in row['replies']] == [
    r['text'] for r in replies
  ]
  stdin(LINES)
  other = rows(run(*flags, 'seed=1'))
  assert other != rows(done)


def test_text_is_numbered_where_there_is_more_than_one(run, stdin, tmp_path):
  file = tmp_path / 'prompts.jsonl.gz'
  objects = [json.dumps({'prompt': line}) for line in LINES.split('\n')]
  file.write_bytes(gzip.compress('\n'.join(objects).encode()))
  stdin(LINES)
  drawn = rows(run('json=true', of='ppo'))
  shown = [row['replies'][0]['text'].strip() for row in drawn]
  done = run(f'prompts={file}', of='ppo')
  text = ''.join(f'--- {i}\n{x}\n' for i, x in enumerate(shown, 1))
  assert (done.code, done.out) == (0, text)
  stdin(LINES.split('\n')[0])
  assert run(of='ppo').out == f'{shown[0]}\n'


def load(chain, name):
  config = chain_lib.main_lib.cli.load_config(
    CONFIG, [('run', str(chain.path / name)), ('max_prompt', '48')]
  )
  there = common.read_link(config, 'run', kinds=sample.KINDS)
  tokenizer = sample.load_tokenizer(config, there)
  return sample.load_policy(config, there, tokenizer, num_prompts=1)


def test_of_a_ppo_run_the_policy_answers(chain):
  policy = load(chain, 'ppo')
  (saved, _), _ = chain_lib.checkpoint(chain.path / 'ppo')
  chex.assert_trees_all_equal(jax.device_get(policy.params), saved['policy'])
  assert policy.generator.batch_size == 4  # of four devices; not 16


def test_a_run_directory_keeps_the_replies_and_resumes(
  run, stdin, tmp_path, monkeypatch
):
  monkeypatch.setattr(sample, 'CHUNK', 2)
  folder = tmp_path / 'run'
  draw, calls = sample.Policy.rows, []

  def interrupted(self, *args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return draw(self, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(sample.Policy, 'rows', interrupted)
    stdin(LINES)
    done = run('json=true', workdir=folder)
  assert done.code == 130 and len(done.out.splitlines()) == 2
  assert done.err.endswith('hh_jax: interrupted; the same command resumes\n')
  stdin(LINES)
  resumed = run('json=true', workdir=folder)
  stdin(LINES)
  assert rows(resumed) == rows(run('json=true'))
  assert resumed.out.startswith(done.out)
  assert (folder / 'samples.jsonl').read_text() == resumed.out
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary['sample/prompts'] == summary['sample/replies'] == 3

  monkeypatch.setattr(sample, 'load_policy', None)  # not needed again
  stdin(LINES)
  assert run('json=true', workdir=folder) == resumed
  stdin(LINES.replace('soup', 'tea'))
  assert (
    'holds replies to other prompts' in run('json=true', workdir=folder).error
  )


def test_a_chat_from_the_command_line_and_its_next_day(run, stdin, tmp_path):
  folder = tmp_path / 'chat'
  stdin(Terminal('hi\n\nand you ?\n'))
  done = run('json=true', 'max_prompt=64', of='ppo', workdir=folder)
  first, second = rows(done)
  said = first['prompt'] + first['replies'][0]['text']
  assert first['prompt'] == '\n\nHuman: hi\n\nAssistant:'
  assert second['prompt'] == f'{said}\n\nHuman: and you ?\n\nAssistant:'
  stdin(Interrupted('so\n'))
  done = run('json=true', 'max_prompt=64', of='ppo', workdir=folder)
  assert done.code == 130
  assert done.err.endswith('\nhh_jax: interrupted; the same command resumes\n')
  assert 'after 2 messages' in done.err
  third = json.loads(done.out)
  assert third['prompt'].endswith('\n\nHuman: so\n\nAssistant:')
  assert chain_lib.rows(folder / 'samples.jsonl') == [first, second, third]
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary == {'sample/messages': 3}  # as many, though interrupted
  stdin(LINES)
  where = {'of': 'ppo', 'workdir': folder}
  assert 'other prompts' in run('json=true', 'max_prompt=64', **where).error


def test_a_chat_shows_text_and_ctrl_c_ends_it(run, stdin):
  stdin(Interrupted('hi\n'))
  done = run()
  assert done.code == 130 and done.out.startswith('Assistant:')
  assert done.err.endswith('\nhh_jax: interrupted\n')
  stdin(Terminal('hi\n'))
  assert 'a chat goes on from one reply' in run('num_samples=2').error


def test_a_terminal_is_not_controlled_by_a_model(monkeypatch):
  text = 'a\x1b[2J\tb\n\r\x07é\u2028'
  assert sample._shown(text) == text
  monkeypatch.setattr('sys.stdout', Terminal())
  assert sample._shown(text) == 'a\ufffd[2J\tb\n\ufffd\ufffdé\u2028'


@pytest.mark.parametrize(
  ('flag', 'says'),
  [
    ('temperature=0', 'config.temperature 0.0 is not between 1e-06 and'),
    ('temperature=1e-45', 'config.temperature 1e-45 is not between 1e-06 and'),
    ('temperature=1e999', '--config.temperature is inf: numbers have to be'),
    ('top_p=0', 'config.top_p 0.0 is not above 0'),
    ('top_p=1.5', 'config.top_p 1.5 is not above 0 and at most 1'),
    ('top_k=-1', 'config.top_k -1 is not between 0'),
    ('max_reply=0', 'config.max_reply 0 is not 1 or more'),
    ('max_prompt=0', 'config.max_prompt 0 is not 1 or more'),
    ('num_samples=0', 'config.num_samples 0 is not 1 or more'),
    ('batch_size=6', 'config.batch_size 6 is not divisible by fsdp=4'),
    ('seed=-1', 'config.seed -1'),
    ('run=', 'config.run is empty'),
    ('run=no/where', 'config.run no/where is no finished run'),
    ('tokenizer=no/where', 'no/where/tokenizer.model: No such file'),
    ('prompts=no/where.txt', 'no/where.txt: no such file'),
    ('max_prompt=5', 'prompt 1 has '),
    ('sed=1', 'nearest: seed'),
  ],
)
def test_bad_settings_are_refused_before_the_policy_is_loaded(
  run, stdin, no_model, flag, says
):
  stdin(LINES)
  assert says in run(flag).error


@pytest.mark.parametrize('kind', ['pm', 'report', 'tokenizer'])
def test_a_run_that_is_no_policy_is_refused(run, no_model, kind):
  assert f' is a {kind} run, not a pretrain or distill or' in run(of=kind).error


@pytest.mark.parametrize(
  ('data', 'says'),
  [
    (b'', 'the file is empty'),
    (b'\n\n', 'there is no prompt in'),
    (b'hi\n\xff\xfe\n', ':2: not UTF-8 text'),
    (b'hi\n\nyou\n', ':2: the prompt is empty'),
    (b'{"prompt": "\\n\\nHuman: a\\n\\nAssistant: b"}', ':1: the transcript'),
  ],
)
def test_bad_prompts_are_refused(run, no_model, tmp_path, data, says):
  file = tmp_path / 'prompts.txt'
  file.write_bytes(data)
  error = run(f'prompts={file}', workdir=tmp_path / 'run').error
  assert says in error and str(file) in error
  assert not (tmp_path / 'run').exists()


def test_an_empty_pipe_is_refused(run, stdin, no_model, monkeypatch):
  assert 'there is no prompt in stdin' in run().error
  monkeypatch.setattr('sys.stdin', None)  # as with <&-
  assert 'there is no prompt in stdin' in run().error


def test_another_tokenizer_or_none_is_refused(run, stdin, chain, tmp_path):
  texts = [f'a text about {word} {i * i}' for word in WORDS for i in range(999)]
  other = tmp_path / 'other' / 'tokenizer.model'
  size = common.load_tokenizer(str(chain.path / 'tokenizer')).vocab_size
  tokenizer_lib.train(texts, other, size)
  stdin(LINES)
  flag = f'tokenizer={other.parent}'
  error = run(flag, 'max_prompt=200').error
  assert 'pretrain was trained with another tokenizer' in error
  moved = shutil.copytree(chain.path / 'pretrain', tmp_path / 'moved')
  config = (moved / 'config.json').read_text()
  here = str(chain.path / 'tokenizer')
  (moved / 'config.json').write_text(config.replace(here, 'gone'))
  stdin(LINES)
  error = run(f'run={moved}').error
  assert 'config.tokenizer is empty, and gone, which config.run' in error

import pytest

from hh_jax import dialogue
from hh_jax.data import machine_prompts
from hh_jax.data.examples import Prompt
from hh_jax.errors import InputError


def prompt(text):
  return Prompt(f'\n\nHuman:{text}\n\nAssistant:', 'helpful')


def key(query):
  return dialogue.conversation_key(machine_prompts.as_prompt(query))


def test_human_queries_are_one_line_and_there_once():
  more = '\n\nAssistant: yes\n\nHuman: and then?\n\nAssistant:'
  given = [
    prompt(' how \n\n are you'),
    Prompt('\n\nHuman: HOW are you' + more, 'helpful'),
    prompt('  '),
    prompt(' why ?'),
  ]
  assert machine_prompts.first_lines(given) == ['how are you', 'why ?']


def test_the_context_by_hand():
  assert machine_prompts.context(['a ?', 'b']) == (
    '\n\nHuman: a ?\n\nHuman: b\n\nHuman:'
  )
  none = machine_prompts.shown(['a ?'], 0, num=0, seed=0)
  assert machine_prompts.context(none) == '\n\nHuman:'


def test_an_attempt_shows_the_same_queries_every_time():
  queries = [str(i) for i in range(30)]

  def shown(attempt, seed=0):
    return machine_prompts.shown(queries, attempt, num=10, seed=seed)

  assert shown(3) == shown(3) and len({*shown(3)}) == 10
  assert shown(3) != shown(4) and shown(3) != shown(3, seed=1)
  with pytest.raises(InputError, match='num_shown is 31, there are 30 human'):
    machine_prompts.shown(queries, 0, num=31, seed=0)


@pytest.mark.parametrize(
  ('text', 'is_ended', 'reason'),
  [
    (' what is new ?', True, None),
    (' what is new', False, 'too_long'),
    ('  ', True, 'empty'),
    (' caf\ufffd', True, 'bad_text'),
    (' a\tb', True, 'bad_text'),
    (' 1 + 1 = ?', True, 'no_letters'),
    (' Shown  one', True, 'shown'),
    (' in THE test', True, 'in_test'),
    (' in the training', True, 'in_train'),
    (' made before', True, 'repeated'),
  ],
)
def test_what_is_no_new_query(text, is_ended, reason):
  assert reason is None or reason in machine_prompts.REASONS
  found = machine_prompts.problem(
    text,
    is_ended=is_ended,
    shown_keys={key('shown one')},
    test_keys={key('in the test')},
    train_keys={key('in the training'), key('shown one')},
    made_keys={key('made before')},
  )
  assert found == reason

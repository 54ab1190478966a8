"""Human queries that a language model makes up, shown ten of people's.

Bai et al. 2022, B.1: 369k of the prompts for RL are a large language model's,
few-shot with some ten good human queries in its context. A query is one line,
here and there: '\\n\\nHuman: QUERY', without an answer, ten times, then the
marker again.
"""

from collections.abc import Container, Iterable, Sequence

import numpy as np

from hh_jax import dialogue
from hh_jax import tokenizer as tokenizer_lib
from hh_jax.data.examples import Prompt
from hh_jax.errors import InputError

# Why a query is dropped, in the order in which it is looked at.
REASONS = (
  'too_long',  # no end within the limit of tokens
  'empty',
  'bad_text',  # not UTF-8, or a control character
  'no_letters',
  'shown',  # one of those in its context
  'in_test',  # a conversation of the test set
  'in_train',
  'repeated',  # made up before
)


def first_lines(prompts: Iterable[Prompt]) -> list[str]:
  """The first human turn of each conversation once, white space as one space.

  Those of white space alone are left out.
  """
  found = {}
  for prompt in prompts:
    line = ' '.join(dialogue.first_human_turn(prompt.text).split())
    if line:
      found.setdefault(dialogue.conversation_key(prompt.text), line)
  return list(found.values())


def as_prompt(query: str) -> str:
  """'\\n\\nHuman: QUERY\\n\\nAssistant:'."""
  return f'{dialogue.HUMAN} {query}{dialogue.ASSISTANT}'


def short_enough(
  queries: Sequence[str], tokenizer: tokenizer_lib.Tokenizer, *, max_query: int
) -> list[str]:
  """The queries of at most max_query tokens, the space before them included."""
  ids = tokenizer.encode_batch([f' {query}' for query in queries])
  both = zip(queries, ids, strict=True)
  return [query for query, tokens in both if len(tokens) <= max_query]


def shown(queries: Sequence[str], attempt: int, *, num: int, seed: int):
  """The `num` queries in the context of an attempt, drawn anew for each.

  They depend on nothing but queries, seed and attempt.
  """
  if len(queries) < num:
    raise InputError(
      f'config.num_shown is {num}, there are {len(queries)} human queries of '
      'at most config.max_query tokens'
    )
  rng = np.random.default_rng((seed, attempt))
  return [queries[i] for i in rng.choice(len(queries), num, replace=False)]


def context(queries: Iterable[str]) -> str:
  """What the model goes on from."""
  return ''.join(f'{dialogue.HUMAN} {q}' for q in queries) + dialogue.HUMAN


def problem(
  text: str,
  *,
  is_ended: bool,
  shown_keys: Container[str],
  test_keys: Container[str],
  train_keys: Container[str],
  made_keys: Container[str],
) -> str | None:
  """Why a sampled text is no new query: one of REASONS, None where it is one.

  Keys are dialogue.conversation_key's, which see neither case nor white space.
  """
  if not is_ended:
    return 'too_long'
  query = text.strip()
  if not query:
    return 'empty'
  if not query.isprintable() or '\ufffd' in query:
    return 'bad_text'
  if not any(c.isalpha() for c in query):
    return 'no_letters'
  key = dialogue.conversation_key(as_prompt(query))
  for reason, keys in (
    ('shown', shown_keys),
    ('in_test', test_keys),
    ('in_train', train_keys),
    ('repeated', made_keys),
  ):
    if key in keys:
      return reason
  return None

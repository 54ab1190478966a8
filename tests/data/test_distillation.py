import numpy as np
import pytest

from hh_jax.data import distillation, gold_world, hhh_prompt, packing
from hh_jax.errors import InputError


def test_a_context_is_named_or_in_a_file(tmp_path):
  assert distillation.read_context('hhh', '') == hhh_prompt.HHH
  preface = distillation.read_context('gold_world', '')
  path = tmp_path / 'context.txt'
  path.write_text(preface + ' \n\n')
  assert distillation.read_context('', str(path)) == preface
  path.write_text(' \n')
  for name, file, message in (
    ('', '', 'want one of config.context'),
    ('hhh', str(path), 'want one of config.context'),
    ('plain', '', "'plain' is none of"),
    ('', str(path), 'is empty'),
    ('', str(tmp_path / 'none'), 'No such file'),
  ):
    with pytest.raises(InputError, match=message):
      distillation.read_context(name, file)
  path.write_bytes(b'\xff')
  with pytest.raises(InputError, match='is not UTF-8'):
    distillation.read_context('', str(path))


def test_no_context_ends_where_a_text_begins():
  """So that a text is encoded the same with and without it."""
  for text in hhh_prompt.CONTEXTS.values():
    assert text == text.rstrip() and '\n\n\n' not in text
  assert hhh_prompt.CONTEXTS['gold_world'] == gold_world.HHH_PREFACE


def test_text_is_opened_as_the_human_s():
  assert distillation.opened(' once upon \n') == '\n\nHuman: once upon'
  transcript = '\n\nHuman: hi\n\nAssistant: hello'
  assert distillation.opened(transcript) == transcript


def test_a_mixture_has_its_shares_and_each_text_once():
  texts, answers = [f't{i}' for i in range(9)], [f'a{i}' for i in range(5)]
  mix = distillation.mix
  mixed = mix(texts, answers, answers_share=0.25, total=8, seed=0)
  assert sorted(x[0] for x in mixed) == ['a'] * 2 + ['t'] * 6
  assert len(set(mixed)) == 8
  assert mixed != mix(texts, answers, answers_share=0.25, total=8, seed=1)
  # as many as there are: 9 texts are 0.75 of 12
  assert len(mix(texts, answers, answers_share=0.25, total=0, seed=0)) == 12
  assert set(mix([], answers, answers_share=1.0, total=0, seed=0)) == {*answers}
  with pytest.raises(InputError, match='needs 6 answers, there are 5'):
    mix(texts, answers, answers_share=0.5, total=12, seed=0)
  with pytest.raises(InputError, match='no text'):
    mix(texts, [], answers_share=0.5, total=0, seed=0)


def make_store(path, rows, card=None, **changes):
  fields = {'row_length': 4, 'top_k': 2, 'vocab_size': 9, 'dtype': 'float16'}
  fields = distillation.Fields(**(fields | changes))
  return distillation.Store(path, rows, fields, card or {'teacher': 'a'})


def rows_of(num, token=5):
  return packing.pack_documents([[2, token, 6, 3]] * num, row_length=4)


def block(rows, start, stop):
  n = stop - start
  values = np.arange(start * 12, stop * 12).reshape(n, 4, 3)
  return {
    'tokens': rows.tokens[start:stop],
    'top_tokens': values[..., :2] % 9,
    'logprobs': -values / 8,
  }


def test_a_store_gives_back_what_was_written_in_blocks(tmp_path):
  rows = rows_of(5)
  store = make_store(tmp_path / 'pass', rows)
  assert store.open() == 0
  store.write(0, block(rows, 0, 2))
  store = make_store(tmp_path / 'pass', rows)  # a new process
  assert store.open() == 2
  with pytest.raises(InputError, match='2 of 5 rows: the pass is not finished'):
    store.read()
  store.write(2, block(rows, 2, 5))
  stored, wanted = store.read(), block(rows, 0, 5)
  np.testing.assert_array_equal(stored.top_tokens, wanted['top_tokens'])
  np.testing.assert_array_equal(stored.logprobs, wanted['logprobs'])
  assert stored.top_tokens.dtype == np.uint16
  assert stored.logprobs.dtype == np.float16
  with pytest.raises(InputError, match='holds the pass over other texts'):
    make_store(tmp_path / 'pass', rows_of(5, token=7)).read()


def test_another_pass_under_the_same_path_is_refused(tmp_path):
  rows = rows_of(3)
  make_store(tmp_path / 'pass', rows).open()
  for store, name in (
    (make_store(tmp_path / 'pass', rows_of(2)), 'rows'),
    (make_store(tmp_path / 'pass', rows, dtype='float32'), 'fields'),
    (make_store(tmp_path / 'pass', rows, card={'teacher': 'b'}), 'teacher'),
  ):
    with pytest.raises(InputError, match=f'another pass: {name} differ'):
      store.open()
  wide = make_store(tmp_path / 'wide', rows, vocab_size=2**16 + 1)
  with pytest.raises(ValueError, match='are no rows of'):
    wide.write(0, {k: v[:, :3] for k, v in block(rows, 0, 3).items()})

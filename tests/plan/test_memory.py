"""What each option saves of a chip's memory, as the compiler has it.

Four CPU devices; docs/scaling.md has the same for a TPU.
"""

import functools

import pytest

from configs import pm, ppo
from hh_jax.plan import chips, plans

VOCAB = 2048


@functools.cache
def measured(recipe, **changes):
  """Phase -> what it takes, with fields of the config changed."""
  if recipe == 'pm':
    config = pm.get_config('mini')
    config.update(row_length=128, batch_size=32, max_pairs=4)
  else:
    config = ppo.get_config('mini')
    config.update(
      max_prompt=32, max_reply=32, batch_size=64, num_minibatches=2,
      head_chunk=64, eval_batch_size=64,
    )  # fmt: skip
  flags = {name.replace('__', '.'): value for name, value in changes.items()}
  found = plans.compiled(
    plans.changed(config, flags), chips.parse('cpu:4'), plans.Asked(VOCAB)
  )
  return {of.name: of for of in found.phases}


def saved(recipe, phase, what, option):
  """Share of the bytes that an option, {key: (before, after)}, saves."""
  before, after = (
    getattr(
      measured(recipe, **{k: v[i] for k, v in option.items()})[phase], what
    )
    for i in range(2)
  )
  return 1 - after / before


@pytest.mark.slow
@pytest.mark.parametrize(
  ('recipe', 'phase', 'what', 'option', 'at_least'),
  [
    ('pm', 'train', 'temporaries', {'model__remat': ('none', 'full')}, 0.1),
    ('ppo', 'update', 'temporaries', {'num_micro_batches': (1, 4)}, 0.1),
    ('ppo', 'update', 'temporaries', {'head_chunk': (4096, 64)}, 0.1),
    ('ppo', 'score', 'temporaries', {'head_chunk': (4096, 64)}, 0.1),
    ('ppo', 'sample', 'temporaries', {'slots': (0, 16)}, 0.1),
    (
      'pm', 'train', 'arguments',
      {'optimizer__moments_dtype': ('float32', 'bfloat16')}, 0.3,
    ),
  ],
)  # fmt: skip
def test_an_option_saves(recipe, phase, what, option, at_least):
  assert saved(recipe, phase, what, option) >= at_least

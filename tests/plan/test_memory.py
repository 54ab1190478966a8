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


MIB = 2**20
# On one of four chips: logits of all replies, float32, and of a minibatch.
LOGITS = 64 * 32 // 4 * VOCAB * 4
LAYERS, D = 3, 128
PARAMS = LAYERS * (12 * D * D + 2 * D) + VOCAB * D


@pytest.mark.slow
@pytest.mark.parametrize(
  ('recipe', 'phase', 'what', 'option', 'at_least'),
  [
    # measured: 82.8 to 17.1 MiB, 84.4 to 23.1, 72.2 to 24.0, 74.6 to 72.2,
    # 16.0 to 8.0, 9.0 to 5.8
    (
      'pm', 'train', 'temporaries',
      {'model__remat': ('none', 'full')}, 50 * MIB,
    ),
    ('pm', 'train', 'temporaries', {'num_micro_batches': (1, 4)}, 55 * MIB),
    ('ppo', 'update', 'temporaries', {'num_micro_batches': (1, 4)}, 36 * MIB),
    ('ppo', 'update', 'temporaries', {'head_chunk': (4096, 64)}, LOGITS / 2),
    ('ppo', 'score', 'temporaries', {'head_chunk': (4096, 64)}, LOGITS),
    ('ppo', 'sample', 'temporaries', {'slots': (0, 16)}, 2 * MIB),
    (
      'pm', 'train', 'arguments',
      {'optimizer__moments_dtype': ('float32', 'bfloat16')},
      PARAMS / 4 * 2 * 2,  # two bytes of two moments
    ),
  ],
)  # fmt: skip
def test_an_option_saves(recipe, phase, what, option, at_least):
  """At least so many bytes of a chip; `option` is {key: (before, after)}."""
  before, after = (
    getattr(of[phase], what)
    for of in (
      measured(recipe, **{name: pair[i] for name, pair in option.items()})
      for i in range(2)
    )
  )
  assert before - after >= at_least, (before, after)

"""The plans of docs/scaling.md: seven sizes on slices that can hold them.

  python -m hh_jax plan --sweep --config=configs/scaling.py --quick --fix \\
    --steps=574 --kept=results/scaling.jsonl --write=docs/scaling.md

Slices are the smallest, to a factor of two, that hold parameters, moments and
frozen networks with room for activations; our choice. 64 rows a batch of
comparisons (some 280 pairs, so 574 steps are an epoch of 161k) and 256 replies
an iteration, as configs/ppo.py has it. `:pm` and `:ppo` have half of the plans
each.
"""

from configs import common

# Size -> slices of v5e, v5p and v6e; degree of mesh.model.
PM = {
  '13M': ('2x2', '2x2x1', '2x2', 1),
  '42M': ('2x2', '2x2x1', '2x2', 1),
  '197M': ('2x2', '2x2x1', '2x2', 1),
  '810M': ('2x4', '2x2x1', '2x2', 1),
  '2.7B': ('4x4', '2x2x2', '2x4', 1),
  '13B': ('8x8', '2x4x4', '4x8', 4),
  '52B': ('16x16', '4x4x4', '8x16', 4),
}
PPO = {
  '13M': ('2x2', '2x2x1', '2x2', 1),
  '42M': ('2x2', '2x2x1', '2x2', 1),
  '197M': ('2x4', '2x2x1', '2x2', 1),
  '810M': ('4x4', '2x2x2', '2x4', 1),
  '2.7B': ('4x8', '2x4x4', '4x4', 1),
  '13B': ('8x16', '4x4x4', '8x8', 4),
  '52B': ('16x16', '4x8x8', '16x16', 4),
}
SAVES = 'model.dtype=bfloat16 model.remat=full'
BOTH = (
  f'{SAVES} pm_model.dtype=bfloat16 pm_model.remat=full decode_params=gathered'
)
PAIRS = f'{SAVES} batch_size=64'


def cells(file: str, sizes: dict, overrides: str) -> tuple:
  return tuple(
    f'configs/{file}.py:{size} {chip}:{slice_} mesh.model={degree} {overrides}'
    for size, (*slices, degree) in sizes.items()
    for chip, slice_ in zip(('v5e', 'v5p', 'v6e'), slices, strict=True)
  )


def weak(file: str, rows: int, overrides: str) -> tuple:
  """`rows` a chip on growing slices, with heads and MLP over four."""
  slices = {
    64: '4x4x4',
    128: '4x4x8',
    256: '4x8x8',
    512: '8x8x8',
    1024: '8x8x16',
  }
  return tuple(
    f'configs/{file}.py:52B v5p:{slice_} mesh.model=4 '
    f'batch_size={chips * rows} {overrides}'
    for chips, slice_ in slices.items()
  )


def get_config(size=None):
  pms, ppos = cells('pm', PM, PAIRS), cells('ppo', PPO, BOTH)
  chosen = {'all': pms + ppos, 'pm': pms, 'ppo': ppos}
  return common.config(
    cells=common.choose(size, chosen, 'all'),
    # one cell, and what single changes of it do to its memory
    saving=f'configs/ppo.py:810M v5p:2x2x2 {BOTH}',
    changes=(
      'model.remat=none pm_model.remat=none',
      'num_micro_batches=4',
      'head_chunk=1024',
      'slots=64',
      'optimizer.moments_dtype=bfloat16',
    ),
    # rows a chip fixed; the law of the first cells is checked on the others
    weak_pm=weak('pm', 1, SAVES),
    weak_ppo=weak('ppo', 1, BOTH),
    beyond=(2048, 4096),  # chips
  )

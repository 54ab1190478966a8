"""Preference models: learning rates x seeds.

  python -m hh_jax sweep --config=configs/sweep.py --workdir=runs/sweep \\
    --config.overrides='tokenizer=runs/tokenizer init_from=runs/pretrain'

Sizes need a pretraining run each: cells of 'size=13M init_from=runs/13M'.
"""

from configs import common


def get_config():
  return common.sweep(
    'pm',
    'configs/pm.py',
    common.grid(size=('small',), optimizer__lr=(1e-4, 3e-4), seed=(0, 1, 2)),
    columns=('eval/accuracy', 'eval/accuracy_low', 'eval/accuracy_high'),
  )

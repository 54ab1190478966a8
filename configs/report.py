"""One page about finished runs.

  python -m hh_jax report --config=configs/report.py --workdir=runs/report \\
    --config.pretrain=runs/pretrain --config.pm=runs/pm --config.ppo=runs/ppo

The rest may be left out.
"""

from configs import common


def get_config(size=None):
  common.choose(size, {'': None}, '')
  return common.config(pretrain='', pm='', heldout_pm='', ppo='', best_of_n='')

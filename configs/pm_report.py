"""The report card of a finished preference model.

  python -m hh_jax pm_report --config=configs/pm_report.py \\
    --workdir=runs/pm_report --config.pm=runs/pm \\
    --config.tokenizer=runs/tokenizer --config.hhh=DIR/hhh_alignment.jsonl.gz \\
    --config.bbq="('DIR/Age.jsonl.gz', 'DIR/Religion.jsonl.gz')"

Sizes: own (default) takes the test comparisons of the PM's own data, hh_rlhf
and gold_world those of a `data` section. Thresholds span Fig 25 of Bai et al.
2022; the other numbers are our choice.
"""

from configs import common

DATA = {
  'own': lambda: None,
  'hh_rlhf': common.hh_rlhf,
  'gold_world': common.gold_world,
}


def get_config(size=None):
  data = common.choose(size, DATA, 'own')
  return common.config(
    pm='',
    ensemble=common.ensemble(),
    tokenizer='',
    name='',  # in tables and rewardbench.json; '': by the run's directory
    data=data(),
    drop_overlap=False,  # test pairs of the PM's training conversations
    hhh='',
    reward_bench='',
    xstest='',
    bbq=(),  # files
    compare=(),  # result files in RewardBench's layout
    rater_agreement=0.0,  # of two raters; 0: not known, no ceiling from it
    seed=0,
    mesh=common.mesh(),
    row_length=0,  # 0: as the PM's run
    max_pairs=0,
    batch_size=16,
    thresholds=(-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
    length_share=0.1,  # replies of about one length: of the longer one
    num_bins=10,
    histogram_bins=40,
    num_samples=1000,  # of the bootstrap
    invariance_pairs=128,
  )

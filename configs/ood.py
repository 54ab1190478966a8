"""OOD detection by the activations of a finished run (Bai et al. 2022, 5.4).

  python -m hh_jax ood --config=configs/ood.py --workdir=runs/ood \\
    --config.run=runs/pretrain --config.tokenizer=runs/tokenizer \\
    --config.inliers=DIR/helpful.jsonl.gz \\
    --config.outliers=DIR/harmless.jsonl.gz

Sizes: files (default) reads two files of prompts, a {"prompt": TRANSCRIPT} a
line, or --config.xstest; hh_rlhf and gold_world take the training comparisons
of a `data` section. Ten outliers shown and 5 draws are the paper's; the other
numbers are our choice.
"""

from configs import common

DATA = {
  'files': lambda: None,
  'hh_rlhf': common.hh_rlhf,
  'gold_world': common.gold_world,
}


def get_config(size=None):
  data = common.choose(size, DATA, 'files')
  return common.config(
    run='',  # any with a model; of ppo its policy
    tokenizer='',
    inliers='',
    outliers='',
    xstest='',  # safe prompts are inliers, unsafe ones outliers
    data=data(),  # helpful prompts are inliers, harmless ones outliers
    test_share=0.2,  # of the inliers; the rest is fitted
    max_fit=0,  # prompts, 0: all
    max_test=0,
    max_outliers=0,
    max_prompt=128,  # tokens
    layers=(),  # 1 .. L, (): all
    exposures=(1, 3, 10, 30),  # outliers shown to the linear layer
    ridge=1e-3,  # times the mean variance
    weight_decay=1e-2,
    num_splits=5,
    num_samples=1000,  # of the bootstrap
    seed=0,
    batch_size=64,
    mesh=common.mesh(),
  )

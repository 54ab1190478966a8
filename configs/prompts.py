"""Machine-made prompts for RL (Bai et al. 2022, B.1).

  python -m hh_jax prompts --config=configs/prompts.py:13M \\
    --workdir=runs/prompts --config.tokenizer=runs/tokenizer \\
    --config.init_from=runs/pretrain

The paper showed a large language model some ten good human queries and sampled
the next, 369k in all. Ours are the first turns of the training prompts of
`data`, ten others each time: --config.data.options.train="('helpful-base',)"
shows helpful ones alone. The result is for `ppo`, with any source:
--config.prompt_files="('runs/prompts/prompts.jsonl.gz',)". The other numbers
are our choice. A model too small to learn from its context does better with
num_shown=0: it then opens a dialogue as its training documents do.
"""

from configs import common, pretrain


def get_config(size=None):
  common.choose(size, pretrain.SIZES, 'small')  # refuses what is none
  return common.config(
    seed=0,
    data=common.hh_rlhf(),
    mesh=common.mesh(),
    tokenizer='',
    model=common.model(size or 'small'),
    init_from='',
    num_prompts=10_000,
    num_shown=10,
    max_query=64,  # tokens, of those shown and of those made
    max_attempts=100_000,  # a refusal that says why comes after so many
    temperature=1.0,
    top_p=1.0,  # the fewest tokens whose probabilities reach it
    batch_size=64,
  )

"""Best-of-n sampling, and rejection sampling (Bai et al. 2022, B.6).

  python -m hh_jax best_of_n --config=configs/best_of_n.py:13M \\
    --workdir=runs/best_of_n --config.tokenizer=runs/tokenizer \\
    --config.run=runs/pretrain --config.pm=runs/pm

The paper shows k = 1, 4, 16 and 64. With --config.split=train the best reply to
each training prompt is kept in best.jsonl.gz, for supervised fine-tuning:
--config.num_prompts=0 takes all prompts.
"""

from configs import common, ppo

# What replies are sampled and judged with is PPO's, so that both compare.
SAMPLING = (
  'data',
  'mesh',
  'tokenizer',
  'seed',
  'model',
  'pm_model',
  'pm',
  'ensemble',
  'heldout_pm',
  'max_prompt',
  'max_reply',
  'temperature',
  'slots',
  'head_chunk',
  'no_stop_penalty',  # of the score that ranks; 0: the PM's alone
)


def get_config(size=None):
  policy = ppo.get_config(size)
  return common.config(
    **{name: policy[name] for name in SAMPLING},
    run='',  # whose replies: pretrain, distill, sft, or ppo: its policy
    split='test',
    num_prompts=256,  # spread over all that fit; 0: all
    num_samples=64,  # a prompt
    ks=(1, 4, 16, 64),  # named in the summary; it has the curve of all k
    batch_size=256,  # replies
    chunk_prompts=64,  # an interrupted run goes on after the last chunk
  )

"""Replies of a finished run to prompts of yours, or a chat with it.

  python -m hh_jax sample --config=configs/sample.py --config.run=runs/ppo

Without config.prompts they come from a pipe, one prompt a line; at a terminal
it is a chat. --workdir=DIR is not needed: it keeps the replies, as
DIR/samples.jsonl. Temperature 1 without top-k and top-p is what a policy was
trained at; the other numbers are our choice.
"""

from configs import common


def get_config(size=None):
  common.choose(size, {'': None}, '')
  return common.config(
    run='',  # pretrain, distill, sft, or ppo: its policy; RUN, RUN@STEP
    tokenizer='',  # '': that of the run
    prompts='',  # a file of lines, or of {"prompt": ...}; '': stdin, or a chat
    json=False,  # print an object a prompt
    temperature=1.0,
    top_k=0,  # 0: all
    top_p=1.0,
    max_prompt=512,  # tokens
    max_reply=128,
    num_samples=1,  # replies a prompt
    batch_size=16,  # prompts
    seed=0,
    mesh=common.mesh(),
  )

"""Supervised fine-tuning on replies, at the sizes of Bai et al. 2022.

  python -m hh_jax sft --config=configs/sft.py:13M --workdir=runs/sft \\
    --config.tokenizer=runs/tokenizer --config.init_from=runs/pretrain

learns the chosen replies of the training comparisons. Other replies, such as
the best of n samples (`best_of_n` with split=train: rejection-sampling
fine-tuning), come from gzipped lines of {"prompt": ..., "reply": ...}:

    --config.files="('runs/best_of_n/best.jsonl.gz',)"

Bai et al. 2022 have no such stage; all numbers are our choice.
"""

from configs import common, pretrain


def get_config(size=None):
  _, lr = common.choose(size, pretrain.SIZES, 'small')
  return common.config(
    **common.run(),
    files=(),  # dialogues to train on; (): the chosen replies of `data`
    max_broken=0.01,  # share of broken rows that a file may have
    drop_overlap=False,  # test pairs of training conversations: warn only
    model=common.model(size or 'small'),
    init_from='',
    row_length=1024,
    batch_size=32,  # rows
    num_micro_batches=1,  # of a batch: less memory, the same step
    num_epochs=1,
    optimizer=common.optimizer(0.1 * lr, schedule='linear', warmup_steps=20),
    head_chunk=4096,  # tokens whose logits exist at a time
    eval_rows=256,
    eval_every=200,
    save_every=200,
  )

"""Language-model pretraining at the sizes of Bai et al. 2022 (A.2).

  python -m hh_jax pretrain --config=configs/pretrain.py:13M \\
    --config.tokenizer=runs/tokenizer --workdir=runs/pretrain

The paper pretrained on 400B tokens of a private corpus with context 8192 and
does not state its learning rates; ours follow GPT-3's table (Brown et al. 2020,
2.1) by size. Every later stage's rate is a multiple of these.
"""

from configs import common

# rows a batch, learning rate
SIZES = {
  'tiny': (16, 3e-3),
  'mini': (16, 3e-3),
  'small': (16, 2e-3),
  '13M': (256, 6e-4),
  '42M': (256, 6e-4),
  '197M': (512, 4e-4),
  '810M': (512, 2.5e-4),
  '2.7B': (1024, 1.6e-4),
  '13B': (1024, 1e-4),
  '52B': (2048, 6e-5),
}


def get_config(size=None):
  batch_size, lr = common.choose(size, SIZES, 'small')
  return common.config(
    **common.run(),
    model=common.model(size or 'small'),
    init_from='',
    row_length=1024,
    batch_size=batch_size,
    num_micro_batches=1,  # of a batch: less memory, the same step
    num_steps=20_000,
    optimizer=common.optimizer(
      lr, schedule='cosine', warmup_steps=500, weight_decay=0.1
    ),
    head_chunk=4096,  # tokens whose logits exist at a time
    eval_rows=256,
    eval_every=1000,
    save_every=1000,
  )

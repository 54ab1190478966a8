"""Preference models on human comparisons at the sizes of Bai et al. 2022.

  python -m hh_jax pm --config=configs/pm.py:13M --workdir=runs/pm \\
    --config.tokenizer=runs/tokenizer --config.init_from=runs/pretrain

One epoch, context 1024, learning rate 0.01 x pretraining (A.2); batch size and
optimizer are not stated there. Expect an accuracy of .64 (13M) to .72 (52B) on
the static test set (Fig 7) for models pretrained as the paper's.
"""

from configs import common, pretrain


def get_config(size=None):
  _, lr = common.choose(size, pretrain.SIZES, 'small')
  return common.config(
    **common.run(),
    model=common.model(size or 'small'),
    init_from='',
    part=0,  # of num_parts by conversation: halves train two PMs (4.2)
    num_parts=1,
    drop_overlap=False,  # test pairs of training conversations: warn only
    row_length=1024,
    max_pairs=16,  # a row
    batch_size=16,  # rows, some 70 pairs
    num_micro_batches=1,  # of a batch: less memory, the same step
    num_epochs=1,
    objective='ranked',  # 'binary', 'imitation' (Askell et al. 2021)
    rank_by='mean',  # 'sum', 'mutual_information'; for imitation
    label_smoothing=0.0,
    centring=0.0,  # times the mean of (r_chosen + r_rejected)^2
    lm_coef=0.0,  # times the language-model loss of the chosen reply
    harmless_weight=1.0,  # helpful + this x harmless (Fig 27)
    # a fixed number of pairs at a share of helpful ones; total=0: all there are
    mixture=common.config(total=0, helpful_share=0.5, seed=0),
    optimizer=common.optimizer(0.01 * lr, warmup_steps=20),
    eval_rows=256,  # while training; the summary has all of them
    eval_every=500,
    save_every=500,
  )

"""Context distillation at the sizes of Bai et al. 2022 (A.1).

  python -m hh_jax distill --config=configs/distill.py:13M \\
    --workdir=runs/distill --config.tokenizer=runs/tokenizer \\
    --config.init_from=runs/pretrain --config.teacher=runs/pretrain \\
    --config.answers.options.files="('questions.jsonl.gz',)"

Half of the texts are `data` after an opening 'Human:', half are questions of
`answers` with the best answer. Batches of 32, 0.05 x the pretraining rate with
linear decay to 0, and 350M tokens are the paper's, as is one teacher, the
largest model, for all students: --config.teacher_model.size=52B. The paper's
context is not ours to ship: see hh_jax/data/hhh_prompt.py, or name a file.
Expect the KL of a student that is its own teacher to fall to nearly 0 (Fig 30).
"""

from configs import common, pretrain


def get_config(size=None):
  _, lr = common.choose(size, pretrain.SIZES, 'small')
  model = common.model(size or 'small')
  return common.config(
    **common.run(),
    answers=common.stack_exchange(),
    answers_share=0.5,
    num_texts=0,  # training texts; 0: as many as there are at that share
    context='hhh',  # 'gold_world'; or '' and a file
    context_file='',
    model=model,
    init_from='',
    teacher='',
    teacher_model=model.copy_and_resolve_references(),
    stored='',  # a distill run whose teacher's pass to read, '': make one
    stored_dtype='float32',  # or float16: rounds log-probs by 5e-4 of them
    top_k=50,
    teacher_batch_size=32,  # rows
    row_length=1024,
    batch_size=32,  # rows
    num_micro_batches=1,  # of a batch: less memory, the same step
    num_steps=10_700,  # 350M tokens
    optimizer=common.optimizer(0.05 * lr, schedule='linear'),
    head_chunk=4096,  # tokens whose logits exist at a time
    eval_texts=512,
    exact_rows=8,  # on which the KL is also summed over the whole vocabulary
    eval_every=500,
    save_every=500,
  )

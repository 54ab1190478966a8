"""The whole chain on real comparisons: harmless-base, on a CPU.

  make demo CONFIG=configs/demo_hh.py WORKDIR=runs/demo_hh

downloads the two harmless-base files and the helpful-base test file to
data/cache; those that lie in data_dir are used as they are. The training
PM and the held-out PM each learn from half of the conversations. Both learn
from red-teaming comparisons alone, so expect less than one half on helpful
pairs (Bai et al. 2022, Fig 19). Sizes: full (default), short (a smoke test);
or a stage's name, for that stage alone (see configs/demo.py), with
--config.data.options.data_dir=DIR.
"""

import ml_collections

from configs import common, demo, pipeline

SIZES = {
  # train pairs, test pairs a set (0: all), pretraining steps, PPO iterations,
  # evaluation prompts
  'full': (0, 0, 1000, 20, 256),
  'short': (400, 100, 10, 2, 16),
}


def get_config(size=None):
  if size in demo.STAGES:
    return pipeline.alone(get_config(), size)
  num_pairs, num_test, steps, iterations, eval_prompts = common.choose(
    size, SIZES | dict.fromkeys(demo.STAGES), 'full'
  )
  data = common.hh_rlhf()
  # one flag for all stages: --config.data_dir=DIR
  data_dir = ml_collections.FieldReference(data.options.data_dir)
  data.options.update(
    data_dir=data_dir,
    train=('harmless-base',),
    test=('harmless-base', 'helpful-base'),
    max_train_pairs=num_pairs,
    max_test_pairs=num_test,
  )
  config = pipeline.get_config(data, 'mini', row_length=512)
  config.data_dir = data_dir
  config.tokenizer.vocab_size = 4096
  config.tokenizer.max_documents = 20_000
  config.pretrain.update(num_steps=steps, batch_size=8, eval_rows=64)
  for pm in (config.pm, config.heldout_pm):
    pm.update(max_pairs=8, batch_size=8, eval_every=250)
  config.ppo.update(
    max_prompt=128,
    max_reply=48,
    num_iterations=iterations,
    eval_prompts=eval_prompts,
    eval_samples=2,
    eval_batch_size=64,
  )
  config.best_of_n.update(num_prompts=min(eval_prompts, 64), batch_size=64)
  return config

"""The whole chain on the gold world, in minutes on two CPU cores.

`make demo` runs it. The data is a simulator's (hh_jax/data/gold_world.py): it
proves the machinery, not alignment. Sizes: full (default), short (for CI, too
small for its numbers to mean much); or a stage's name, for that stage alone:

  python -m hh_jax pm --config=configs/demo.py:pm --workdir=runs/pm \\
    --config.tokenizer=runs/tokenizer --config.init_from=runs/pretrain
"""

from configs import common, pipeline

SIZES = {
  # pretraining steps, PM pairs, test pairs, PPO iterations and those between
  # evaluations, evaluation prompts
  'full': (400, 20_000, 4_000, 18, 3, 64),
  'short': (60, 1_000, 200, 3, 1, 16),
}


STAGES = ('tokenizer', 'pretrain', 'pm', 'heldout_pm', 'ppo')


def get_config(size=None):
  if size in STAGES:
    return get_config()[size]
  if size == 'pmp':
    return _pmp(get_config().pm)
  steps, num_pairs, num_test, iterations, eval_every, eval_prompts = (
    common.choose(size, SIZES | dict.fromkeys((*STAGES, 'pmp')), 'full')
  )
  data = common.gold_world()
  data.options.num_documents = 14_000  # what the steps use
  data.options.num_pairs = num_pairs
  data.options.num_test = num_test
  config = pipeline.get_config(data, 'mini', row_length=128)
  config.tokenizer.vocab_size = 768  # a token a word
  config.pretrain.update(num_steps=steps, eval_rows=64)
  for pm in (config.pm, config.heldout_pm):
    pm.update(max_pairs=4, eval_rows=128, eval_every=100)
  config.ppo.update(
    max_prompt=64,
    max_reply=32,
    num_iterations=iterations,
    eval_every=eval_every,
    eval_prompts=eval_prompts,
  )
  return config


def _pmp(config):
  config.data = common.gold_web()
  config.data.options.num_questions = 1_000
  config.update(part=0, num_parts=1, lm_coef=1.0)
  return config

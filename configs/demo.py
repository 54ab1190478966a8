"""The whole chain on the gold world, in minutes on two CPU cores.

`make demo` runs it. The data is a simulator's (hh_jax/data/gold_world.py): it
proves the machinery, not alignment. Sizes: full (default), short (for CI, too
small for its numbers to mean much); or a stage's name, for that stage alone:

  python -m hh_jax pm --config=configs/demo.py:pm --workdir=runs/pm \\
    --config.tokenizer=runs/tokenizer --config.init_from=runs/pretrain
"""

from configs import common, distill, pipeline, prompts, sft

SIZES = {
  # pretraining steps, PM pairs, test pairs, PPO iterations and those between
  # evaluations, evaluation prompts (of best of n too)
  'full': (400, 20_000, 4_000, 18, 3, 64),
  'short': (60, 1_000, 200, 3, 1, 16),
}


STAGES = ('tokenizer', 'pretrain', 'pm', 'heldout_pm', 'ppo', 'best_of_n')


def get_config(size=None):
  if size in STAGES:
    return pipeline.alone(get_config(), size)
  if size in BESIDE:
    return BESIDE[size](get_config())
  steps, num_pairs, num_test, iterations, eval_every, eval_prompts = (
    common.choose(size, SIZES | dict.fromkeys((*STAGES, *BESIDE)), 'full')
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
  config.best_of_n.num_prompts = eval_prompts
  return config


def _pmp(chain):
  config = chain.pm
  config.data = common.gold_web()
  config.data.options.num_questions = 1_000
  config.update(part=0, num_parts=1, lm_coef=1.0)
  return config


def _distill(chain):
  """The simulator's preface, into a student that is its own teacher."""
  config = distill.get_config('mini')
  config.data, config.answers = chain.pretrain.data, common.gold_web()
  config.data.options.preface_share = 0.0  # texts without the context
  config.model.scan_unroll = config.teacher_model.scan_unroll = 3
  config.update(
    context='gold_world',
    num_texts=6_000,
    row_length=128,
    num_steps=150,
    eval_every=50,
    save_every=150,
  )
  config.optimizer.update(lr=3e-4)
  return config


def _sft(chain):
  config = sft.get_config('mini')
  config.data = chain.pm.data
  config.model.scan_unroll = 3
  config.update(row_length=128)
  return config


def _prompts(chain):
  config = prompts.get_config('mini')
  config.data = chain.ppo.data
  config.model.scan_unroll = 3
  config.update(
    num_prompts=500,
    num_shown=0,  # this model knows dialogues of one first turn only
    max_query=32,
    max_attempts=20_000,  # most of what it says is in the small test set
  )
  return config


# beside the chain
BESIDE = {
  'pmp': _pmp,
  'distill': _distill,
  'sft': _sft,
  'prompts': _prompts,
}

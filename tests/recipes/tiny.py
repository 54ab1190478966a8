"""A config of the smallest chain that runs, or of one of its stages.

Sizes: a stage's name for that stage alone; pmp reads the
gold web, distill, sft and prompts are no stages of the chain, pm_hh and
tokenizer_hh read
HH-RLHF files from config.data.options.data_dir instead of the gold world.
"""

from configs import common, distill, pipeline, prompts, sft


def get_config(size=None):
  if size in BESIDE:
    return BESIDE[size]()
  stage = (size or '').removesuffix('_hh')
  data = common.hh_rlhf() if size and size.endswith('_hh') else _gold_world()
  config = pipeline.get_config(data, 'mini', row_length=128)
  config.tokenizer.vocab_size = 400
  config.pretrain.update(num_steps=4, head_chunk=512)
  config.ppo.update(
    max_prompt=48,
    max_reply=8,
    batch_size=8,
    num_iterations=3,
    num_epochs=2,
    num_minibatches=2,
    kl_coef=0.1,
    head_chunk=64,
    eval_every=2,
    eval_prompts=5,
    eval_samples=2,
    eval_batch_size=8,
    save_every=2,
  )
  # large enough that three iterations move the policy
  config.ppo.optimizer.update(lr=3e-3, warmup_steps=0)
  for part in (config.pretrain, config.pm, config.heldout_pm):
    part.update(batch_size=4, eval_rows=4, eval_every=2, save_every=2)
  for part in (config.pm, config.heldout_pm):
    part.max_pairs = 4
  for part in ('pretrain', 'pm', 'heldout_pm', 'ppo'):
    config[part].model.update(size='tiny', scan_unroll=1)
  config.ppo.pm_model.update(size='tiny', scan_unroll=1)
  config.best_of_n.update(
    num_prompts=5, num_samples=4, ks=(1, 4), batch_size=8, chunk_prompts=3
  )  # chunks that no batch divides
  if stage == 'pmp':
    config.pm.data = _gold_web()
    config.pm.lm_coef = 1.0
    return config.pm
  return pipeline.alone(config, stage) if stage else config


def _gold_world():
  data = common.gold_world()
  data.options.update(
    num_documents=60, num_pairs=60, num_prompts=40, num_test=16
  )
  return data


def _gold_web():
  data = common.gold_web()
  data.options.update(num_questions=20, num_test=8)
  return data


def _distill():
  config = distill.get_config('tiny')
  config.data, config.answers = _gold_world(), _gold_web()
  config.update(
    context='gold_world',
    row_length=128,
    top_k=20,
    teacher_batch_size=4,
    batch_size=4,
    num_steps=6,
    head_chunk=200,
    eval_texts=8,
    exact_rows=4,
    eval_every=3,
    save_every=3,
  )
  # large enough that six steps close some of the gap
  config.optimizer.update(lr=1e-3)
  return config


def _sft():
  config = sft.get_config('tiny')
  config.data = _gold_world()
  config.update(
    row_length=128,
    batch_size=4,
    head_chunk=512,
    eval_rows=4,
    eval_every=4,
    save_every=2,
  )
  config.optimizer.update(lr=3e-3, warmup_steps=0)
  return config


def _prompts():
  config = prompts.get_config('tiny')
  config.data = _gold_world()
  config.update(
    num_prompts=10,
    num_shown=3,
    max_query=32,
    max_attempts=64,
    batch_size=8,
  )
  return config


BESIDE = {'distill': _distill, 'sft': _sft, 'prompts': _prompts}

"""All stages for a model that trains on a CPU; the demos change the numbers.

Rates are far above the paper's multiples of the pretraining rate: these models
see a millionth of its tokens.
"""

from configs import best_of_n, common, pm, ppo, pretrain, report

LINKS = {'tokenizer', 'pm', 'heldout_pm'}  # of stages, to stages before them


def get_config(data, size, *, row_length):
  config = common.config(
    tokenizer=common.config(data=data, vocab_size=0, max_documents=20_000),
    pretrain=pretrain.get_config(size),
    pm=pm.get_config(size),
    heldout_pm=pm.get_config(size),
    ppo=ppo.get_config(size),
    best_of_n=_best_of_n(size),
    report=report.get_config(),
  )
  for stage in (config.pretrain, config.pm, config.heldout_pm, config.ppo):
    stage.data = data
    stage.model.scan_unroll = 3
  config.ppo.pm_model.scan_unroll = 3
  config.pretrain.update(
    row_length=row_length,
    batch_size=16,
    optimizer=common.optimizer(3e-3, schedule='linear', warmup_steps=50),
    eval_every=100,
    save_every=500,
  )
  for part, stage in enumerate((config.pm, config.heldout_pm)):
    stage.update(
      seed=part,
      part=part,
      num_parts=2,  # train PM and held-out PM: halves (Bai et al. 2022, 4.2)
      row_length=row_length,
      batch_size=16,
      optimizer=common.optimizer(5e-4, schedule='linear', warmup_steps=20),
    )
  config.ppo.update(
    batch_size=128,
    optimizer=common.optimizer(5e-5, warmup_steps=10),
    eval_every=4,
    save_every=20,
  )
  return config


def _best_of_n(size):
  """What best of n does not share with PPO; the pipeline fills in the rest."""
  stage = best_of_n.get_config(size)
  for name in set(best_of_n.SAMPLING) - LINKS:
    del stage[name]
  stage.update(num_prompts=64, num_samples=16, ks=(1, 4, 16))
  return stage


def alone(chain, stage):
  """The section of one stage of a chain, whole: for that stage alone."""
  section = chain[stage]
  if stage == 'best_of_n':
    shared = {n: chain.ppo[n] for n in best_of_n.SAMPLING if n not in LINKS}
    section.update(shared)
  return section

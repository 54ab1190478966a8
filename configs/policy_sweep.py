"""What the figures about policies train: sizes, data, seeds.

  python -m experiments.fig13_reward_vs_sqrt_kl --scale=cpu \\
    --workdir=runs/policy_sweep

Scales: cpu (default; gold world), cpu_hh (the harmless-base files alone), gpu
(gold world), gpu_hh and pod (static HH-RLHF; pod has the sizes of Bai et al.
2022), smoke (seconds, for tests). experiments/policy_runs.py fills in each
stage's model size, learning rate, seed and links. As in the paper's 4.2 the
training PM and the test PM learn from halves of the conversations, and K is 2.
"""

import ml_collections

from configs import best_of_n, common, pipeline, pretrain


def get_config(size=None):
  return common.choose(size, SCALES, 'cpu')()


def _config(data, *, sizes, rates, row_length, scan_unroll=1, **fields):
  """The stages, and what is swept; `rates` are pretraining rates by size."""
  chain = pipeline.get_config(data, 'small', row_length=row_length)
  config = common.config(
    tokenizer=chain.tokenizer,
    pretrain=chain.pretrain,
    pm=chain.pm,
    ppo=chain.ppo,
    best_of_n=best_of_n.get_config('small'),
    sizes=sizes,  # Fig 33: of policies and of test PMs
    size=sizes[-1],  # of policy and PMs in Figs 4, 13 and 36
    rates=rates,
    pm_rate=1 / 6,  # x the pretraining rate
    ppo_rate=1 / 60,
    num_seeds=5,
    language_models=5,  # a size; seed s starts from number s % this
    total=0,  # comparisons that each PM learns from, 0: its half
    helpful_share=0.7,  # of them, where there is a total
  )
  config.best_of_n.data = data
  config.ppo.update(num_epochs=2, num_minibatches=4)
  for stage in (config.pretrain, config.pm, config.ppo):
    stage.optimizer.update(lr=0.0, schedule='constant', warmup_steps=10)
  for stage in (config.pretrain, config.pm, config.ppo, config.best_of_n):
    stage.model.update(size=sizes[0], scan_unroll=scan_unroll)
  for stage in (config.ppo, config.best_of_n):
    stage.pm_model.update(size=sizes[0], scan_unroll=scan_unroll)
  config.update(fields)
  return config


def _replies(config, **fields):
  """Prompt and reply lengths, alike for both ways to optimise."""
  for stage in (config.ppo, config.best_of_n):
    stage.update(fields)


def _gold(*, num_documents, num_pairs, num_prompts, num_test):
  data = common.gold_world()
  data.options.update(
    num_documents=num_documents,
    num_pairs=num_pairs,
    num_prompts=num_prompts,
    num_test=num_test,
  )
  return data


def cpu():
  data = _gold(
    num_documents=10_000, num_pairs=12_000, num_prompts=8_000, num_test=1_000
  )
  config = _config(
    data,
    sizes=('tiny', 'mini'),
    rates=(3e-3, 3e-3),
    row_length=128,
    scan_unroll=4,
    total=4_000,
  )
  config.tokenizer.vocab_size = 768
  config.pretrain.update(num_steps=300, eval_rows=32)
  config.pm.update(max_pairs=4, batch_size=8, eval_rows=256, eval_every=100)
  _replies(config, max_prompt=64, max_reply=32)
  config.ppo.update(
    num_iterations=30,
    eval_every=3,
    eval_prompts=64,
    eval_batch_size=256,
    save_every=30,
  )
  config.best_of_n.update(num_prompts=64, num_samples=64)
  return config


def smoke():
  config = cpu()
  small = dict(num_documents=60, num_pairs=120, num_prompts=40, num_test=16)
  for name in ('tokenizer', 'pretrain', 'pm', 'ppo', 'best_of_n'):
    config[name].data.options.update(small)
  config.tokenizer.vocab_size = 400
  config.pretrain.update(num_steps=2, batch_size=4, head_chunk=512)
  config.pm.update(batch_size=4, eval_rows=8, eval_every=2)
  _replies(config, max_prompt=48, max_reply=8, head_chunk=64)
  config.ppo.update(
    batch_size=8,
    num_iterations=4,
    num_minibatches=2,
    eval_every=1,
    eval_prompts=4,
    eval_samples=2,
    eval_batch_size=8,
  )
  config.best_of_n.update(
    num_prompts=4, num_samples=8, ks=(1, 4), batch_size=32
  )
  config.update(
    sizes=('tiny',),
    size='tiny',
    rates=(3e-3,),
    num_seeds=2,
    language_models=1,
    total=20,
  )
  return config


def gpu():
  data = _gold(
    num_documents=100_000, num_pairs=80_000, num_prompts=60_000, num_test=4_000
  )
  config = _config(
    data,
    sizes=('mini', 'small', '13M'),
    rates=(3e-3, 2e-3, 6e-4),
    row_length=256,
    total=30_000,
  )
  config.tokenizer.vocab_size = 768
  config.pretrain.update(num_steps=1_000, batch_size=64, eval_rows=256)
  config.pm.update(max_pairs=8, batch_size=16, eval_rows=512, eval_every=100)
  _replies(config, max_prompt=64, max_reply=32)
  config.ppo.update(
    batch_size=512,
    num_iterations=100,
    eval_every=10,
    eval_prompts=256,
    eval_batch_size=1024,
    save_every=50,
  )
  config.best_of_n.update(num_prompts=256, num_samples=256, batch_size=4096)
  return config


def _hh(train, test, **fields):
  """Stages on HH-RLHF files; one flag, --config.data_dir, for all of them."""
  data = common.hh_rlhf()
  data_dir = ml_collections.FieldReference(data.options.data_dir)
  data.options.update(data_dir=data_dir, train=train, test=test)
  config = _config(data, **fields)
  config.data_dir = data_dir
  config.tokenizer.vocab_size = 2**13
  return config


def cpu_hh():
  config = _hh(
    ('harmless-base',),
    ('harmless-base', 'helpful-base'),
    sizes=('tiny', 'mini'),
    rates=(3e-3, 3e-3),
    row_length=512,
    scan_unroll=4,
    num_seeds=3,
    language_models=3,
  )
  config.tokenizer.vocab_size = 4096
  config.pretrain.update(num_steps=1_000, batch_size=8, eval_rows=64)
  config.pm.update(max_pairs=8, batch_size=8, eval_rows=256, eval_every=250)
  _replies(config, max_prompt=128, max_reply=48)
  config.ppo.update(
    num_iterations=30,
    eval_every=3,
    eval_samples=2,
    eval_batch_size=64,
    save_every=30,
  )
  config.best_of_n.update(num_prompts=128, num_samples=64, batch_size=64)
  return config


def gpu_hh():
  tranches = ('helpful-base', 'harmless-base', 'helpful-rejection-sampled')
  config = _hh(
    tranches,
    tranches,
    sizes=('small', '13M', '42M'),
    rates=(2e-3, 6e-4, 6e-4),
    row_length=1024,
    num_seeds=3,
    language_models=3,
  )
  config.pretrain.update(num_steps=5_000, batch_size=64, eval_rows=256)
  config.pm.update(max_pairs=16, batch_size=16, eval_rows=512, eval_every=100)
  _replies(config, max_prompt=384, max_reply=32)
  config.ppo.update(
    batch_size=512,
    num_iterations=200,
    eval_every=20,
    eval_batch_size=512,
    save_every=50,
  )
  config.best_of_n.update(num_prompts=256, num_samples=256, batch_size=1024)
  for stage in (config.pretrain, config.pm, config.ppo):
    stage.model.update(dtype='bfloat16', remat='dots')
  config.best_of_n.model.dtype = 'bfloat16'
  for stage in (config.ppo, config.best_of_n):
    stage.pm_model.dtype = 'bfloat16'
  return config


def pod():
  config = gpu_hh()
  sizes = tuple(s for s in pretrain.SIZES if s[-1] in 'MB')
  config.update(
    sizes=sizes,
    size=sizes[-1],
    rates=tuple(pretrain.SIZES[s][1] for s in sizes),
    pm_rate=0.01,
    ppo_rate=0.01,
    num_seeds=1,
    language_models=1,
  )
  config.tokenizer.vocab_size = 2**16
  config.pretrain.update(num_steps=20_000, batch_size=512, save_every=1_000)
  config.ppo.update(num_iterations=500, eval_every=25)
  for stage in (config.pretrain, config.pm, config.ppo, config.best_of_n):
    stage.model.remat = 'full'
  return config


SCALES = {
  'smoke': smoke,
  'cpu': cpu,
  'cpu_hh': cpu_hh,
  'gpu': gpu,
  'gpu_hh': gpu_hh,
  'pod': pod,
}

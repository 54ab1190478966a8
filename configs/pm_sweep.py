"""What the figures about preference models train: sizes, data, seeds.

  python -m experiments.fig07_pm_accuracy_vs_data_and_size \\
    --scale=cpu --workdir=runs/pm_sweep

Scales: cpu (default; gold world), cpu_hh (the harmless-base files alone, so no
mixtures), gpu (gold world), gpu_hh and pod (static HH-RLHF; pod has the sizes
of Bai et al. 2022), smoke (seconds, for tests). experiments/sweep.py fills in
each stage's model size, learning rate, seed, mixture and links. Rates are
constant, as in the paper's learning curves (A.2); those of the small scales
are far above the paper's multiples, as in configs/pipeline.py.
"""

import ml_collections

from configs import common, pipeline, pmp, pretrain


def get_config(size=None):
  return common.choose(size, SCALES, 'cpu')()


def _config(data, web, *, sizes, rates, row_length, scan_unroll=1, **fields):
  """The stages, and what is swept; `rates` are pretraining rates by size."""
  chain = pipeline.get_config(data, 'small', row_length=row_length)
  chain.pm.update(part=0, num_parts=1)
  config = common.config(
    tokenizer=chain.tokenizer,
    pretrain=chain.pretrain,
    pmp=pmp.get_config('small'),
    pm=chain.pm,
    sizes=sizes,
    rates=rates,
    pmp_rate=1 / 3,  # x the pretraining rate
    pm_rate=1 / 6,
    num_seeds=3,
    language_models=1,  # a size; seed s starts from number s % this
    total=0,  # training comparisons (Figs 7, 31, 32)
    mix_total=0,  # of every mixture (Figs 19, 26, 27)
    helpful_share=0.7,  # where it is not swept: that of the static data
    shares=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    lambdas=(1.0, 2.0, 3.0, 4.0, 10.0),  # harmless weights (Fig 27)
    mix_sizes=sizes,
    benefit=_benefit(sizes[0]),
    # files of others: hhh, second_rater (Fig 10); utterances, advbench (Fig 12)
    probes=common.config(hhh='', second_rater='', utterances='', advbench=''),
  )
  config.pmp.data = web
  config.pmp.row_length = row_length
  for stage in (config.pretrain, config.pmp, config.pm):
    stage.optimizer.update(lr=0.0, schedule='constant', warmup_steps=10)
    stage.model.update(size=sizes[0], scan_unroll=scan_unroll)
  config.update(fields)
  return config


def _benefit(size):
  """PMP against none (Askell et al. 2021, 4): more seeds, fewer pairs."""
  return common.config(
    size=size,
    num_seeds=5,  # each has a language model of its own
    num_pairs=(500, 5_000),
    rates=(0.3,),  # x the pretraining rate; of several, the best without PMP
    batch_size=2,  # rows: 500 pairs are some 80 steps
    eval_every=400,
  )


def _gold(*, num_pairs, num_test, num_questions, **options):
  """Comparisons of the gold world, and voted answers of its web."""
  data, web = common.gold_world(), common.gold_web()
  data.options.update(num_pairs=num_pairs, num_test=num_test, **options)
  web.options.update(num_questions=num_questions, num_test=200)
  return data, web


def cpu():
  data, web = _gold(
    num_pairs=12_000, num_test=1_500, num_questions=1_000, num_documents=7_000
  )
  config = _config(
    data,
    web,
    sizes=('tiny', 'mini', 'small'),
    rates=(3e-3, 3e-3, 2e-3),
    row_length=128,
    scan_unroll=4,
    total=8_000,
    mix_total=3_000,
    mix_sizes=('tiny', 'mini'),
    shares=(0.0, 0.25, 0.5, 0.75, 1.0),
  )
  config.tokenizer.vocab_size = 768
  config.pretrain.update(num_steps=200, eval_rows=32)
  for stage in (config.pmp, config.pm):
    stage.update(max_pairs=4, batch_size=8, eval_rows=256, eval_every=20)
  config.pmp.eval_every = 100
  return config


def smoke():
  config = cpu()
  small = dict(num_documents=60, num_pairs=120, num_test=16)
  for stage in (config.tokenizer, config.pretrain, config.pm):
    stage.data.options.update(small)
  config.pmp.data.options.update(num_questions=12, num_test=4)
  config.tokenizer.vocab_size = 400
  config.pretrain.update(num_steps=2, batch_size=4, head_chunk=512)
  for stage in (config.pmp, config.pm):
    stage.update(batch_size=4, eval_rows=8, eval_every=2)
  config.benefit.update(
    size='tiny', num_seeds=2, num_pairs=(8, 16), batch_size=4
  )
  config.update(
    sizes=('tiny',),
    rates=(3e-3,),
    mix_sizes=('tiny',),
    num_seeds=2,
    total=20,
    mix_total=20,
    shares=(0.0, 0.5, 1.0),
    lambdas=(1.0, 10.0),
  )
  return config


def gpu():
  data, web = _gold(
    num_pairs=110_000, num_test=4_000, num_questions=8_000,
    num_documents=100_000,
  )  # fmt: skip
  config = _config(
    data,
    web,
    sizes=('mini', 'small', '13M', '42M'),
    rates=(3e-3, 2e-3, 6e-4, 6e-4),
    row_length=256,
    language_models=3,
    total=100_000,
    mix_total=20_000,
    mix_sizes=('mini', '13M'),
  )
  config.tokenizer.vocab_size = 768
  config.pretrain.update(num_steps=1_000, batch_size=64, eval_rows=256)
  for stage in (config.pmp, config.pm):
    stage.update(max_pairs=8, batch_size=16, eval_rows=512, eval_every=50)
  config.benefit.size = '13M'
  return config


def _hh(train, test, **fields):
  """Stages on HH-RLHF files; one flag, --config.data_dir, for all of them."""
  data = common.hh_rlhf()
  data_dir = ml_collections.FieldReference(data.options.data_dir)
  data.options.update(data_dir=data_dir, train=train, test=test)
  config = _config(data, common.stack_exchange(), **fields)
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
    total=30_000,
    mix_total=10_000,
    helpful_share=0.0,
    shares=(0.0,),
  )
  config.tokenizer.vocab_size = 4096
  config.pretrain.update(num_steps=1_000, batch_size=8, eval_rows=64)
  for stage in (config.pmp, config.pm):
    stage.update(max_pairs=8, batch_size=8, eval_rows=256, eval_every=100)
  return config


def gpu_hh():
  tranches = ('helpful-base', 'harmless-base', 'helpful-rejection-sampled')
  config = _hh(
    tranches,
    tranches,
    sizes=('small', '13M', '42M', '197M'),
    rates=(2e-3, 6e-4, 6e-4, 4e-4),
    row_length=1024,
    total=120_000,
    mix_total=36_000,  # 42k in the paper: the public files have fewer
    mix_sizes=('13M', '197M'),
  )
  config.pretrain.update(num_steps=5_000, batch_size=64, eval_rows=256)
  for stage in (config.pmp, config.pm):
    stage.update(max_pairs=16, batch_size=16, eval_rows=512, eval_every=50)
  for stage in (config.pretrain, config.pmp, config.pm):
    stage.model.update(dtype='bfloat16', remat='dots')
  config.benefit.update(size='13M')
  return config


def pod():
  config = gpu_hh()
  sizes = tuple(s for s in pretrain.SIZES if s[-1] in 'MB')
  config.update(
    sizes=sizes,
    rates=tuple(pretrain.SIZES[s][1] for s in sizes),
    pmp_rate=0.1,
    pm_rate=0.01,
    num_seeds=1,
    mix_sizes=sizes,
  )
  config.tokenizer.vocab_size = 2**16
  config.pretrain.update(num_steps=20_000, batch_size=512, save_every=1_000)
  for stage in (config.pretrain, config.pmp, config.pm):
    stage.model.update(size=sizes[0], remat='full')
  config.benefit.size = '52B'
  return config


SCALES = {
  'smoke': smoke,
  'cpu': cpu,
  'cpu_hh': cpu_hh,
  'gpu': gpu,
  'gpu_hh': gpu_hh,
  'pod': pod,
}

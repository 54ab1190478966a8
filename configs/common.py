"""Parts that the configs of several recipes share. Numbers only, no logic."""

import itertools

import ml_collections

from hh_jax.errors import InputError


def choose(size: str | None, sizes: dict, default: str):
  """The entry of a named size; an unknown size raises InputError."""
  name = size or default
  if name not in sizes:
    raise InputError(f'size {name!r} is none of {", ".join(sizes)}')
  return sizes[name]


def config(**fields) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(fields)


def model(size: str, **changes) -> ml_collections.ConfigDict:
  """Fields of hh_jax.model.ModelConfig; the vocabulary is the tokenizer's."""
  fields = dict(
    size=size,
    dtype='float32',
    attention='auto',
    remat='none',
    scan_unroll=1,
  )
  return config(**(fields | changes))


def run() -> dict:
  """What every training recipe has."""
  return dict(
    seed=0,
    data=hh_rlhf(),
    mesh=mesh(),
    track=track(),
    tokenizer='',
    checkpoints=checkpoints(),
  )


def checkpoints() -> ml_collections.ConfigDict:
  """The newest `keep` stay, and those of every `every` steps (0: no more).

  A link to a run takes one by RUN@STEP. `every` is a multiple of save_every and
  in its unit (PPO: iterations).
  """
  return config(keep=2, every=0)  # two: one can be damaged


def ensemble() -> ml_collections.ConfigDict:
  """More preference models beside config.pm (Coste et al. 2023): see
  hh_jax/rl/ensemble.py. Each is centred on its held-out pairs."""
  return config(
    others=(),  # finished pm runs of the same size and tokenizer
    how='mean',  # 'worst', 'mean_minus_variance'
    k=1.0,  # times the variance, for the last
  )


def alarms() -> ml_collections.ConfigDict:
  """What a policy run warns of, or stops at; 0 switches one off.

  Thresholds are our choice: Bai et al. 2022 stay below 100 nats.
  """
  return config(
    action='warn',  # 'stop'
    max_kl=100.0,  # nats a reply
    max_pm_gap=0.5,  # PM units: training PM's gain less the held-out PM's
    max_repetition=0.5,  # share of 4-grams repeated within a reply
    min_stop_rate=0.02,  # share of replies that end by themselves
    max_failed=3,  # iterations on end whose updates are not finite
  )


def mesh() -> ml_collections.ConfigDict:
  return config(data=1, fsdp=-1, sequence=1, model=1)


def track() -> ml_collections.ConfigDict:
  """Trackers beside metrics.jsonl; both need `pip install hh_jax[track]`."""
  return config(tensorboard=False, wandb=False)


def optimizer(lr: float, **changes) -> ml_collections.ConfigDict:
  """AdamW. Bai et al. 2022 state neither optimizer, betas nor decay."""
  fields = dict(
    lr=lr,
    schedule='constant',
    warmup_steps=0,
    weight_decay=0.0,
    clip_norm=1.0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    moments_dtype='float32',  # 'bfloat16': half of their bytes; betas to .98
  )
  return config(**(fields | changes))


def gold_world() -> ml_collections.ConfigDict:
  """The simulator: see hh_jax/data/gold_world.py."""
  return config(
    name='gold_world',
    options=config(
      seed=0,
      num_documents=20_000,
      num_pairs=40_000,
      num_prompts=8_000,
      num_test=4_000,
      preface_share=0.5,
      harmful_share=0.3,
      temperature=1.0,
      flip=0.0,
    ),
  )


def hh_rlhf() -> ml_collections.ConfigDict:
  """Anthropic's files: those in data_dir, the others downloaded."""
  return config(
    name='hh_rlhf',
    options=config(
      data_dir='data/hh-rlhf',
      cache_dir='data/cache',
      download=True,
      train=(
        'helpful-base',
        'harmless-base',
        'helpful-rejection-sampled',
      ),
      test=('helpful-base', 'harmless-base', 'helpful-rejection-sampled'),
      prompt_files=(),
      max_train_pairs=0,
      max_test_pairs=0,
      max_broken=0.01,
    ),
  )


def stack_exchange() -> ml_collections.ConfigDict:
  """Questions with voted answers: see hh_jax/data/stack_exchange.py."""
  return config(
    name='stack_exchange',
    options=config(
      files=(),
      form='binarised',
      test_share=0.05,
      max_pairs_per_question=10,
      max_broken=0.01,
    ),
  )


def gold_web() -> ml_collections.ConfigDict:
  """The simulator's: see hh_jax/data/web_pairs.py."""
  return config(
    name='gold_web',
    options=config(
      seed=0,
      num_questions=4_000,
      num_answers=4,
      num_test=500,
      form='binarised',
    ),
  )


def sweep(recipe: str, base: str, cells: tuple, **changes):
  """Fields of a sweep (hh_jax/sweep.py) of a recipe's config file.

  A cell is what it overrides: 'size=mini seed=0 optimizer.lr=0.001'. The field
  `overrides` is what all cells do, such as links to other runs.
  """
  fields = dict(
    recipe=recipe,
    base=base,
    cells=cells,
    overrides='',
    columns=(),  # of the summary, in the table; (): the first six
    on='local',  # 'slurm': a job array; 'xpk': commands for GKE
    jobs=1,  # at a time
    gpus=0,  # above 0: as many jobs, one a GPU
    # parameters: submitit's, such as slurm_partition, gpus_per_node, mem_gb
    slurm=config(minutes=24 * 60, parameters=config()),
    xpk=config(cluster='', tpu_type='', image='', slices=1, restarts=10),
  )
  return config(**(fields | changes))


def grid(**axes) -> tuple:
  """Cells of all combinations; a key's dots are written as two underscores."""
  keys = [key.replace('__', '.') for key in axes]
  return tuple(
    ' '.join(f'{key}={value}' for key, value in zip(keys, values, strict=True))
    for values in itertools.product(*axes.values())
  )

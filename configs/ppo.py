"""PPO against a preference model at the sizes of Bai et al. 2022 (B.1).

  python -m hh_jax ppo --config=configs/ppo.py:13M --workdir=runs/ppo \\
    --config.tokenizer=runs/tokenizer --config.init_from=runs/pretrain \\
    --config.pm=runs/pm

kl_coef, clip_eps, gamma, K and the reply length are the paper's; GAE lambda,
value network, batch size and temperature are not stated there.
"""

from configs import common, pretrain


def get_config(size=None):
  _, lr = common.choose(size, pretrain.SIZES, 'small')
  model = common.model(size or 'small')
  return common.config(
    **common.run(),
    model=model,
    pm_model=model.copy_and_resolve_references(),
    init_from='',
    pm='',
    ensemble=common.ensemble(),
    heldout_pm='',  # scores the policy, never trains it
    max_prompt=512,
    max_reply=128,
    temperature=1.0,
    batch_size=256,  # prompts an iteration, one reply each
    num_iterations=800,
    num_epochs=1,  # K: 1 static, 2 robustness, 4 online
    num_minibatches=4,
    optimizer=common.optimizer(0.01 * lr, warmup_steps=10),
    kl_coef=0.001,
    gamma=1.0,
    lam=0.95,
    clip_eps=0.2,
    value_clip=0.5,  # PM units
    value_coef=0.5,
    value_init='pm',
    no_stop_penalty=1.0,  # PM units, for a reply cut at max_reply
    head_chunk=4096,
    eval_every=20,
    eval_prompts=256,
    eval_samples=4,  # a prompt
    eval_batch_size=256,
    save_every=50,
  )

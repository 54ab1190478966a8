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
    # prompts and replies
    max_prompt=512,
    max_reply=128,
    temperature=1.0,
    prompt_files=(),  # more training prompts: JSON lines with a "prompt"
    # weight of each group of prompts; all 0: in proportion to their numbers
    prompt_weights=common.config(helpful=0.0, harmless=0.0, extra=0.0),
    batch_size=256,  # replies an iteration
    slots=0,  # replies that decode at a time; 0: all
    # on a mesh: 'gathered' but for model once an iteration (phase reshard),
    # where they fit; a decode step gathers 'split' ones every time
    decode_params='split',
    samples_per_prompt=1,
    num_iterations=800,
    # scores
    score_norm='centre',  # on the start's replies; 'whiten', 'running'
    no_stop='subtract',  # 'replace', 'keep': a reply cut at max_reply
    no_stop_penalty=1.0,  # units of the normalised score
    # KL to the start
    kl_coef=0.001,
    kl_estimator='k1',  # 'k2', 'k3'
    kl_in='reward',  # 'loss': beside advantages, whitened or not; per token
    kl_target=0.0,  # nats a reply: above 0, kl_coef adapts to it
    kl_horizon=10_000,  # replies, of the adaptation
    # advantages
    advantage='gae',  # 'reinforce'; without values 'rloo', 'grpo'
    gamma=1.0,
    lam=0.95,
    whiten_advantages=True,
    value_net='pm',  # from the PM; 'policy'; 'head' (shared trunk), 'none'
    # updates
    num_epochs=1,  # K: 1 static, 2 robustness, 4 online
    num_minibatches=4,
    num_micro_batches=1,  # of a minibatch: less memory, the same update
    optimizer=common.optimizer(0.01 * lr, warmup_steps=10),
    halve_every=0,  # replies, with optimizer.schedule 'halving' (online: 100k)
    aggregate='token_mean',  # 'sequence_mean', 'fixed_length'
    clip_eps=0.2,
    value_clip=0.5,  # units of the normalised score, 0: none
    value_coef=0.5,
    entropy_coef=0.0,
    ptx_coef=0.0,  # times the language-model loss of training documents
    ptx_rows=0,  # of them, a minibatch
    ptx_row_length=512,
    head_chunk=4096,
    alarms=common.alarms(),
    eval_every=20,
    eval_prompts=256,
    eval_samples=4,  # a prompt
    eval_batch_size=256,
    save_every=50,
  )

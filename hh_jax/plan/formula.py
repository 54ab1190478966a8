"""FLOPs of the products that a model needs, by its shape.

Two FLOPs a multiplication; attention to all columns, as the masks here have it;
a backward pass costs two forward ones. Recomputation is not needed, so a
program that rematerialises does more.
"""

from typing import Any

from hh_jax.sizes import ModelConfig


def forward(model: ModelConfig, tokens: float, *, columns: float) -> float:
  """Of `tokens` that attend to `columns` each, no head."""
  attention = 4 * model.num_layers * model.d_model * columns
  return tokens * (2 * model.num_matmul_params + attention)


def head(model: ModelConfig, tokens: float) -> float:
  """Logits of `tokens`."""
  return 2.0 * tokens * model.d_model * model.vocab_size


def train(
  model: ModelConfig, tokens: float, *, columns: float, predicted: float
) -> float:
  """A step on `tokens`, with logits of `predicted` of them."""
  return 3 * (forward(model, tokens, columns=columns) + head(model, predicted))


def sample(
  model: ModelConfig, *, prompts: int, replies: int, width: int, reply: int
) -> float:
  """Prompts of `width` read once, `reply` tokens drawn for each of `replies`.

  A decode step attends to all columns of the cache.
  """
  read = forward(model, prompts * width, columns=width) + head(model, prompts)
  steps = replies * reply
  drawn = forward(model, steps, columns=width + reply) + head(model, steps)
  return read + drawn


def ppo(config: Any, nets: Any) -> dict[str, float]:
  """By phase of that config and its networks; a reply counts as full."""
  replies = config.batch_size
  width = config.max_prompt + config.max_reply
  drawn = replies * config.max_reply

  def passes(model: Any, num_heads: int) -> float:
    once = forward(model.config, replies * width, columns=width)
    return once + num_heads * head(model.config, drawn)

  policy, judge = passes(nets.policy, 1), passes(nets.pm, 0)
  value = passes(nets.value, 0) if nets.values == 'separate' else 0.0
  text = config.ptx_rows * config.ptx_row_length * bool(config.ptx_coef)
  of_text = train(
    nets.policy.config, text, columns=config.ptx_row_length, predicted=text
  )
  members = 1 + len(config.ensemble.others)
  score = 2 * policy + value + members * judge
  update = config.num_epochs * (
    3 * (policy + value) + config.num_minibatches * of_text
  )
  return {
    'reshard': 0.0,
    'sample': sample(
      nets.policy.config,
      prompts=replies // config.samples_per_prompt,
      replies=replies,
      width=config.max_prompt,
      reply=config.max_reply,
    ),
    'score': score,
    'update': update,
    'learn': score + update - policy - value,  # a pass for both
  }

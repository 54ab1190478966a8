"""FLOPs of the products that a model needs, by its shape.

Two FLOPs a multiplication; attention to all columns, as the masks here have it;
a backward pass costs two forward ones. Recomputation is not needed, so a
program that rematerialises does more.
"""

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

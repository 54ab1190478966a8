"""Shape and arithmetic of a transformer, and the sizes that have a name."""

import dataclasses

from hh_jax import attention


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and arithmetic of a transformer; only shapes reach a checkpoint."""

  num_layers: int
  d_model: int
  num_heads: int
  d_mlp: int
  vocab_size: int
  mlp: str = 'gelu'  # 'gelu' (two matrices) or 'swiglu' (three)
  rope_base: float = 10_000.0
  dtype: str = 'float32'  # of matmul operands; parameters stay float32
  attention: str = 'auto'  # or one of attention.IMPLEMENTATIONS
  remat: str = 'none'  # 'none', 'full', or 'dots' (keep matmul results)
  scan_unroll: int = 1  # layers a scan step; all of them is fastest on CPU

  def __post_init__(self):
    if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
      raise ValueError(
        f'd_model {self.d_model} over num_heads {self.num_heads} must be even'
      )
    if self.scan_unroll < 1:
      raise ValueError(f'scan_unroll {self.scan_unroll} is not 1 or more')
    for name, allowed in _CHOICES.items():
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'{name} {getattr(self, name)!r} is none of {tuple(allowed)}'
        )
    if self.attention == 'cudnn' and self.dtype == 'float32':
      raise ValueError("attention 'cudnn' takes dtype 'bfloat16', not float32")

  @property
  def head_dim(self) -> int:
    return self.d_model // self.num_heads

  @property
  def num_matmul_params(self) -> int:
    """Parameters a token multiplies with, embedding and heads left out."""
    mats = 3 if self.mlp == 'swiglu' else 2
    per_layer = 4 * self.d_model**2 + mats * self.d_model * self.d_mlp
    return self.num_layers * per_layer

  @property
  def shape(self) -> dict[str, int | float | str]:
    """The fields that a checkpoint depends on."""
    names = (
      'num_layers', 'd_model', 'num_heads', 'd_mlp', 'vocab_size', 'mlp',
      'rope_base',
    )  # fmt: skip
    return {name: getattr(self, name) for name in names}


_CHOICES = {
  'mlp': ('gelu', 'swiglu'),
  'dtype': ('float32', 'bfloat16'),
  'attention': ('auto', *attention.IMPLEMENTATIONS),
  'remat': ('none', 'full', 'dots'),
}

# Layers, d_model, heads. 13M..52B: the seven models of Bai et al. 2022, shapes
# by d_model = 128 * layers, which matches every parameter count in the figure
# legends; heads of 128 are our choice (not stated). tiny, mini, small: ours.
SIZES = {
  'tiny': (2, 64, 4),
  'mini': (3, 128, 4),
  'small': (4, 256, 8),
  '13M': (4, 512, 4),
  '42M': (6, 768, 6),
  '197M': (10, 1280, 10),
  '810M': (16, 2048, 16),
  '2.7B': (24, 3072, 24),
  '13B': (40, 5120, 40),
  '52B': (64, 8192, 64),
}


def sized(size: str, *, vocab_size: int, **changes) -> ModelConfig:
  """The ModelConfig of a named size; `changes` are further fields."""
  if size not in SIZES:
    raise ValueError(f'model size {size!r} is none of {tuple(SIZES)}')
  num_layers, d_model, num_heads = SIZES[size]
  return ModelConfig(
    num_layers=num_layers,
    d_model=d_model,
    num_heads=num_heads,
    d_mlp=4 * d_model,
    vocab_size=vocab_size,
    **changes,
  )

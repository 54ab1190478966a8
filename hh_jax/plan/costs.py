"""What one chip does in a compiled program: products, memory, collectives."""

import dataclasses
import math
import re

from hh_jax.plan import hlo

COLLECTIVES = (
  'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
  'collective-permute', 'collective-broadcast', 'ragged-all-to-all',
)  # fmt: skip
# Operations that move nothing themselves.
_FREE = (
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
  'conditional', 'call', 'copy-done', 'after-all', 'partition-id',
  'replica-id', 'async-start', 'async-done', 'async-update', 'iota',
)  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')
# Products of each of splash attention's kernels: of scores, outputs, gradients.
_SPLASH = {'splash_mha_fwd': 2, 'splash_mha_dq': 3, 'splash_mha_dkv': 4}


@dataclasses.dataclass
class Costs:
  """Sums over a program, of one chip."""

  flops: float = 0.0  # of matrix products
  memory: float = 0.0  # bytes that main memory moves, an estimate
  collectives: dict[str, float] = dataclasses.field(default_factory=dict)
  open_loops: int = 0  # loops whose trips were assumed

  def add(self, other: 'Costs', times: float = 1) -> None:
    self.flops += times * other.flops
    self.memory += times * other.memory
    self.open_loops += other.open_loops
    for kind, size in other.collectives.items():
      total = self.collectives.get(kind, 0.0) + times * size
      self.collectives[kind] = total


def of_program(
  program: hlo.Program,
  num_chips: int,
  *,
  open_trips: int,
  inner_trips: float = 1,
  trips: bool = True,
) -> Costs:
  """All of it; loops that data end run `open_trips` times between them.

  The dearest of those that follow one another is taken to run all. Of loops
  within such a loop those that data end run `inner_trips` times a trip, a mean.
  Without `trips` every loop runs once, as XLA's cost analysis has it.
  """
  assumed = (open_trips, inner_trips) if trips else None
  return _Count(program, num_chips, assumed).of(program.entry, within=False)


class _Count:
  """The costs of a program's computations."""

  def __init__(
    self,
    program: hlo.Program,
    num_chips: int,
    assumed: tuple[int, float] | None,
  ):
    """`assumed`: trips of open loops, of those within them; None: all one."""
    self._program, self._num_chips = program, num_chips
    self._assumed = assumed
    self._known: dict[tuple[str, bool], Costs] = {}

  def of(self, name: str, *, within: bool) -> Costs:
    """Of one computation; `within`: a loop that data end."""
    if (name, within) not in self._known:
      self._known[name, within] = total = Costs()
      shared = []
      for op in self._program.computations[name].values():
        found = self._of_operation(op, name, within)
        if self._assumed and not within and self._is_open(op):
          shared.append(found)
        else:
          total.add(found)
      if shared:
        total.add(max(shared, key=lambda costs: costs.memory))
    return self._known[name, within]

  def _is_open(self, op: hlo.Operation) -> bool:
    return op.code == 'while' and hlo.trip_count(self._program, op) is None

  def _of_loop(self, op: hlo.Operation, within: bool) -> Costs:
    is_open, total = self._is_open(op), Costs()
    total.open_loops = int(is_open)
    if not self._assumed:
      count = 1
    elif is_open:
      count = self._assumed[within]
    else:
      count = hlo.trip_count(self._program, op)
    (body,) = op.called('body')
    total.add(self.of(body, within=within or is_open), count)
    return total

  def _of_operation(self, op: hlo.Operation, name: str, within: bool) -> Costs:
    computation = self._program.computations[name]
    if op.code == 'while':
      return self._of_loop(op, within)
    if op.code == 'conditional':
      branches = op.called(
        'branch_computations', 'true_computation', 'false_computation'
      )
      found = (self.of(branch, within=within) for branch in branches)
      return max(found, key=lambda costs: costs.flops)
    total = Costs()
    if op.code in ('fusion', 'call', 'async-start'):
      for called in op.called('calls', 'to_apply'):
        inner = self.of(called, within=within)
        total.add(inner)
        if op.code == 'fusion':  # what is inside never reaches main memory
          total.memory -= inner.memory
    total.flops += _product_flops(op, computation)
    total.memory += _memory(self._program, op, computation)
    kind = op.code.removesuffix('-start')
    if kind in COLLECTIVES:
      kind, size = _sent(op, computation, self._num_chips, inside=name)
      total.collectives = {kind: size}
    return total


def _operand_shapes(op: hlo.Operation, computation: hlo.Computation):
  """Shapes of an operation's operands."""
  return [s for name in op.operands for s in computation[name].shapes]


def _product_flops(op: hlo.Operation, computation: hlo.Computation) -> float:
  if op.code == 'dot':
    left = computation[op.operands[0]].shapes[0].dims
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', op.attributes)
    summed = [left[int(i)] for i in found.group(1).split(',') if i]
    return 2.0 * math.prod(op.shapes[0].dims) * math.prod(summed)
  if op.code == 'convolution':
    return _convolution_flops(op, computation)
  if op.code != 'custom-call':
    return 0.0
  for kernel, num in _SPLASH.items():
    if op.name.startswith(kernel):
      return num * _causal_flops(op, computation)
  return _library_flops(op, computation)


def _library_flops(op: hlo.Operation, computation: hlo.Computation) -> float:
  """GPUs have products as calls of cuBLAS, attention as calls of cuDNN.

  Attention [B, T, H, K] is two products, and five in its backward pass, which
  computes the scores again; masks are a bias there, and leave nothing out.
  """
  found = re.search(
    r'custom_call_target="__(cublas|cudnn\$fmha)(.*?)"', op.attributes
  )
  if not found:
    return 0.0
  library, kind = found.groups()
  left, right = (computation[name].shapes[0].dims for name in op.operands[:2])
  if library == 'cublas':
    summed = re.search(
      r'"lhs_contracting_dimensions":\[([\d",]*)\]', op.attributes
    ).group(1)
    sizes = [left[int(i)] for i in re.findall(r'\d+', summed)]
    return 2.0 * math.prod(op.shapes[0].dims) * math.prod(sizes)
  products = 5 if kind.endswith('Backward') else 2
  return products * 2.0 * math.prod(left) * right[1]


def _causal_flops(op: hlo.Operation, computation: hlo.Computation) -> float:
  """Of one product of queries [..., T, K] and keys [..., S, K], after a mask.

  Half of all: a kernel skips blocks that no query sees, and does some more.
  """
  query, key = (computation[name].shapes[0].dims for name in op.operands[2:4])
  return math.prod(query) * key[-2]


def _window(window: str, name: str, num: int) -> list[int]:
  """One number an axis: of 'pad' what is below, 0; of the others 1."""
  if found := re.search(rf'\b{name}=([\d_x-]+)', window):
    return [int(n.partition('_')[0]) for n in found.group(1).split('x')]
  return [int(name != 'pad')] * num


def _convolution_flops(
  op: hlo.Operation, computation: hlo.Computation
) -> float:
  """TPUs have matrix products as convolutions, batches as dilated windows."""
  left, right = (computation[name].shapes[0].dims for name in op.operands[:2])
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', op.attributes).groups()
  of = [
    dict(zip(label, dims, strict=True))
    for label, dims in zip(
      labels, (left, right, op.shapes[0].dims), strict=True
    )
  ]
  axes = sorted(label for label in of[2] if label.isdigit())
  flops = 2.0 * of[2]['b'] * of[2]['f'] * of[1]['i']
  window = re.search(r'window=\{([^}]*)\}', op.attributes)
  window = window.group(1) if window else ''
  stride, lhs, rhs, pads = (
    _window(window, name, len(axes))
    for name in ('stride', 'lhs_dilate', 'rhs_dilate', 'pad')
  )
  for i, axis in enumerate(axes):
    reach = (of[0][axis] - 1) * lhs[i]
    at = (
      out * stride[i] + k * rhs[i] - pads[i]
      for out in range(of[2][axis])
      for k in range(of[1][axis])
    )
    flops *= sum(0 <= p <= reach and p % lhs[i] == 0 for p in at)
  return flops


def group_size(attributes: str, num_chips: int) -> int:
  """Chips that take part in one collective."""
  if found := re.search(r'replica_groups=\{\{([\d,]+)\}', attributes):
    return len(found.group(1).split(','))
  if found := re.search(r'replica_groups=\[\d+,(\d+)\]', attributes):
    return int(found.group(1))
  if found := re.search(
    r'replica_groups=mesh\[([^]]*)\] \{([^}]*)\}', attributes
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
    return math.prod(
      int(sizes[a]) for a in re.findall(r"'(\w+)'", found.group(2))
    )
  return num_chips


def _sent(
  op: hlo.Operation,
  computation: hlo.Computation,
  num_chips: int,
  *,
  inside: str,
) -> tuple[str, float]:
  """(kind, bytes that leave the chip), by the algorithm that sends the least.

  On a ring: of a result of n bytes, n (g - 1) / g are gathered, scattered or
  exchanged by each of g chips, and twice that reduced everywhere.
  """
  kind = op.code.removesuffix('-start')
  size = sum(s.size for s in _operand_shapes(op, computation))
  if kind in ('collective-permute', 'collective-broadcast'):
    return kind, float(size)
  g = group_size(op.attributes, num_chips)
  if kind == 'all-gather':
    return kind, float(size * (g - 1))
  if kind == 'all-reduce' and 'all-reduce-scatter' in inside:
    kind = 'reduce-scatter'  # a TPU's fusion of a reduction and a slice
  share = size * (g - 1) / g
  return kind, 2 * share if kind == 'all-reduce' else share


def _memory(
  program: hlo.Program, op: hlo.Operation, computation: hlo.Computation
) -> float:
  """Bytes read and written, slices for what is sliced."""
  if op.code in _FREE or op.code.endswith('-done'):
    return 0.0
  if op.code in ('copy-start', 'slice-start'):
    return sum(s.main_memory for s in op.shapes[:2])
  read = 0.0
  for i, name in enumerate(op.operands):
    whole = sum(s.main_memory for s in computation[name].shapes)
    if not whole:
      continue
    if op.code == 'fusion':
      (inner,) = op.called('calls')
      part = _read_of(program, inner, i)
      whole = whole if part is None else min(part, whole)
    elif i == 0 and op.code in _SLICES:
      whole = op.size
    elif i == 0 and op.code in ('dynamic-update-slice', 'scatter'):
      whole = 0
    read += whole
  return read + _written(program, op, computation)


def _read_of(program: hlo.Program, name: str, index: int) -> float | None:
  """Bytes of parameter `index` that a fusion reads; None: all of them."""
  computation = program.computations[name]
  (parameter,) = (
    op.name
    for op in computation.values()
    if op.code == 'parameter' and op.operands[0] == str(index)
  )
  total, names = 0.0, [parameter]
  while names:
    of = names.pop()
    for op in computation.values():
      if of not in op.operands or op.code in ('parameter', 'constant'):
        continue
      at = op.operands.index(of)
      if op.code == 'bitcast':
        names.append(op.name)
      elif at == 0 and op.code in _SLICES:
        total += op.size
      elif op.code == 'fusion':
        part = _read_of(program, op.called('calls')[0], at)
        if part is None:
          return None
        total += part
      elif not (at == 0 and op.code == 'dynamic-update-slice'):
        return None
  return total


def _written(
  program: hlo.Program, op: hlo.Operation, computation: hlo.Computation
) -> float:
  """Bytes of the results; of an update in place those of the update."""
  whole = sum(s.main_memory for s in op.shapes)
  if op.code == 'dynamic-update-slice':
    return min(whole, computation[op.operands[1]].size)
  if op.code != 'fusion':
    return whole
  inner = program.computations[op.called('calls')[0]]
  (root,) = (x for x in inner.values() if x.is_root)
  while root.code == 'bitcast':
    root = inner[root.operands[0]]
  if root.code == 'dynamic-update-slice':
    return min(whole, inner[root.operands[1]].size)
  return whole

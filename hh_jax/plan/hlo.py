"""Text of a compiled program -> its operations, with how often each runs.

Shapes in it are those of one chip. XLA's own cost analysis counts the body of a
loop once; layers are a loop, so trips are counted here.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

_BITS = {'pred': 8, 'token': 0, 'opaque': 0, 'c64': 64, 'c128': 128}
_SHAPE = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?')
_LINE = re.compile(r'\s+(ROOT )?%?([\w.-]+) = (.*)')
_HEAD = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_CALLED = re.compile(
  r'(calls|to_apply|body|condition|branch_computations|true_computation'
  r'|false_computation)=(\{[^}]*\}|%?[\w.-]+)'
)


@dataclasses.dataclass(frozen=True)
class Shape:
  """One array on one chip."""

  dtype: str
  dims: tuple[int, ...]
  layout: str = ''

  @property
  def size(self) -> int:
    """In bytes."""
    bits = _BITS.get(self.dtype)
    if bits is None:
      bits = int(re.search(r'\d+', self.dtype).group())
    return math.prod(self.dims) * bits // 8

  @property
  def main_memory(self) -> int:
    """Bytes of the chip's main memory: 0 in the fast one on the chip."""
    return 0 if 'S(' in self.layout else self.size


@dataclasses.dataclass(frozen=True)
class Operation:
  name: str
  code: str  # 'fusion', 'all-gather', ...
  shapes: tuple[Shape, ...]  # of its results
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  def called(self, *kinds: str) -> list[str]:
    """Computations it calls, by the attributes that name them."""
    return [
      name
      for kind, names in _CALLED.findall(self.attributes)
      if kind in kinds
      for name in re.findall(r'[\w.-]+', names)
    ]

  @property
  def size(self) -> int:
    return sum(shape.size for shape in self.shapes)


Computation = dict[str, Operation]
# What a condition consists of beside what it compares.
_PLUMBING = ('parameter', 'fusion', 'copy', 'bitcast', 'tuple')


@dataclasses.dataclass(frozen=True)
class Program:
  computations: dict[str, Computation]
  entry: str


def shapes(text: str) -> tuple[Shape, ...]:
  """All arrays of a type: 'f32[2,3]{1,0}', or a tuple of them."""
  return tuple(
    Shape(dtype, tuple(int(n) for n in dims.split(',') if n), layout)
    for dtype, dims, layout in _SHAPE.findall(text)
  )


def _closing(text: str) -> int:
  """Where the parenthesis that opens `text` closes."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match.group() == '(' else -1
    if not depth:
      return match.start()
  raise ValueError(f'no end of {text[:80]!r}')


def _operation(line: str) -> Operation | None:
  match = _LINE.match(line)
  if match is None:
    return None
  root, name, rest = match.groups()
  end = _closing(rest) + 1 if rest[0] == '(' else rest.index(' ')
  code, _, after = rest[end:].strip().partition('(')
  close = _closing('(' + after)
  inside = after[: close - 1]
  operands = tuple(re.findall(r'%([\w.-]+)', inside))
  if code in ('parameter', 'constant'):  # a number, not a name
    operands = (inside,)
  return Operation(
    name, code, shapes(rest[:end]), operands, after[close:], bool(root)
  )


def parse(text: str) -> Program:
  """The program of `compiled.as_text()`."""
  computations, entry, current = {}, '', None
  # what a kernel says of itself is on lines of its own
  text = re.sub(r'\{\n(".*)\n\}', r'{\1}', text)
  for line in text.splitlines():
    if match := _HEAD.match(line):
      current = computations.setdefault(match.group(2), {})
      entry = match.group(2) if match.group(1) else entry
    elif current is not None and (operation := _operation(line)):
      current[operation.name] = operation
  if not entry:
    raise ValueError('no ENTRY computation in the text of the program')
  return Program(computations, entry)


def trip_count(program: Program, loop: Operation) -> int | None:
  """How often a loop runs; None where data decide.

  By XLA's note, or by a condition that compares a counter with a constant. A
  counter begins at 0; where XLA has unrolled its loop, it goes up by more than
  1.
  """
  if note := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
    return int(note.group(1))
  (condition,), (body,) = loop.called('condition'), loop.called('body')
  found = list(_in_condition(program, condition))
  codes = sorted(op.code for op in found if op.code not in _PLUMBING)
  if codes != ['compare', 'constant', 'get-tuple-element']:
    return None
  (compare,) = (op for op in found if op.code == 'compare')
  (end,) = (op for op in found if op.code == 'constant')
  (counter,) = (op for op in found if op.code == 'get-tuple-element')
  if 'direction=LT' not in compare.attributes:
    return None
  at = int(re.search(r'index=(\d+)', counter.attributes).group(1))
  return -(-int(end.operands[0]) // _step(program, body, at))


def _step(program: Program, body: str, at: int) -> int:
  """By how much a loop's body moves entry `at` of what it carries."""
  computation = program.computations[body]
  (root,) = (op for op in computation.values() if op.is_root)
  of = computation[root.operands[at]]
  while of.code in ('copy', 'bitcast', 'fusion'):
    if of.code == 'fusion':
      computation = program.computations[of.called('calls')[0]]
      (of,) = (op for op in computation.values() if op.is_root)
    else:
      of = computation[of.operands[0]]
  added = [
    int(computation[name].operands[0])
    for name in of.operands
    if name in computation and computation[name].code == 'constant'
  ]
  return added[0] if of.code == 'add' and added else 1


def _in_condition(program: Program, name: str) -> Iterator[Operation]:
  for operation in program.computations[name].values():
    yield operation
    for called in operation.called('calls', 'to_apply'):
      yield from _in_condition(program, called)

"""Costs of programs written by hand."""

import pytest

from hh_jax.plan import costs, hlo

PRODUCTS = """\
HloModule by_hand

%fused (p.0: f32[8,16], p.1: f32[16,4]) -> f32[8,4] {
  %p.0 = f32[8,16]{1,0:T(8,128)} parameter(0)
  %p.1 = f32[16,4]{1,0} parameter(1)
  ROOT %c.1 = f32[8,4]{1,0} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %w = f32[16,16]{1,0} constant({...})
  %y = f32[8,16]{1,0} dot(%x, %w), lhs_contracting_dims={1}
  ROOT %t = (s32[], f32[8,16]{1,0}) tuple(%next, %y)
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %end = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

%until (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %j = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %j), direction=LT
}

ENTRY %main (a: f32[8,16], b: f32[16,4]) -> f32[8,4] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %s = (s32[], f32[8,16]{1,0}) tuple(%zero, %a)
  %l = (s32[], /*index=1*/f32[8,16]) while(%s), condition=%CONDITION, body=%body
  %x = f32[8,16]{1,0} get-tuple-element(%l), index=1
  ROOT %out = f32[8,4]{1,0} fusion(%x, %b), kind=kOutput, calls=%fused
}
"""
LOOP, LAST = 2 * 8 * 16 * 16, 2 * 8 * 16 * 4


def _costs(text: str, *, open_trips: int = 1, num_chips: int = 8, **how):
  return costs.of_program(
    hlo.parse(text), num_chips, open_trips=open_trips, **how
  )


def _one(operation: str, *operands: str) -> costs.Costs:
  lines = [f'  %x.{i} = {x} parameter({i})' for i, x in enumerate(operands)]
  return _costs('\n'.join(['ENTRY %main () -> f32[] {', *lines, operation]))


def test_a_loop_counts_by_its_steps():
  text = PRODUCTS.replace('CONDITION', 'condition')
  assert _costs(text).flops == 3 * LOOP + LAST
  assert _costs(text, trips=False).flops == LOOP + LAST
  assert _costs(text).open_loops == 0


def test_a_loop_that_data_end_is_taken_to_run_as_often_as_said():
  text = PRODUCTS.replace('CONDITION', 'until')
  found = _costs(text, open_trips=5)
  assert (found.flops, found.open_loops) == (5 * LOOP + LAST, 1)


def test_loops_that_data_end_share_the_trips():
  text = PRODUCTS.replace('CONDITION', 'until').replace(
    '  %x = f32[8,16]{1,0} get-tuple-element(%l)',
    '  %m = (s32[], f32[8,16]{1,0}) while(%l), condition=%until, body=%body\n'
    '  %x = f32[8,16]{1,0} get-tuple-element(%m)',
  )
  found = _costs(text, open_trips=5)
  assert (found.flops, found.open_loops) == (5 * LOOP + LAST, 1)
  assert _costs(text, trips=False).flops == 2 * LOOP + LAST


def test_a_loop_within_one_runs_so_often_a_trip():
  outer = PRODUCTS.replace('CONDITION', 'until')
  outer = outer.replace(
    'condition=%until, body=%body', 'condition=%until, body=%around'
  )
  around = (
    '%around (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {\n'
    '  %q = (s32[], f32[8,16]{1,0}) parameter(0)\n'
    '  ROOT %w = (s32[], f32[8,16]{1,0}) while(%q), condition=%until, '
    'body=%body\n}\n\n'
  )
  found = _costs(
    outer.replace('ENTRY', f'{around}ENTRY'), open_trips=8, inner_trips=0.25
  )
  assert found.flops == 8 * 0.25 * LOOP + LAST


def test_memory_is_what_crosses_the_border_of_a_fusion():
  loop = 3 * 4 * (8 * 16 + 16 * 16 + 8 * 16 + 3)  # and the counter
  assert _costs(PRODUCTS.replace('CONDITION', 'condition')).memory == (
    loop + 4 * (8 * 16 + 16 * 4 + 8 * 4)
  )


def test_memory_of_slices_and_updates_is_that_of_their_part():
  whole, index = 'f32[64,8,16]{2,1,0}', 's32[]'
  read = _one(
    '  ROOT %y = f32[1,8,16]{2,1,0} dynamic-slice(%x.0, %x.1, %x.1, %x.1)',
    whole,
    index,
  )
  assert read.memory == 2 * 8 * 16 * 4 + 3 * 4
  near = _one(
    '  ROOT %y = f32[8]{0:T(128)S(1)} copy(%x.0)', 'f32[8]{0:T(128)S(1)}'
  )
  assert near.memory == 0


@pytest.mark.parametrize(
  ('labels', 'window', 'left', 'right', 'out', 'flops'),
  [
    # a batched product as a TPU has it: 4 x 8 products of 3 x 5 by 5 x 7
    (
      '01bf_01io->01bf', 'size=4x8 stride=3x7 lhs_dilate=4x8',
      '4,8,3,5', '4,8,5,7', '4,8,3,7', 2 * 4 * 8 * 3 * 5 * 7,
    ),
    # three products side by side, as for queries, keys and values
    (
      'bf0_i0o->b0f', 'size=3 pad=2_2 rhs_reversal=1',
      '16,5,1', '5,3,7', '16,3,7', 2 * 16 * 5 * 3 * 7,
    ),
    # a sum over two parts
    ('b0f_0io->bf0', 'size=2', '16,2,5', '2,5,7', '16,7,1', 2 * 16 * 10 * 7),
  ],
)  # fmt: skip
def test_products_that_are_convolutions(
  labels, window, left, right, out, flops
):
  found = _one(
    f'  ROOT %y = bf16[{out}] convolution(%x.0, %x.1), '
    f'window={{{window}}}, dim_labels={labels}',
    f'bf16[{left}]',
    f'bf16[{right}]',
  )
  assert found.flops == flops


@pytest.mark.parametrize(
  ('code', 'result', 'groups', 'sent'),
  [
    ('all-gather', 'f32[4,64]', '{{0,1,2,3},{4,5,6,7}}', 3 * 256),
    ('all-reduce', 'f32[64]', '[4,2]<=[8]', 256),
    ('reduce-scatter', 'f32[8]', "mesh['fsdp'=8,'model'=1] {'fsdp'}", 224),
    ('all-to-all', 'f32[64]', '{}', 224),
    ('collective-permute', 'f32[64]', '{}', 256),
  ],
)
def test_bytes_that_leave_a_chip(code, result, groups, sent):
  found = _one(
    f'  ROOT %y = {result} {code}(%x.0), replica_groups={groups}', 'f32[64]'
  )
  assert found.collectives == {code: sent}


@pytest.mark.parametrize(
  ('kernel', 'num'),
  [('fwd_segmented_residuals', 2), ('dq_no_residuals', 3), ('dkv_x', 4)],
)
def test_kernels_of_attention_do_half_of_a_causal_product(kernel, num):
  table, q, k = 's8[1,2,2]', 'bf16[4,1024,128]', 'bf16[4,2048,128]'
  found = _one(
    f'  ROOT %splash_mha_{kernel}.3 = {q} custom-call(%x.0, %x.1, %x.2, %x.3), '
    'custom_call_target="tpu_custom_call", frontend_attributes={metadata={\n'
    '"block": "8"\n}}, metadata={}',
    *(table, table, q, k),
  )
  assert found.flops == num * 2 * 4 * 1024 * 2048 * 128 / 2


@pytest.mark.parametrize('target', ['gemm', 'lt$matmul'])
def test_products_that_are_calls_of_a_library(target):
  found = _one(
    '  ROOT %gemm.1 = (f32[8,4]{1,0}, s8[64]{0}) custom-call(%x.0, %x.1), '
    f'custom_call_target="__cublas${target}", '
    'backend_config={"gemm_backend_config":{"dot_dimension_numbers":'
    '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}',
    *('f32[8,16]', 'f32[16,4]'),
  )
  assert found.flops == 2 * 8 * 4 * 16


@pytest.mark.parametrize(('kind', 'num'), [('', 2), ('Backward', 5)])
def test_attention_that_is_a_call_of_a_library(kind, num):
  q, k = 'bf16[2,1024,4,64]', 'bf16[2,512,4,64]'
  found = _one(
    f'  ROOT %fmha = ({q}, u8[0]) custom-call(%x.0, %x.1, %x.2), '
    f'custom_call_target="__cudnn$fmhaScaleBiasSoftmax{kind}"',
    *(q, k, k),
  )
  assert found.flops == num * 2 * 2 * 4 * 1024 * 512 * 64


def test_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.parse('HloModule nothing')

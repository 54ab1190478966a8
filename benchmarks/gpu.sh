#!/usr/bin/env bash
# Everything that waits for a GPU, one JSON file each in OUT; what is there
# already is not run again. SMOKE=1 runs tiny shapes on whatever is there.
#   bash benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PY=${PY:-python3}
OUT=${OUT:-results/gpu}
MATMUL=${SMOKE:+64}
MATMUL=${MATMUL:-8192}
COPY=${SMOKE:+1}
COPY=${COPY:-2048}
mkdir -p "$OUT"

# name, benchmark: flags; T = 1024
part() {
  local name=$1 bench=$2
  shift 2
  [ -s "$OUT/$name.json" ] && return
  echo "running $name" >&2
  "$PY" -m "benchmarks.$bench" --arch gpt2 --vocab 50304 --seq-len 1024 \
    --dtype bf16 --warmup 5 --steps 20 "$@" ${SMOKE:+--layers 1 --d-model 16 \
    --heads 2 --vocab 64 --seq-len 16 --batch 4 --warmup 1 --steps 2 --dtype fp32} \
    --out "$OUT/$name.json.new" >/dev/null
  mv "$OUT/$name.json.new" "$OUT/$name.json"
}

# shapes of the sizes of Bai et al. 2022; the share of the card's own matrix
# products is the utilisation that counts (goal: .45 at 810M)
lm() { part "$1" lm_train --matmul "$MATMUL" "${@:2}"; }
lm lm_train_13M --layers 4 --d-model 512 --heads 4 --batch 64
lm lm_train_197M --layers 10 --d-model 1280 --heads 10 --batch 32 --remat dots
lm lm_train_810M --layers 16 --d-model 2048 --heads 16 --batch 16 --remat dots

# equal fixed-length work, as a padded PyTorch loop does it; and, where PAIRS
# names a file of benchmarks/make_pairs.py, real pairs
part pm_train_fixed pm_train --arch llama --layers 12 --d-model 768 --heads 12 \
  --seq-len 512 --batch 32
if [ -n "${PAIRS:-}" ]; then
  part pm_train_real pm_train --arch llama --layers 12 --d-model 768 \
    --heads 12 --vocab 8192 --batch 64 --row-length 1024 \
    --pairs "$PAIRS"
fi

# a decode step beside one pass over weights and cache at the card's own copy
# rate (goal: floor_share .6 at 810M)
gen() {
  part "$1" generate --copy-mib "$COPY" --warmup 2 --steps 5 "${@:2}" \
    ${SMOKE:+--prompt-len 8 --new-tokens 4}
}
gen generate_124M --layers 12 --d-model 768 --heads 12 --batch 128 \
  --prompt-len 256 --new-tokens 256
gen generate_810M --layers 16 --d-model 2048 --heads 16 --batch 64 \
  --prompt-len 256 --new-tokens 256

# the shapes of the plain PyTorch loop that it is compared with (goal: twice its
# tokens/s when that one is compiled)
part ppo_124M ppo --arch llama --layers 12 --d-model 768 --heads 12 --batch 64 \
  --prompt-len 256 --response-len 256 --minibatches 4 --warmup 2 --steps 4 \
  --matmul "$MATMUL" ${SMOKE:+--prompt-len 8 --response-len 4}

# what plan says, and what is (goals: peak within 10 %, no bound above the time)
planned() {
  local name=$1 config=$2 topology=${CHIP:-gpu:h200} tiny=()
  shift 2
  [ -s "$OUT/$name.json" ] && return
  echo "running $name" >&2
  if [ -n "${SMOKE:-}" ]; then
    config=${config%:*}:tiny topology=cpu tiny=(--vocab 512 --repeats 1)
  fi
  "$PY" -m benchmarks.planned --config "$config" --topology "$topology" "$@" \
    "${tiny[@]}" --out "$OUT/$name.json.new" >/dev/null
  mv "$OUT/$name.json.new" "$OUT/$name.json"
}
both=(--set model.dtype=bfloat16 --set model.remat=full)
for size in 197M 810M; do
  planned "planned_pm_$size" "configs/pm.py:$size" "${both[@]}" \
    ${SMOKE:+--set batch_size=4}
  planned "planned_ppo_$size" "configs/ppo.py:$size" "${both[@]}" \
    --set pm_model.dtype=bfloat16 --set batch_size=64 \
    --set num_micro_batches=2 \
    ${SMOKE:+--set batch_size=8 --set max_prompt=16 --set max_reply=8}
done

"$PY" - "$OUT" <<'EOF'
import json, pathlib, sys
print(f'{"part":20} {"tokens/s":>12} {"TFLOP/s":>9} {"MFU":>6}  device')
for path in sorted(pathlib.Path(sys.argv[1]).glob('*_train_*.json')):
  r = json.loads(path.read_text())
  tflops, mfu = (f'{r[k]:.2f}' if k in r else '-' for k in ('model_tflops_per_s', 'mfu'))
  print(f'{path.stem:20} {r["tokens_per_s"]:12.0f} {tflops:>9} {mfu:>6}  {r["device"]}')
for path in sorted(pathlib.Path(sys.argv[1]).glob('generate_*.json')):
  r = json.loads(path.read_text())
  print(f'{path.stem:20} {r["tokens_per_s"]:12.0f} tokens/s, {r["decode_step_ms"]:.2f} ms a '
        f'decode step, {r["floor_share"]:.2f} of the floor  {r["device"]}')
for path in sorted(pathlib.Path(sys.argv[1]).glob('ppo_*.json')):
  r = json.loads(path.read_text())
  shares = ', '.join(f'{k} {r[k + "_s"] / r["step_s_median"]:.2f}' for k in ('generate', 'score', 'update'))
  print(f'{path.stem:20} {r["tokens_per_s"]:12.0f} tokens/s, MFU {r["mfu"]:.2f}, {shares} of a step, '
        f'{r["compile_s"]:.0f} s compilation  {r["device"]}')
for path in sorted(pathlib.Path(sys.argv[1]).glob('planned_*.json')):
  r = json.loads(path.read_text())
  peak = 'not counted' if r['peak'] is None else f'{r["peak_over_planned"]:.2f} of the planned'
  bounds = ', '.join(
    f'{k} {x["bound_s"] / x["seconds"]:.2f}' for k, x in r['phases'].items() if x['bound_s'] and 'seconds' in x
  )
  print(f'{path.stem:20} peak {peak}, bound / time: {bounds or "-"}  {r["device"]}')
EOF

#!/usr/bin/env bash
# Every experiment that waits for a GPU; finished runs are not run again, and
# one that was interrupted goes on. Prints the verdicts last.
#   bash experiments/gpu.sh
# SIZE=short SCALE=smoke is a smoke test. Figures and numbers go to OUT, runs to
# RUNS; ONLY="fig07_pm_accuracy_vs_data_and_size fig27_..." runs these alone;
# EXTRA="--config.probes.hhh=FILE" gives the sweeps more flags (Figs 10, 12).
set -euo pipefail
cd "$(dirname "$0")/.."
PY=${PY:-python3}
OUT=${OUT:-results/gpu}
RUNS=${RUNS:-runs}
SCALE=${SCALE:-gpu}
mkdir -p "$OUT"

# Experiments that share the preference models of one directory, in an order in
# which the first numbers come soon.
SWEEPS="
fig07_pm_accuracy_vs_data_and_size
fig31_learning_curves_mixed
fig32_learning_curves_helpful
pmp_benefit
askell_objectives
fig19_accuracy_vs_mixture
fig26_mean_accuracy_vs_mixture
fig27_accuracy_vs_harmless_weight
fig22_ood_by_layer
fig23_ood_exposure
fig39_ood_distances
fig08_accuracy_by_turn
fig09_calibration
fig10_agreement
fig12_harmful_and_gender
fig14_left_score_histograms
fig25_accuracy_above_threshold
"
failed=
for name in ${ONLY:-$SWEEPS}; do
  "$PY" -m "experiments.$name" --scale="$SCALE" \
    --workdir="$RUNS/pm_sweep_$SCALE" ${EXTRA:-} >/dev/null &&
    cp "$RUNS/pm_sweep_$SCALE"/*.json "$RUNS/pm_sweep_$SCALE"/*.png "$OUT"/ ||
    failed="$failed $name"  # the others don't wait for it
done

if [ -z "${ONLY:-}" ]; then
  "$PY" -m experiments.fig13_reward_vs_sqrt_kl --workdir="$RUNS/fig13" \
    ${SIZE:+--size="$SIZE"} --seeds="${SEEDS:-5}"
  cp "$RUNS"/fig13/fig13.json "$RUNS"/fig13/fig13.png "$OUT"/
fi
"$PY" -m experiments.table "$OUT"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }

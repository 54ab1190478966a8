#!/usr/bin/env bash
# Every experiment that waits for a GPU; finished runs are not run again, and
# one that was interrupted goes on. Prints the verdicts last.
#   bash experiments/gpu.sh
# SCALE=smoke is a smoke test. Figures and numbers go to OUT, runs to RUNS;
# ONLY="fig07_pm_accuracy_vs_data_and_size fig27_..." runs these alone;
# EXTRA="--config.probes.hhh=FILE" gives the sweeps of PMs more flags (Figs 10,
# 12), POLICY_EXTRA those of policies.
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
# Policies and best of n, in a directory of their own.
POLICIES="
fig13_reward_vs_sqrt_kl
fig04_train_and_test_pm
fig36_best_of_n
fig33_policy_and_pm_size
"
failed=
for name in ${ONLY:-$SWEEPS $POLICIES}; do
  case "$POLICIES" in
    *"$name"*) runs="$RUNS/policy_sweep_$SCALE" extra=${POLICY_EXTRA:-} ;;
    *) runs="$RUNS/pm_sweep_$SCALE" extra=${EXTRA:-} ;;
  esac
  "$PY" -m "experiments.$name" --scale="$SCALE" --workdir="$runs" $extra \
    >/dev/null && cp "$runs"/*.json "$runs"/*.png "$OUT"/ ||
    failed="$failed $name"  # the others don't wait for it
done

"$PY" -m experiments.table "$OUT"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }

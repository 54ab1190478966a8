#!/usr/bin/env bash
# A real Slurm of one node, for what `launch --on=slurm` and sweeps as job
# arrays make: two processes of a run; the same run stopped by SIGTERM, as before
# a time limit, then queued again in its middle, as after a preemption; and a
# sweep of two cells. Some minutes; prints one JSON line at the end.
#
#   apt-get install slurmctld slurmd slurm-client munge   # Debian's; as root
#   bash experiments/slurm_one_node.sh [PYTHON]           # .venv/bin/python
#
# Installs nothing. Daemons are its own, in a temporary folder, without systemd,
# cgroups or accounting; they end with it. Without Slurm it says so, and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
PATH=$(dirname "$python"):$PATH:/usr/sbin
for program in munged slurmctld slurmd sbatch; do
  if ! command -v "$program" >/dev/null; then
    echo "skipped: there is no $program"
    exit 0
  fi
done

box=$(mktemp -d)
chmod 755 "$box"
stop() {
  for daemon in slurmd slurmctld munged; do
    [ ! -f "$box/$daemon.pid" ] || kill "$(cat "$box/$daemon.pid")" || true
  done
  sleep 2
  rm -rf "$box"
}
trap stop EXIT

host=$(hostname -s)
user=$(id -un)
mkdir "$box/state" "$box/spool"
head -c 1024 /dev/urandom >"$box/key"
chmod 600 "$box/key"
munged --force --key-file="$box/key" --socket="$box/munge.socket" \
  --pid-file="$box/munged.pid" --log-file="$box/munged.log" \
  --seed-file="$box/seed"
export SLURM_CONF=$box/slurm.conf
cat >"$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host
AuthInfo=socket=$box/munge.socket
SlurmUser=$user
SlurmdUser=$user
StateSaveLocation=$box/state
SlurmdSpoolDir=$box/spool
SlurmctldPidFile=$box/slurmctld.pid
SlurmdPidFile=$box/slurmd.pid
SlurmctldLogFile=$box/slurmctld.log
SlurmdLogFile=$box/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
slurmctld
slurmd
for _ in $(seq 30); do
  [ "$(sinfo --noheader --format=%t)" != idle ] || break
  sleep 1
done
sinfo

export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2
python -m hh_jax tokenizer --config=configs/demo.py:tokenizer \
  --workdir="$box/tokenizer"
small='--config.num_steps=60 --config.save_every=4 --config.eval_every=60'
small="$small --config.data.options.num_documents=400"
small="$small --config.tokenizer=$box/tokenizer"

# A run of two processes on the node.
job() { # NAME -> NAME.sh
  # shellcheck disable=SC2086
  python -m hh_jax launch --on=slurm --gpus=0 --minutes=30 pretrain \
    --config=configs/demo.py:pretrain --workdir="$box/$1" $small >"$box/$1.sh"
}
submit() { # NAME: its number
  sbatch --parsable --ntasks-per-node=2 --output="$box/$1.log" "$box/$1.sh"
}
ended() { # NUMBER: waits until it is no longer queued or running
  while squeue --noheader --job="$1" 2>/dev/null | grep -q .; do sleep 1; done
}
job plain
ended "$(submit plain)"
[ -f "$box/plain/summary.json" ] || { cat "$box/plain.log"; exit 1; }

# The same, stopped by SIGTERM and given again, then queued again by Slurm.
show() { scontrol show job "$1" | grep -oE "$2=[0-9:]+" | cut -d= -f2; }
job again
number=$(submit again)
wait_for() { # FILE PATTERN: of the run `again`, two minutes at most
  for _ in $(seq 600); do
    if grep -q "$2" "$1" 2>/dev/null; then return; fi
    sleep 0.2
  done
  cat "$box/again.log"
  exit 1
}
wait_for "$box/again/metrics.jsonl" step
scancel --signal=TERM "$number"
ended "$number"
code=$(show "$number" ExitCode)
[ ! -f "$box/again/summary.json" ]
[ "$code" = 143:0 ]
number=$(submit again)
wait_for "$box/again/metrics.jsonl" '"step": 2[0-9]'
scontrol requeue "$number"
scontrol update JobId="$number" StartTime=now || true # not in two minutes
restarts=$(show "$number" Restarts)
[ "$restarts" -ge 1 ]
ended "$number"
[ -f "$box/again/summary.json" ] || { cat "$box/again.log"; exit 1; }
cmp "$box/plain/summary.json" "$box/again/summary.json"

# A sweep of two seeds as a job array.
python -m hh_jax sweep --config=configs/sweep.py --workdir="$box/sweep" \
  --config.recipe=pretrain --config.base=configs/demo.py:pretrain \
  --config.cells="('seed=0', 'seed=1')" --config.on=slurm --config.jobs=2 \
  --config.overrides="${small//--config./}" --config.columns="('eval/loss',)"

python - "$box" "$(sinfo --version)" "$code" "$restarts" <<'END'
import json, pathlib, sys

box = pathlib.Path(sys.argv[1])
rows = [json.loads(x) for x in open(box / 'sweep' / 'results.jsonl')]
print(json.dumps({
  'slurm': sys.argv[2],
  'processes': 2,
  'eval/loss': json.loads((box / 'plain/summary.json').read_text())['eval/loss'],
  'exit_code_of_sigterm': sys.argv[3],
  'restarts': int(sys.argv[4]),
  'summary_is_bitwise_equal': True,  # cmp above
  'sweep': {row['cell']: row['eval/loss'] for row in rows},
}))
END

#!/usr/bin/env bash
#SBATCH --job-name=timix_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
#SBATCH --signal=TERM@300
# A run on a Slurm cluster with one task per GPU (JAX gives each task the GPU of its local index).
#
#   sbatch --nodes=4 launch/slurm.sh --config=configs/vitb16.py --workdir=/shared/run
#
# Needs: Slurm; this checkout and --workdir on a file system that all nodes share; from the checkout's root, a Python
# with `pip install -e '.[cuda]'` (PYTHON=…, default .venv/bin/python if it exists). Options before the script
# replace the #SBATCH lines above: --ntasks-per-node must equal --gpus-per-node. On CPU nodes: --gpus-per-node=0.
# Five minutes before the time limit, and at a preemption, Slurm sends SIGTERM: all tasks save and leave, and the job
# is queued again until WORKDIR/results.json exists. A failure ends the job; the same sbatch resumes.
# Stop: touch stop-JOB in the checkout's root, then scancel --signal=TERM JOB: all tasks save and leave. A plain
# scancel JOB leaves less time to save. Clean up: rm -r WORKDIR slurm-*.log.
# DRY_RUN=1 bash launch/slurm.sh … prints the command.
set -uo pipefail
root=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
if [[ ! -f $root/launch/commands.sh ]]; then
  echo "error: $root is not a checkout of TiMix-JAX: call sbatch from its root" >&2
  exit 2
fi
# shellcheck source=commands.sh
source "$root/launch/commands.sh"
require_run_flags "$@"
cd "$root" || exit 1
if [[ -z ${PYTHON:-} && -x .venv/bin/python ]]; then
  PYTHON=$root/.venv/bin/python
fi
export PYTHON=${PYTHON:-python}

wait=$(longer_wait "$@")
trap : TERM # srun passes it on to the tasks; the script must outlive them
# If a task ends early, the others have time to save; after a crash JAX's heartbeat ends them.
act srun --kill-on-bad-exit=0 --wait=300 launch/worker.sh --distributed=on ${wait:+"$wait"} "$@"
code=$?
stop_file=stop-${SLURM_JOB_ID:-}
case $code in
  0) echo "finished" ;;
  75 | 143) # 143: SIGTERM came before srun or a worker could answer it
    if [[ -e $stop_file ]]; then
      rm "$stop_file"
      echo "stopped; the same sbatch resumes"
    else
      echo "not finished: queued again"
      act scontrol requeue "${SLURM_JOB_ID:?}"
    fi
    ;;
  *)
    echo "error: srun ended with code $code" >&2
    exit "$code"
    ;;
esac

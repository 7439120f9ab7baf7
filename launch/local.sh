#!/usr/bin/env bash
# Starts N processes of one run on this machine, over the loopback, as a small model of a pod.
#
#   launch/local.sh 2 --config=configs/demo.py --workdir=runs/two_processes
#
# Needs nothing but the package. PORT: of process 0, default 12355. PYTHON: the interpreter.
# Stop: Ctrl-C or SIGTERM reaches all of them; run again to resume. Nothing to clean up. STOP_WAIT: seconds they have to
# save before they are killed, default 900.
# If one fails, the others are stopped and the script ends with its exit code. DRY_RUN=1 only prints the commands.
set -euo pipefail
# shellcheck source=commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  die "usage: $0 PROCESSES --config=FILE [further flags of timix_jax.main]"
fi
processes=$1
shift
port=${PORT:-12355}
[[ $port =~ ^[1-9][0-9]{0,4}$ ]] || die "PORT='$port': give a number"
read_patience
[[ -n $(flag_value config "$@") ]] || die "--config=FILE is missing, such as --config=configs/demo.py"

children=()
# Runs once; a second signal must not end this script while the processes still save after the first.
stop() { # SECONDS
  local leaving=("${children[@]}")
  children=()
  ((${#leaving[@]})) || return 0
  leave "$1" "${leaving[@]}"
  wait "${leaving[@]}" 2>/dev/null || true
}
# After a failure there is nothing to save: the others notice it themselves, or hang.
trap 'stop $((patience < 120 ? patience : 120))' EXIT
trap 'trap "" INT TERM; stop "$patience"; exit 130' INT
trap 'trap "" INT TERM; stop "$patience"; exit 143' TERM

for ((process = 0; process < processes; process++)); do
  command=("${PYTHON:-python}" -m timix_jax.main "--coordinator=127.0.0.1:$port"
    "--processes=$processes" "--process=$process" "$@")
  if [[ -n ${DRY_RUN:-} ]]; then
    act "${command[@]}"
  else
    "${command[@]}" &
    children+=($!)
  fi
done

# If one fails, stop the others, which would wait for it.
for _ in "${children[@]}"; do
  code=0
  wait -n || code=$?
  ((code == 0)) || exit "$code"
done
children=()

#!/usr/bin/env bash
# N processes of one run on this machine, over the loopback: what a pod does, in small.
#
#   launch/local.sh 2 --config=configs/demo.py --workdir=runs/two_processes
#
# Needs nothing but the package. PORT: of process 0, default 12355. PYTHON: the interpreter.
# Stop: Ctrl-C or SIGTERM reaches all of them; run again to resume. Nothing to clean up. STOP_WAIT: seconds they have for
# their checkpoint before they are killed, default 900.
# One that fails takes the others along, and its exit code is the script's. DRY_RUN=1 prints the commands only.
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
# Once, and not cut short by a second signal: it could end this script, and with it what the first one has them save.
stop() { # SECONDS
  local told=("${children[@]}")
  children=()
  ((${#told[@]})) || return 0
  leave "$1" "${told[@]}"
  wait "${told[@]}" 2>/dev/null || true
}
# Behind a failure there is nothing to save: they find it by themselves, or stand still.
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

# One that fails takes the others along: they would wait for it.
for _ in "${children[@]}"; do
  code=0
  wait -n || code=$?
  ((code == 0)) || exit "$code"
done
children=()

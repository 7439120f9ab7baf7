#!/usr/bin/env bash
# N processes of one run on this machine, over the loopback: what a pod does, in small.
#
#   launch/local.sh 2 --config=configs/demo.py --workdir=runs/two_processes
#
# DRY_RUN=1 prints the commands only. Ctrl-C stops all of them; run again to resume.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 PROCESSES --config=FILE [further flags of timix_jax.main]" >&2
  exit 2
fi
processes=$1
shift
port=${PORT:-12355}

children=()
stop() { ((${#children[@]})) && kill "${children[@]}" 2>/dev/null || true; }
trap stop EXIT INT TERM

for ((process = 0; process < processes; process++)); do
  command=(python -m timix_jax.main "--coordinator=127.0.0.1:$port" "--processes=$processes"
    "--process=$process" "$@")
  if [[ -n ${DRY_RUN:-} ]]; then
    echo "${command[*]}"
  else
    "${command[@]}" &
    children+=($!)
  fi
done

# One that fails takes the others along: they would wait for it.
for _ in "${children[@]}"; do
  wait -n
done

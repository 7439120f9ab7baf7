#!/usr/bin/env bash
# A run on machines reached by ssh, without a scheduler: one process per machine, with all its GPUs.
#
#   HOSTS="gpu1 gpu2" DIRECTORY=/shared/timix_jax launch/ssh.sh run --config=configs/vitb16.py --workdir=/shared/run
#
# Needs: passwordless ssh to every host; the checkout at DIRECTORY on each (default: the path of this one), installed
# with `pip install -e '.[cuda]'` into PYTHON (default .venv/bin/python there); --workdir on a shared file system or
# gs://; a port of the first host that the others can reach (PORT, default 12355; COORDINATOR if its address differs from
# its ssh name). The NAME in `NAME=… launch/ssh.sh` keeps several runs on the same hosts apart (default: run); STOP_WAIT
# as in worker.sh.
# Stop: Ctrl-C, or `launch/ssh.sh stop` with the same HOSTS: all save and leave; run again to resume. A host that fails
# stops the others. Clean up: rm -r WORKDIR. DRY_RUN=1 prints the commands.
# Exit code: 0 = finished; 75 = stopped before the end; else that of the first host to fail.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=commands.sh
source "$here/commands.sh"

usage="usage: HOSTS=\"HOST …\" $0 run|stop [flags of timix_jax.main]"
(($# >= 1)) || die "$usage"
command=$1
shift
read -r -a hosts <<<"${HOSTS:-}"
((${#hosts[@]})) || die "HOSTS is not set, such as HOSTS=\"gpu1 gpu2\"; $usage"
directory=${DIRECTORY:-$(dirname "$here")}
port=${PORT:-12355}
[[ $port =~ ^[1-9][0-9]{0,4}$ ]] || die "PORT='$port': give a number"
read_patience
pid_file=/tmp/timix_jax-${NAME:-run}.pid
[[ ${NAME:-run} =~ ^[A-Za-z0-9_.-]+$ ]] || die "NAME='$NAME': letters, digits, '.', '_' and '-'"
# The process id may belong to another program by now.
stop_command="test ! -s $pid_file || { pid=\$(cat $pid_file); ! grep -qs launch/worker.sh /proc/\$pid/cmdline || kill \$pid; }"

children=()
stop_all() {
  local leaving=("${children[@]}") host
  children=()
  for host in "${hosts[@]}"; do
    act ssh -o BatchMode=yes "${alive[@]/#/-o}" "$host" "$stop_command" || true
  done
  ((${#leaving[@]})) || return 0
  wait "${leaving[@]}" || true
}

run() {
  local index host remote code wait
  wait=$(longer_wait "$@")
  trap 'trap "" INT TERM; stop_all; exit 130' INT TERM
  for index in "${!hosts[@]}"; do
    host=${hosts[index]}
    remote="cd $(quoted "$directory") && echo \$\$ > $pid_file && export STOP_WAIT=$patience"
    remote+=" PYTHON=$(quoted "${PYTHON:-.venv/bin/python}")"
    remote+=" && exec launch/worker.sh --coordinator=$(quoted "${COORDINATOR:-${hosts[0]}}:$port")"
    remote+=" --processes=${#hosts[@]} --process=$index${wait:+ $wait} $(quoted "$@")"
    if [[ -n ${DRY_RUN:-} ]]; then
      act ssh -o BatchMode=yes "${alive[@]/#/-o}" "$host" "$remote"
    else
      ssh -o BatchMode=yes "${alive[@]/#/-o}" "$host" "$remote" &
      children+=($!)
    fi
  done
  [[ -z ${DRY_RUN:-} ]] || return 0
  local result=0
  for _ in "${hosts[@]}"; do
    code=0
    wait -n || code=$?
    if ((code != 0 && code != 75)); then
      stop_all
      return "$code"
    fi
    ((code == 0)) || result=$code
  done
  return "$result"
}

case $command in
  run)
    require_run_flags "$@"
    run "$@"
    ;;
  stop)
    (($# == 0)) || die "stop takes no further arguments: $1; $usage"
    stop_all
    ;;
  *) die "unknown command '$command'; $usage" ;;
esac

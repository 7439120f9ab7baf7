# shellcheck shell=bash
# Shared functions of the launchers: they run commands, or with DRY_RUN=1 print them ready to be pasted.

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# Quotes the words so that a shell reads them back unchanged.
quoted() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# Runs a command; with DRY_RUN=1 prints it and succeeds.
act() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# ask ANSWER COMMAND…: prints the output of the command; with DRY_RUN=1 shows the command and prints ANSWER.
ask() {
  local answer=$1
  shift
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%s\n' "$(quoted "$@")" >&3
    printf '%s\n' "$answer"
  else
    "$@"
  fi
}
exec 3>&1

# For ssh: end the connection to a machine that no longer answers after two minutes instead of hours.
# shellcheck disable=SC2034 # used by the scripts that source this
alive=("ConnectTimeout=30" "ServerAliveInterval=30" "ServerAliveCountMax=4")

# Sets `patience`: seconds that a process may take to save once it is told to stop.
read_patience() {
  patience=${STOP_WAIT:-900}
  [[ $patience =~ ^(0|[1-9][0-9]*)$ ]] || die "STOP_WAIT='$patience': give a number of seconds"
}

# leave SECONDS PID…: asks these children to leave, waits, and kills those that have not left in time.
leave() {
  local seconds=$1 until=$((SECONDS + $1)) child
  shift
  kill "$@" 2>/dev/null || true
  while ((SECONDS < until)) && kill -0 "$@" 2>/dev/null; do # true while one of them is running
    sleep 0.2
  done
  for child in "$@"; do
    ! kill -KILL "$child" 2>/dev/null || echo "error: process $child had not left after $seconds s: killed" >&2
  done
}

# flag_value NAME FLAG…: the value of the last --NAME=VALUE among the flags; empty if there is none.
flag_value() {
  local name=$1 flag value=""
  shift
  for flag in "$@"; do
    [[ $flag == "--$name="* ]] && value=${flag#*=}
  done
  printf '%s' "$value"
}

# longer_wait FLAG…: a --connect_timeout for pods and machines that start minutes apart; empty if one is given.
longer_wait() {
  [[ -n $(flag_value connect_timeout "$@") ]] || printf '%s' --connect_timeout=900
}

# Ends the script unless the flags of a run are complete; the folder that machines share must be named.
require_run_flags() {
  local flag
  for flag in "$@"; do
    [[ $flag == --* ]] || die "'$flag' is not a flag: give flags of timix_jax.main as --NAME=VALUE"
  done
  [[ -n $(flag_value config "$@") ]] || die "--config=FILE is missing, such as --config=configs/vitb16.py"
  [[ -n $(flag_value workdir "$@") ]] ||
    die "--workdir=FOLDER is missing: give a folder that all machines share, such as gs://BUCKET/run"
}

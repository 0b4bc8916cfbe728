#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on each worker of a pod; not for you to start.
#
#   tpu_worker.sh install              makes an environment in this checkout
#   tpu_worker.sh run ID [WORDS ...]   starts `spex WORDS`, or follows it
#   tpu_worker.sh stop                 asks what runs to end, and waits for it
#
# `run` starts a process of its own session, so that a lost connection ends
# nothing: the same ID follows the process that is there. Another ID ends it
# first. Exit code: that of `spex`, but 65 in place of 1, which is gcloud's own.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${SPEX_STATE:-$HOME/.spex}
grace=${SPEX_GRACE:-600}  # Seconds from SIGTERM to SIGKILL.
uv_version=0.13.9

main() {
  local action=${1:-}
  (( $# )) && shift
  mkdir -p "$state"
  case $action in
    install) install_here ;;
    run) run "$@" ;;
    stop) stop ;;
    *) echo "tpu_worker.sh: no action '$action'" >&2; exit 64 ;;
  esac
}

install_here() {
  cd "$root"
  [[ ! -e env/.installed ]] || return 0
  # Of the user alone, whom newer systems forbid even that.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user \
    "uv==$uv_version"
  local uv=(python3 -m uv --quiet)
  # TPU VMs have Python 3.10; the locks are of 3.12.
  "${uv[@]}" venv --clear --python 3.12 env
  local lock
  for lock in requirements-core.lock launch/locks/{stores,tpu}.lock; do
    "${uv[@]}" pip install --python env/bin/python --require-hashes -r "$lock"
  done
  "${uv[@]}" pip install --python env/bin/python --no-deps \
    --no-build-isolation .
  touch env/.installed
}

run() {
  local id=$1 code
  shift
  cd "$state"
  exec 9> lock
  flock 9  # Two that start at once are one after the other.
  if [[ ! -e $id.started ]]; then
    stop
    touch "$id.started" "$id.log"
    # A session of its own; the code is there last, and whole.
    # shellcheck disable=SC2016
    setsid bash -c '
      cd "$HOME"
      state=$1 id=$2
      shift 2
      code=0
      "$@" >> "$state/$id.log" 2>&1 || code=$?
      echo $code > "$state/$id.code.tmp"
      mv "$state/$id.code.tmp" "$state/$id.code"
    ' bash "$state" "$id" "${SPEX:-$root/env/bin/spex}" "$@" \
      < /dev/null > /dev/null 2>&1 9>&- &
    echo "$! $id $(boot)" > running
  fi
  flock -u 9
  tail --lines=+1 --follow=name "$id.log" 2> /dev/null 9>&- &
  # shellcheck disable=SC2064
  trap "kill $! 2> /dev/null || true" EXIT
  local leader other machine
  read -r leader other machine < running
  until [[ -e $id.code ]]; do
    sleep "${SPEX_POLL:-1}"
    # Of another run, killed, or of before a restart of the machine: nobody is
    # left to write the code.
    if [[ $other != "$id" || $machine != "$(boot)" ]] \
        || ! kill -0 "$leader" 2> /dev/null; then
      [[ -e $id.code ]] || exit 75
    fi
  done
  sleep "${SPEX_POLL:-1}"  # What was written last is shown, too.
  code=$(< "$id.code")
  if (( code == 1 )); then exit 65; fi
  exit "$code"
}

stop() {
  cd "$state"
  local leader id machine waited=0
  [[ -e running ]] || return 0
  read -r leader id machine < running
  [[ $machine == "$(boot)" ]] || return 0
  # The command alone: its parent is to write down how it ended.
  while [[ ! -e $id.code ]] && ! pkill -TERM --parent "$leader" \
      && kill -0 "$leader" 2> /dev/null; do
    sleep 0.1  # It has just begun.
  done
  while [[ ! -e $id.code ]] && kill -0 "$leader" 2> /dev/null; do
    if (( waited++ >= grace * 10 )); then
      # First, for who follows takes a run without it for one nobody ended.
      echo 137 > "$id.code"
      kill -KILL -- "-$leader" 2> /dev/null || true
    fi
    sleep 0.1
  done
}

# A process number means nothing after a restart of the machine.
boot() { cat /proc/sys/kernel/random/boot_id; }

main "$@"

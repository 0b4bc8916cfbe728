#!/usr/bin/env bash
# Runs a sweep on the workers of a TPU pod, without Kubernetes.
#
#   launch/tpu_pod.sh --name=TPU --zone=ZONE --config=FILE[:SIZE] \
#     --workdir=gs://BUCKET/RUN [flags] [-- more flags of `spex sweep run`]
#
# Copies this checkout to all workers, installs it from the locks, and runs the
# same `spex sweep run --distributed` on each. A lost connection ends nothing:
# the same command follows what runs.
#
#   --project=PROJECT        of gcloud; default: its own
#   --watch                  makes the pod, makes it again when it is preempted,
#                            and goes on until all is done; needs
#   --accelerator_type=TYPE  v6e-16, say, and
#   --runtime_version=NAME   v2-alpha-tpuv6e, say
#   --spot                   at the price of what may be preempted
#   --delete                 deletes the pod when all is done: it costs money
#   --attempts=N             most runs of a --watch (100)
#   --pause=SECONDS          between two looks at a pod (30)
#   --grace=SECONDS          that a shard may take when it is asked to end (600)
#   --code=FOLDER            of your own modules, for builders of your own
#   --internal_ip            reaches workers by their internal addresses
#   --stop                   asks the workers to end behind their shards
#   --python=PROGRAM         with `spex` installed, to check the sweep (python3)
#   --dry_run                prints the commands, and starts nothing
#   --help                   prints this
#
# Several workers need an agent with your key (ssh-add
# ~/.ssh/google_compute_engine).
#
# Exit code 0 if all is done, 65 if trying again does not mend it, 64 if this
# command is wrong, and else 75: the same command goes on.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name='' zone='' config='' workdir='' project='' accelerator_type=''
runtime_version='' python=python3 attempts=100 pause=30 grace=600
code_folder=''
watch='' spot='' delete='' stop='' dry_run='' internal_ip=''
extra=() common=() there=''

fail() { echo "tpu_pod.sh: $1" >&2; exit "${2:-64}"; }
say() { echo "tpu_pod.sh: $1" >&2; }
quoted() { printf '%q ' "$@" | sed 's/ $//'; }

main() {
  read_flags "$@"
  check
  common=("--zone=$zone" ${project:+"--project=$project"})
  there=$(place)
  if [[ $stop ]]; then
    on_workers "$(quoted bash "$there/launch/tpu_worker.sh" stop)"
    exit
  fi
  check_sweep
  local id number code=0
  id=$(date -u +%Y%m%dT%H%M%S)-$$
  if [[ ! $watch ]]; then
    { copy && attempt "$id"; } || code=$?
    finish "$code"
  fi
  for (( number = 1; number <= attempts; number++ )); do
    until_active
    say "run $number on $name"
    code=0
    { copy && attempt "$id-$number"; } || code=$?
    if (( code == 0 || code == 65 )); then finish "$code"; fi
    say "run $number ended with $code; what was published stays"
    sleep "$pause"
  done
  fail "$attempts runs did not finish the sweep; see spex sweep status." 75
}

read_flags() {
  local word key
  while (( $# )); do
    word=$1
    shift
    key=${word%%=*}
    case $key in
      --)
        extra=("$@")
        return ;;
      --help | -h)
        sed -n '2,/^set -/{/^set -/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 0 ;;
      --name | --zone | --config | --workdir | --project | --python | --code \
        | --accelerator_type | --runtime_version | --attempts | --pause \
        | --grace)
        [[ $word == *=?* ]] || fail "$key needs a value: $key=..."
        key=${key#--}
        printf -v "${key/%code/code_folder}" %s "${word#*=}" ;;
      --watch | --spot | --delete | --stop | --dry_run | --internal_ip)
        [[ $word != *=* ]] || fail "$key has no value."
        printf -v "${key#--}" %s yes ;;
      *) fail "unknown argument $word; see --help." ;;
    esac
  done
}

check() {
  local key
  for key in name zone; do
    [[ ${!key} ]] || fail "--$key=... is missing; see --help."
  done
  [[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] \
    || fail "--name=$name: lower-case letters, digits and -, a letter first."
  for key in attempts pause grace; do
    [[ ${!key} =~ ^[0-9]+$ ]] || fail "--$key=${!key} is no whole number."
  done
  [[ $dry_run ]] || command -v gcloud > /dev/null \
    || fail "gcloud is not installed here; --dry_run needs none."
  [[ ! $stop ]] || return 0
  for key in config workdir; do
    [[ ${!key} ]] || fail "--$key=... is missing; see --help."
  done
  [[ $workdir == *://* ]] \
    || fail "workdir $workdir is a path, and workers share none: give a URL \
(gs://BUCKET/RUN)."
  [[ -f ${config%%:*} ]] || fail "no sweep ${config%%:*} here."
  [[ ! $code_folder || -d $code_folder ]] \
    || fail "--code=$code_folder: no folder."
  if [[ $watch ]]; then
    [[ $accelerator_type && $runtime_version ]] || fail "--watch needs \
--accelerator_type=v6e-16, say, and --runtime_version=v2-alpha-tpuv6e, say."
  elif [[ $spot$delete ]]; then
    fail "--spot and --delete are for --watch, which makes the pod."
  fi
}

# The sweep as its workers will load it, and no flag that they do not know.
check_sweep() {
  spex sweep run "--config=$config" "--workdir=$workdir" \
    ${extra[@]+"${extra[@]}"} --dry_run >&2 \
    || fail "the sweep is refused, as said above (--python=$python)." 65
}

spex() {
  local path=$root${code_folder:+:$code_folder}${PYTHONPATH:+:$PYTHONPATH}
  PYTHONPATH=$path "$python" -c 'from spex_jax import cli; cli.run()' "$@"
}

# Prints a command, and runs it unless this is a dry run.
cloud() {
  echo "+ gcloud $(quoted "$@")" >&2
  [[ $dry_run ]] || gcloud "$@"
}

on_workers() {
  cloud compute tpus tpu-vm ssh "$name" "${common[@]}" --worker=all \
    ${internal_ip:+--internal-ip} "--command=$1"
}

sources=(
  requirements-core.lock setup.cfg pyproject.toml README.md LICENSE spex_jax
  experiments/configs launch/tpu_worker.sh launch/locks/stores.lock
  launch/locks/tpu.lock
)

# The checkout's place on a worker, by its contents: what is there is kept.
place() {
  local digest
  digest=$(cd "$root" && find "${sources[@]}" -type f \
    ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z \
    | xargs -0 sha256sum | sha256sum)
  echo "spex-${digest:0:12}"
}

# The sweep's own files go to `sweep` in a worker's home directory.
copy() {
  local bundle code=0
  bundle=$(mktemp -d)
  { mkdir "$bundle/sweep" \
    && cp "${config%%:*}" "$bundle/sweep/" \
    && { [[ ! $code_folder ]] || cp -r "$code_folder" "$bundle/sweep/code"; } \
    && tar --create --gzip --exclude=__pycache__ --directory="$root" \
      --file="$bundle/$there.tgz" "${sources[@]}" \
    && cloud compute tpus tpu-vm scp --recurse "$bundle/$there.tgz" \
      "$bundle/sweep" "$name:" "${common[@]}" --worker=all \
      ${internal_ip:+--internal-ip} \
    && on_workers "mkdir -p $there && tar -xzf $there.tgz -C $there && \
bash $there/launch/tpu_worker.sh install"; } || code=$?
  rm -rf "$bundle"
  return "$code"
}

attempt() {
  local size=
  [[ $config != *:* ]] || size=:${config#*:}
  on_workers "$(quoted env JAX_PLATFORMS=tpu,cpu PYTHONPATH=sweep/code \
    "SPEX_GRACE=$grace" bash "$there/launch/tpu_worker.sh" run "$1" sweep run \
    "--config=sweep/$(basename "${config%%:*}")$size" "--workdir=$workdir" \
    --distributed --timeout=900 ${extra[@]+"${extra[@]}"})"
}

# Ends this command; after all processes ended well nothing may be missing.
finish() {
  local code=$1
  if (( code == 0 )) && [[ ! $dry_run ]]; then
    spex sweep status "--workdir=$workdir" >&2 || code=75
    (( code )) || complete || {
      say "not all is there; see what was given up, above."
      code=65
    }
  fi
  if (( code == 0 )) && [[ $delete ]]; then
    remove
  elif [[ $watch && ! $dry_run ]]; then
    say "pod $name is still there, and costs money; \
gcloud compute tpus queued-resources delete $name $(quoted "${common[@]}") \
--force"
  fi
  case $code in
    0 | 65) exit "$code" ;;
    *) exit 75 ;;
  esac
}

complete() {
  spex sweep status "--workdir=$workdir" --json | grep -q '"complete": true'
}

# Waits for the pod; makes it where there is none, or one that is gone.
until_active() {
  local found
  if [[ $dry_run ]]; then
    create
    return
  fi
  while true; do
    # A list, since an empty one is no error: `describe` fails for many reasons.
    found=$(gcloud compute tpus queued-resources list "${common[@]}" \
      "--filter=name~/$name\$" '--format=value(state.state)') || found=unknown
    case $found in
      ACTIVE) return ;;
      '') create || say "not made; tried again in $pause s" ;;
      SUSPENDED | FAILED)
        say "pod $name is $found: made again"
        remove || true ;;
      *) say "pod $name is $found" ;;
    esac
    sleep "$pause"
  done
}

create() {
  cloud compute tpus queued-resources create "$name" "--node-id=$name" \
    "${common[@]}" "--accelerator-type=$accelerator_type" \
    "--runtime-version=$runtime_version" ${spot:+--spot}
}

remove() {
  cloud compute tpus queued-resources delete "$name" "${common[@]}" --force \
    --quiet
}

main "$@"

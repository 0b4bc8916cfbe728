#!/bin/bash
# A Slurm of two nodes on this machine's loopback, to try launchers on.
#
#   launch/slurm_loopback.sh start DIR    prints what to set; takes seconds
#   launch/slurm_loopback.sh stop DIR
#   launch/slurm_loopback.sh controller DIR    starts a killed slurmctld again
#
# Everything lies under DIR: keys, configuration, logs, process numbers; /etc
# stays as it is. Works as root in a container, without systemd and without
# cgroups. Needs slurmctld, slurmd, sbatch and munged (on Debian: apt-get
# install slurmctld slurmd slurm-client munge).
#
# Nodes are called 127.0.0.1 and 127.0.0.2, so that their names resolve. There
# are two partitions: jobs in `urgent` take the nodes from those in `main`,
# which get 20 s (GraceTime). A requeued job starts after 5 s, not two minutes
# (cred_expire). SPEX_SLURM_PORT (default 17100) and the four above are used.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

usage() {
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
die() {
  echo "$*" >&2
  exit 1
}

[ $# -eq 2 ] || usage
action=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
port=${SPEX_SLURM_PORT:-17100}
nodes=(127.0.0.1 127.0.0.2)
export SLURM_CONF=$dir/slurm.conf

# Whether the process whose number is in a file lives; one that was killed may
# wait for init to take note.
alive() {
  local pid
  pid=$(cat "$1" 2> /dev/null) && [ -n "$pid" ] || return 1
  case $(ps -o stat= -p "$pid") in
    "" | Z*) return 1 ;;
  esac
}

configure() {
  local cpus=$((($(nproc) + 1) / 2)) user
  user=$(id -un)
  cat > "$SLURM_CONF" << CONF
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=60
CONF
  local i
  for i in "${!nodes[@]}"; do
    echo "NodeName=${nodes[i]} NodeHostname=localhost" \
      "NodeAddr=${nodes[i]} Port=$((port + 1 + i)) CPUs=$cpus" \
      "RealMemory=1000" >> "$SLURM_CONF"
  done
  cat >> "$SLURM_CONF" << CONF
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
CONF
}

start() {
  local program
  for program in munged slurmctld slurmd sbatch; do
    command -v $program > /dev/null || die "$program is missing; on Debian:" \
      "apt-get install slurmctld slurmd slurm-client munge"
  done
  [ "$(id -u)" = 0 ] || die "slurmd needs root."
  ! alive "$dir/slurmctld.pid" || die "$dir has a Slurm that runs; stop it."
  mkdir -p "$dir/munge" "$dir/state"
  chmod 755 "$dir/munge"
  if [ ! -s "$dir/munge/key" ]; then
    (umask 077 && head -c 1024 /dev/urandom > "$dir/munge/key")
  fi
  configure
  # --force: parents of DIR may be writable by others, as /tmp is.
  munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
    --pid-file="$dir/munge.pid" --log-file="$dir/munged.log" \
    --seed-file="$dir/munge/seed" 2>> "$dir/munged.log"
  slurmctld -c
  local node
  for node in "${nodes[@]}"; do
    slurmd -N "$node"
  done
  local tries
  for tries in $(seq 150); do
    if [ "$(sinfo -h -N -t idle -p main -o %N 2> /dev/null | wc -l)" = \
      ${#nodes[@]} ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.2
  done
  die "The nodes did not come up in 30 s; see $dir/*.log."
}

stop() {
  local file pid tries
  if alive "$dir/slurmd-${nodes[0]}.pid"; then
    controller # It may have been killed; jobs would outlive it.
    scancel --me
    for tries in $(seq 100); do
      [ -n "$(squeue -h)" ] || break
      sleep 0.2
    done
  fi
  for file in "$dir"/slurmd-*.pid "$dir/slurmctld.pid" "$dir/munge.pid"; do
    alive "$file" || continue
    pid=$(cat "$file")
    kill "$pid"
    for tries in $(seq 50); do
      alive "$file" || break
      [ "$tries" != 50 ] || kill -9 "$pid"
      sleep 0.1
    done
  done
  # What no controller knew of, as it was killed too soon.
  local task
  for pid in $(ps -C slurmstepd -o pid=); do
    grep -qzxsF "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" || continue
    for task in $(ps --ppid "$pid" -o pid=); do
      kill -9 -- "-$task" 2> /dev/null || true # Its process group.
    done
    kill -9 "$pid" 2> /dev/null || true
  done
}

controller() {
  alive "$dir/slurmctld.pid" || slurmctld
  local tries
  for tries in $(seq 100); do
    ! scontrol ping 2> /dev/null | grep -q "is UP" || return 0
    sleep 0.2
  done
  die "slurmctld does not answer; see $dir/slurmctld.log."
}

case $action in
  start) start ;;
  stop) stop ;;
  controller) controller ;;
  *) usage ;;
esac

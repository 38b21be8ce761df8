#!/usr/bin/env bash
# cluster.sh - a real Slurm cluster of several virtual nodes on one machine.
#
#   cluster.sh install             apt-get install what is needed (once)
#   cluster.sh up                  start munged, slurmctld and NODES slurmd's
#   cluster.sh down                stop everything this script started, by pid
#   cluster.sh status              sinfo, squeue and the daemons' pids
#   cluster.sh kill-node N         power loss: SIGKILL slurmd and every step of node N
#   cluster.sh kill-slurmd N       SIGKILL only slurmd of node N; its job steps live on
#   cluster.sh start-node N        boot node N again
#   cluster.sh cut-net N           with NET=ns: unplug node N, whose processes live on
#   cluster.sh slow-net N RATE     with NET=ns: let what is sent to node N pass at RATE (10mbit)
#   cluster.sh join-net N          undo both
#   cluster.sh exec N CMD...       run CMD inside node N's namespaces
#   cluster.sh env                 print the shell line that points clients at the cluster
#
# Settings (environment):
#   RUN    state directory, all files live here       (default /run/slurm-lab)
#   NODES  number of virtual nodes node1..nodeN       (default 4)
#   GPUS   fake GPUs per node                         (default 8)
#   CPUS   CPUs each node claims to have              (default 64)
#   MEM    MiB of memory each node claims to have     (default 1000000)
#   BIG    schedulable nodes with nothing behind them (default 0), partition "big",
#          for `sbatch --test-only` of jobs larger than NODES
#   NET    lo: nodes share the host's network, addresses 127.0.1.x (default)
#          ns: each node has a network namespace of its own, 198.51.100.x
#
# Each node is a process tree in its own UTS, PID and mount namespaces (and with
# NET=ns a network namespace): `hostname` says nodeN, a node sees only its own
# processes, and killing the namespace's init kills the node as a power cut would.
# Root is needed. Outside RUN nothing is written; with NET=ns there are the bridge labbr0 and
# namespaces lab-nodeN, which `down` removes.
set -euo pipefail

RUN=${RUN:-/run/slurm-lab}
NODES=${NODES:-4}
GPUS=${GPUS:-8}   # at least 1
CPUS=${CPUS:-64}
MEM=${MEM:-1000000}
BIG=${BIG:-0}
NET=${NET:-lo}
SLURMD_PORT=17000      # node K listens on SLURMD_PORT+K
CTLD_PORT=16817

export SLURM_CONF=$RUN/slurm.conf
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

say() { echo "cluster: $*"; }
die() { echo "cluster: $*" >&2; exit 1; }

addr() { if [ "$NET" = ns ]; then echo "198.51.100.$((10 + $1))"; else echo "127.0.1.$1"; fi; }
ctl_addr() { if [ "$NET" = ns ]; then echo 198.51.100.1; else echo 127.0.0.1; fi; }

# wait_for SECONDS WHAT CMD...: poll CMD until it succeeds, or WHAT, where it is a
# recorded daemon, has died. One poll may take no longer than two seconds: a Slurm client
# keeps retrying for a while when there is no controller.
wait_for() {
    local limit=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    while [ $SECONDS -lt "$end" ]; do
        timeout 2 "$@" >/dev/null 2>&1 && return 0
        if [ -e "$RUN/pid/$what" ] && ! pid_of "$what" >/dev/null; then
            grep -hi fatal "$RUN/log/$what.out" >&2 || true
            die "$what died (logs: $RUN/log)"
        fi
        sleep 0.1
    done
    die "timed out after ${limit}s waiting for $what (logs: $RUN/log)"
}

# A pid file is trusted only while the process's start time is the recorded one:
# after a reboot or a pid wrap, the number may be somebody else's. A zombie is dead:
# the machine's init may be slow to reap.
start_time() { sed -n 's/.*) //; /^[^ZX]/p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
record() { echo "$2 $(start_time "$2")" >"$RUN/pid/$1"; }
pid_of() {
    local pid start
    read -r pid start 2>/dev/null <"$RUN/pid/$1" || return 1
    [ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ] && echo "$pid"
}
stop() { # stop NAME [SIGNAL]: signal it, wait 5 s, then SIGKILL
    local pid i
    if pid=$(pid_of "$1"); then
        kill -"${2:-TERM}" "$pid" 2>/dev/null || true
        for ((i = 0; i < 50; i++)); do pid_of "$1" >/dev/null || break; sleep 0.1; done
        if pid=$(pid_of "$1"); then kill -KILL "$pid" 2>/dev/null || true; fi
    fi
    rm -f "$RUN/pid/$1"
}

install() {
    local want=(slurmctld slurmd slurm-client munge iproute2)
    dpkg -s "${want[@]}" >/dev/null 2>&1 && return 0
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${want[@]}"
}

write_config() {
    local k
    {
        cat <<CONF
ClusterName=lab
SlurmctldHost=$(hostname -s)($(ctl_addr))
SlurmctldPort=$CTLD_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
# cred_expire is also how long a requeued job waits before it may start again (default 120 s).
AuthInfo=socket=$RUN/munge/socket,cred_expire=5
StateSaveLocation=$RUN/state
SlurmdSpoolDir=$RUN/spool/%n
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/spool/slurmd.%n.pid
SlurmctldLogFile=$RUN/log/slurmctld.log
SlurmdLogFile=$RUN/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
# No cgroups, no affinity: the nodes claim more than the machine has.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Without a default a job that names no --mem takes all of its node's memory.
DefMemPerCPU=1000
SchedulerType=sched/backfill
# Hetjobs are started only by the backfill scheduler: let it run every second.
SchedulerParameters=bf_interval=1,sched_interval=5,batch_sched_delay=0
# Preemption: a job in "high" requeues jobs of "batch"; --signal is sent first.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
# Short timers, so that node failures are noticed within a test's patience.
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
InactiveLimit=0
BatchStartTimeout=20
MessageTimeout=10
CompleteWait=0
MinJobAge=600
GresTypes=gpu
CONF
        echo AccountingStorageType=accounting_storage/none
        for ((k = 1; k <= NODES; k++)); do
            echo "NodeName=node$k NodeHostname=node$k NodeAddr=$(addr "$k") Port=$((SLURMD_PORT + k))" \
                "CPUs=$CPUS RealMemory=$MEM Gres=gpu:h100:$GPUS State=UNKNOWN"
        done
        echo "PartitionName=batch Nodes=node[1-$NODES] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10 OverSubscribe=NO"
        echo "PartitionName=high Nodes=node[1-$NODES] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF OverSubscribe=NO"
        if [ "$BIG" != 0 ]; then
            # Powered-down cloud nodes count as available, so --test-only can plan on them.
            cat <<CONF
SuspendProgram=/bin/true
ResumeProgram=/bin/true
ResumeTimeout=60
NodeName=big[1-$BIG] CPUs=$CPUS RealMemory=$MEM Gres=gpu:h100:$GPUS State=CLOUD
PartitionName=big Nodes=big[1-$BIG] MaxTime=INFINITE State=UP
CONF
        fi
    } >"$RUN/slurm.conf"
    # With device files (any will do) Slurm sets CUDA_VISIBLE_DEVICES in each step.
    echo "Name=gpu Type=h100 File=$RUN/dev/gpu[0-$((GPUS - 1))]" >"$RUN/gres.conf"
    : >"$RUN/plugstack.conf"
    mkdir -p "$RUN/dev"
    for ((k = 0; k < GPUS; k++)); do
        [ -e "$RUN/dev/gpu$k" ] || mknod "$RUN/dev/gpu$k" c 1 3 # another /dev/null
    done
}

write_hosts() { # each node sees this file in the place of /etc/hosts
    local k
    cat /etc/hosts >"$RUN/hosts"
    for ((k = 1; k <= NODES; k++)); do echo "$(addr "$k") node$k" >>"$RUN/hosts"; done
}

start_munge() {
    mkdir -p "$RUN/munge"
    chmod 755 "$RUN/munge"
    [ -s "$RUN/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$RUN/munge/key")
    munged --force --socket="$RUN/munge/socket" --key-file="$RUN/munge/key" \
        --log-file="$RUN/munge/log" --pid-file="$RUN/munge/pid" --seed-file="$RUN/munge/seed"
    wait_for 30 munged sh -c "munge -n -S $RUN/munge/socket | unmunge -S $RUN/munge/socket"
    record munged "$(cat "$RUN/munge/pid")"
}

start_ctld() {
    slurmctld -D -f "$SLURM_CONF" >"$RUN/log/slurmctld.out" 2>&1 &
    record slurmctld $!
    wait_for 60 slurmctld scontrol ping
}

start_node() {
    local k=${1#node} flags=(--uts --pid --mount --fork --kill-child --mount-proc)
    pid_of "node$k" >/dev/null && { say "node$k is already up"; return 0; }
    mkdir -p "$RUN/spool/node$k"
    # Init of the node: names it, starts slurmd, then only reaps orphans (a slurmstepd
    # outlives slurmd). It is the pid to kill to make the whole node vanish.
    local init='
        hostname "$1"
        mount --bind "$2/hosts" /etc/hosts
        mount -t tmpfs tmpfs "$2/local"        # node-local scratch
        mount -t tmpfs tmpfs /dev/shm          # and shared memory, as on a node of its own
        # Off the network, a name server is a 5 s time-out for each look-up: have none.
        if [ "$3" = ns ]; then mount --bind "$2/resolv.conf" /etc/resolv.conf; fi
        slurmd -N "$1" -f "$SLURM_CONF"
        trap : CHLD
        while :; do sleep 1000 & wait $!; done'
    mkdir -p "$RUN/local"
    : >"$RUN/resolv.conf"
    local net=()
    if [ "$NET" = ns ]; then make_net "$k"; net=(nsenter "--net=/run/netns/lab-node$k"); fi
    # (nsenter, as `ip netns exec` remounts /sys and so hides the cgroups slurmd looks for.)
    setsid "${net[@]}" unshare "${flags[@]}" bash -c "$init" init "node$k" "$RUN" "$NET" \
        >"$RUN/log/init.node$k.log" 2>&1 </dev/null &
    record "node$k" $!
}

make_net() { # NET=ns: a namespace lab-nodeK, joined by a veth pair to the bridge labbr0
    local k=$1
    ip link show labbr0 >/dev/null 2>&1 || {
        ip link add labbr0 type bridge
        ip addr add 198.51.100.1/24 dev labbr0
        ip link set labbr0 up
    }
    ip netns list | grep -qw "lab-node$k" && return 0
    ip netns add "lab-node$k"
    ip link add "lab-v$k" type veth peer name eth0 netns "lab-node$k"
    ip link set "lab-v$k" master labbr0 up
    ip -n "lab-node$k" link set lo up
    ip -n "lab-node$k" addr add "$(addr "$k")/24" dev eth0
    ip -n "lab-node$k" link set eth0 up
}

remove_net() {
    local ns link
    for ns in /run/netns/lab-node*; do
        if [ -e "$ns" ]; then ip netns del "$(basename "$ns")"; fi
    done
    # A namespace goes only with its last process, and its link with it: of a run that was broken off
    # elsewhere the daemons may still be there.
    for link in /sys/class/net/lab-v*; do
        if [ -e "$link" ]; then ip link del "$(basename "$link")" || [ ! -e "$link" ]; fi
    done
    if ip link show labbr0 >/dev/null 2>&1; then ip link del labbr0; fi
}

# The pid, as the host sees it, of the init inside node K: the child of unshare.
inner() { pgrep -o -P "$(pid_of "node$1" || die "node$1 is not up")" || die "node$1 has no init"; }
enter() { local k=$1 p; shift; p=$(inner "$k"); nsenter -t "$p" --uts --pid --mount --net "$@"; }

all_idle='[ "$(sinfo -h -p batch -N -t idle -o %n | sort -u | wc -l)" = "$0" ]'

up() {
    [ "$(id -u)" = 0 ] || die "root is needed"
    down # whatever an earlier run, whole or broken off, left behind
    rm -rf "$RUN/state" "$RUN/spool" "$RUN/log"
    mkdir -p "$RUN"/{pid,state,spool,log}
    write_config
    write_hosts
    # Remember the settings, for the commands that come later.
    printf '%s=%q\n' NODES "$NODES" NET "$NET" >"$RUN/settings"
    start_munge
    if [ "$NET" = ns ]; then for ((k = 1; k <= NODES; k++)); do make_net "$k"; done; fi # slurmctld binds to the bridge
    start_ctld
    for ((k = 1; k <= NODES; k++)); do start_node "$k"; done
    wait_for 120 "all $NODES nodes to be idle" bash -c "$all_idle" "$NODES"
    say "up: $NODES nodes; export SLURM_CONF=$SLURM_CONF"
}

down() {
    local f
    stop slurmctld
    for f in "$RUN"/pid/node*; do
        if [ -e "$f" ]; then stop "$(basename "$f")" KILL; fi
    done
    stop munged
    if command -v ip >/dev/null; then remove_net; fi
    say down
}

case ${1:-} in up | install) ;; *) if [ -r "$RUN/settings" ]; then . "$RUN/settings"; fi ;; esac
case ${1:-} in
    install) install ;;
    up) up ;;
    down) down ;;
    status) sinfo; squeue; head -50 "$RUN"/pid/* ;;
    kill-node) stop "node${2#node}" KILL; say "node${2#node} lost power" ;;
    kill-slurmd) enter "${2#node}" sh -c "kill -9 \$(cat $RUN/spool/slurmd.node${2#node}.pid)" ;;
    start-node) start_node "${2#node}" ;;
    cut-net) ip link set "lab-v${2#node}" down ;;
    slow-net) tc qdisc replace dev "lab-v${2#node}" root tbf rate "$3" burst 64k latency 200ms ;;
    join-net)
        tc qdisc del dev "lab-v${2#node}" root 2>/dev/null || true
        ip link set "lab-v${2#node}" up
        ;;
    exec) k=${2#node}; shift 2; enter "$k" "$@" ;;
    env) echo "export SLURM_CONF=$SLURM_CONF" ;;
    *) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac

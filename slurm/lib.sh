# shellcheck shell=bash disable=SC2154 # the job script sets the variables named below
# What the job scripts share; sourced by them on the first node of the job.
#
# A job script sets these, then calls job_begin, perhaps job_preflight, job_run (once for each step)
# and job_end:
#   run_dir        directory of the run, on a file system that all nodes share; the attempts of
#                  this job go below it, and it is where checkpoints and finished.json are looked for
#   steps          training steps that the run is to get to; 0 where there is no such number
#   python         array: the interpreter inside a step
#   srun_options   array: options of every srun, such as --container-image=FILE
#   in_step        array: what stands before the interpreter, such as apptainer exec FILE
#   limits         array: --max-restarts N --max-stalled N
#   watch_options  array: --hang-timeout S --stop-grace S --kill-grace S
#   lost_node_wait seconds for Slurm to requeue the job itself after a node was lost
# and, with rollout servers (job_serve and job_wait_for_servers come before job_run):
#   server_options array: --start-timeout S --silence-timeout S --max-restarts N
#   on_train       array: options of srun for the trainer's nodes; job_share_nodes sets both, or the
#   on_serve       job script does, such as --het-group=1

is_warned=false
is_terminated=false
num_agents=0
step_pids=()
server_pids=()
on_train=()
on_serve=()

job_say() { echo "$(date '+%F %T') job: $*" >&2; }

# Slurm's own commands retry for minutes when the controller is down.
job_slurm() { timeout 60 "$@"; }

# A program of the package on the first node, with the environment that the steps have.
job_python() {
  if [[ ${#srun_options[@]} -gt 0 ]]; then
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" "${srun_options[@]}" \
      "${in_step[@]}" "${python[@]}" "$@"
  else
    "${in_step[@]}" "${python[@]}" "$@"
  fi
}

# Names the attempt, sets the traps and asks whether there is anything to do.
job_begin() {
  local status=0
  attempt="$run_dir/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
  mkdir -p "$attempt"
  ln -sfn "${attempt##*/}" "$run_dir/latest"
  trap job_on_warning USR1
  trap job_on_term TERM
  job_say "attempt $attempt on $SLURM_JOB_NODELIST"
  job_python -m launch.supervise begin --run-dir "$run_dir" --attempt "$attempt" \
    --steps "$steps" "${limits[@]}" || status=$?
  case $status in
    0) ;;
    3) exit 0 ;;
    *) exit "$status" ;;
  esac
}

# Looks at every node before the ranks start: job_preflight GPUS_PER_NODE MIN_GB_PER_S OPTIONS...
# where neighbours must exchange tensors at so many GB/s at least. Unfit nodes are named, and the job
# is requeued without them.
job_preflight() {
  local gpus="$1" min_gb_per_s="$2" nodes bad status=0
  shift 2
  nodes="$(job_slurm scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd ' ')"
  srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit=0 \
    --wait=300 "${srun_options[@]}" "${in_step[@]}" "${python[@]}" -m launch.preflight nodes \
    --attempt "$attempt" --nodes "$nodes" --gpus "$gpus" "$@" || true
  bad="$(job_python -m launch.preflight verdict --attempt "$attempt" --nodes "$nodes" \
    --min-all-reduce "$min_gb_per_s")"
  [[ -n "$bad" ]] || return 0
  # Nodes whose check was cut off are not unfit.
  if $is_terminated; then exit 130; fi
  job_python -m launch.supervise unfit --run-dir "$run_dir" --attempt "$attempt" --bad "$bad" \
    "${limits[@]}" || status=$?
  [[ $status -eq 72 ]] || exit "$status"
  job_requeue_without "$bad"
}

# Requeues the job on other nodes. The list of excluded nodes can be changed only while a job waits;
# Slurm lets this script live for a few seconds more, and a requeued job wait for longer than that.
job_requeue_without() {
  local tries before excluded="$1"
  before="$(job_slurm scontrol -o show job "$SLURM_JOB_ID" | grep -o ' ExcNodeList=[^ (]*')" || true
  before="${before#*=}"
  if [[ -n "$before" ]]; then excluded="$before,$1"; fi
  job_may_requeue || exit 130
  job_say "requeueing without $1"
  # Inherited by scontrol, not by timeout, which the end of this job would end.
  trap '' TERM
  scontrol requeue "$SLURM_JOB_ID" || exit 1
  for ((tries = 0; tries < 50; tries++)); do
    if scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$excluded" 2>/dev/null; then break; fi
    sleep 0.2
  done
  exit 1
}

# SIGUSR1 so long before the time limit or a preemption as --signal says. The agents find the file
# and ask their ranks, which stop after the step in progress and save.
job_on_warning() {
  job_say "time limit or preemption ahead: stopping after the step in progress"
  is_warned=true
  echo USR1 >"$attempt/stop"
}

# SIGTERM comes with scancel, and where Slurm itself ends a job. Slurm requeues the latter; a job that
# requeued itself could not be cancelled.
job_on_term() {
  job_say "asked to end"
  is_terminated=true
}

# Whether the job is still Slurm's to run: one that was cancelled a moment ago is not.
job_may_requeue() {
  ! $is_terminated && job_slurm scontrol -o show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'
}

# Shares out the nodes of the job: job_share_nodes NUMBER, so many to the trainer, the others to
# rollout servers.
job_share_nodes() {
  local names
  mapfile -t names < <(job_slurm scontrol show hostnames "$SLURM_JOB_NODELIST")
  on_train=(--overlap --nodelist="$(IFS=, && echo "${names[*]:0:$1}")")
  on_serve=(--overlap --nodelist="$(IFS=, && echo "${names[*]:$1}")")
}

# Starts rollout servers: job_serve NODES SERVERS_PER_NODE ARGUMENTS... where the arguments are those
# of the interpreter of each server, with {port} for its port. Returns at once.
job_serve() {
  local nodes="$1" servers="$2"
  shift 2
  num_agents=$((num_agents + nodes))
  srun "${on_serve[@]}" --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 \
    --kill-on-bad-exit=0 --wait=120 --output="$attempt/serve-%N.log" "${srun_options[@]}" \
    "${in_step[@]}" "${python[@]}" -m launch.servers run --attempt "$attempt" \
    --servers "$servers" "${server_options[@]}" -- "$@" &
  server_pids+=($!)
}

# Waits until all servers answer: job_wait_for_servers NUMBER SECONDS; their addresses, separated by
# commas, are then in $servers. The job ends where they do not come up, or where it is told to.
job_wait_for_servers() {
  local pid status=0
  job_say "waiting for $1 rollout servers"
  job_python -m launch.servers addresses --attempt "$attempt" --count "$1" --wait "$2" \
    >"$attempt/servers.txt" &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    # Told to stop, it sees that by itself; a job that is to end does not wait for it.
    if $is_terminated; then kill "$pid" 2>/dev/null || true; fi
    status=0
    wait "$pid" || status=$?
  done
  if [[ $status -ne 0 ]] || $is_terminated; then job_end; fi
  servers="$(<"$attempt/servers.txt")"
  job_say "rollout servers: $servers"
}

# Starts one agent on each of some nodes: job_run ROLE NODES PROCESSES_PER_NODE ARGUMENTS...
# where the arguments are those of the interpreter. Returns at once; job_end waits.
job_run() {
  local role="$1" nodes="$2" processes="$3"
  shift 3
  num_agents=$((num_agents + nodes))
  # The agents end together by themselves; --wait is for the case that one of them cannot.
  srun "${on_train[@]}" --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 \
    --kill-on-bad-exit=0 --wait=120 --output="$attempt/$role-%N.log" "${srun_options[@]}" \
    "${in_step[@]}" "${python[@]}" -m launch.agent --attempt "$attempt" --role "$role" --procs "$processes" \
    "${watch_options[@]}" -- "$@" &
  step_pids+=($!)
}

# Waits for processes. A signal ends `wait` early; the step goes on.
job_wait() {
  local pid
  for pid in "$@"; do
    while kill -0 "$pid" 2>/dev/null; do
      wait "$pid" || true
    done
  done
}

# Waits for the steps, records why they ended and ends or requeues the job accordingly.
job_end() {
  local status=0 flags=()
  job_wait "${step_pids[@]}"
  if [[ ${#server_pids[@]} -gt 0 ]]; then
    touch "$attempt/servers-stop"
    job_wait "${server_pids[@]}"
  fi
  if $is_terminated; then
    flags=(--terminated)
  elif $is_warned; then
    flags=(--warned)
  fi
  job_python -m launch.supervise conclude --run-dir "$run_dir" --attempt "$attempt" \
    --nodes "$num_agents" ${flags[@]+"${flags[@]}"} "${limits[@]}" || status=$?
  if [[ $status -eq 77 ]]; then
    job_say "waiting up to $lost_node_wait s for Slurm to notice the lost node and requeue the job"
    sleep "$lost_node_wait" &
    wait $! || true # ended by a signal, unlike a sleep in the foreground
    status=72
  fi
  if [[ $status -eq 72 ]]; then
    job_may_requeue || exit 130
    job_say "requeueing"
    job_slurm scontrol requeue "$SLURM_JOB_ID" || exit 1
    # Slurm ends this script; whatever it returned would be taken for the job's own end.
    trap - TERM
    sleep 300
  fi
  exit "$status"
}

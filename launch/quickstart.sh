#!/usr/bin/env bash
# Train twice from the same start, with the same seed and budget: once on the outcome-only reward,
# once on the LongRLVR reward, and show both runs on one page.
#
#   bash launch/quickstart.sh [OPTIONS] [key=value ...]
#
#   --recipe NAME   a shipped recipe or a YAML file (default: tiny_cpu)
#   --steps N       training steps of each run (default: as the recipe says)
#   --procs N       processes, data-parallel unless layout.* says otherwise (default: 2)
#   --dir DIR       where the two runs and report.html go (default: runs/quickstart, for another
#                   recipe runs/quickstart-NAME)
#   --dry-run       check the configuration and print what would run
#   --help          print this
#   key=value       settings of both runs, such as optimizer.lr=1e-3 or layout.tp=2; with
#                   rollout.engine=vllm_colocated or vllm_server, vLLM for CPU is installed too
#
# Calling it again continues what was interrupted and skips what is finished. Exit codes: 0 finished,
# 1 a run failed, 2 a setting or a file is wrong, 75 a run stopped because the judge gave too few
# verdicts, 130 stopped.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$repo/.venv/bin/python"
variants=(outcome_only longrlvr)

recipe=tiny_cpu
procs=2
dir=""
dry_run=false
overrides=()

usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

refuse() {
  echo "quickstart: $* (see --help)" >&2
  exit 2
}

read_arguments() {
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --recipe | --steps | --procs | --dir)
        [[ -n "${2:-}" ]] || refuse "$1 needs a value"
        read_option "$1" "$2"
        shift
        ;;
      --dry-run) dry_run=true ;;
      --help | -h) usage && exit 0 ;;
      run.dir=* | run.name=* | rewards.variant=*) refuse "${1%%=*} is set by the quickstart" ;;
      -*) refuse "unknown option $1" ;;
      *=*) overrides+=("$1") ;;
      *) refuse "$1 is neither an option nor key=value" ;;
    esac
    shift
  done
}

read_option() {
  case "$1" in
    --recipe) recipe="$2" && [[ ! -f "$2" ]] || recipe="$(realpath -- "$2")" ;;
    --dir) dir="$(realpath --canonicalize-missing -- "$2")" ;;
    --steps | --procs)
      [[ "$2" =~ ^[1-9][0-9]*$ ]] || refuse "$1 must be a positive number, got $2"
      if [[ "$1" == --procs ]]; then procs="$2"; else overrides+=("trainer.steps=$2"); fi
      ;;
    *) refuse "unknown option $1" ;;
  esac
}

# vLLM samples otherwise than the learner computes, so its log-probabilities are computed again; and
# on CPU it takes no narrow heads. What is given on the command line stays.
adapt_to_vllm() {
  local needed
  local wanted=(algorithm.proximal=recompute)
  [[ "$recipe" != tiny_cpu ]] || wanted+=(model.path=toy_start_wide)
  for needed in "${wanted[@]}"; do
    [[ " ${overrides[*]}" == *" ${needed%%=*}="* ]] && continue
    echo "quickstart: with vLLM, $needed"
    overrides+=("$needed")
  done
}

# Runs a command and waits for it. In a session of its own, so that Ctrl-C does not reach its
# processes twice: from the terminal and, one after the other, from those that watch them.
child=""
supervise() {
  local status=0
  setsid "$@" &
  child=$!
  wait "$child" || status=$?
  child=""
  return "$status"
}

stop() {
  trap '' INT TERM
  if [[ -n "$child" ]]; then
    # The runs take it as the wish to stop after the step in progress.
    kill -s TERM "$child" 2>/dev/null || true
    wait "$child" || true
  fi
  echo "quickstart: stopped; the same command continues in $dir" >&2
  exit "$1"
}

failed() {
  if [[ "$1" -eq 75 ]]; then
    echo "quickstart: stopped for want of verdicts; the same command continues in $dir" >&2
  fi
  exit "$1"
}

# The arguments of `longrlvr` for one of the two runs, in the array `arguments`.
name_run() {
  arguments=(train "$recipe" ${overrides[@]+"${overrides[@]}"}
    "rewards.variant=$1" "run.name=$1" "run.dir=$dir/$1")
}

# Says in one line what is wrong with the settings, before any process is started.
check() {
  name_run "$1"
  WORLD_SIZE="$procs" "$python" -m megatron_longrlvr "${arguments[@]}" --dry-run
}

train() {
  name_run "$1"
  # --local-addr: the processes meet on this machine, whatever its name resolves to.
  # --shutdown-timeout: seconds for the step in progress and its checkpoint after Ctrl-C.
  supervise "$python" -m launch.torchrun --standalone --local-addr 127.0.0.1 \
    --shutdown-timeout 120 --nproc-per-node "$procs" -m megatron_longrlvr "${arguments[@]}"
}

# Exported models hold what their runs ended with, and transformers computes with them the same.
verify_exports() {
  local variant run
  for variant in "${variants[@]}"; do
    run="$dir/$variant"
    [[ -d "$run/hf" && -d "$run/checkpoints" ]] || continue
    echo "quickstart: comparing $run/hf with the checkpoint that it was made of"
    supervise "$python" tools/verify_conversion.py "$run" "$run/hf" --model "$run/hf" --logits
  done
}

write_report() {
  supervise "$python" -m megatron_longrlvr report "${variants[@]/#/$dir/}" \
    --output "$dir/report.html"
}

read_arguments "$@"
if [[ -z "$dir" ]]; then
  dir="$repo/runs/quickstart"
  [[ "$recipe" == tiny_cpu ]] || dir="$dir-$(basename "$recipe" .yaml)"
fi
trap 'stop 130' INT
trap 'stop 143' TERM
packages=()
[[ " ${overrides[*]-} " != *" trainer.loop=nemo_aligner "* ]] || packages+=(--aligner)
if [[ " ${overrides[*]-}" == *" rollout.engine=vllm_"* ]]; then
  packages+=(--vllm)
  adapt_to_vllm
fi
bash "$repo/launch/setup.sh" ${packages[@]+"${packages[@]}"}
cd "$repo" # recipes name their models and data from here
export OMP_NUM_THREADS=1 # one thread a process: two processes fill two cores

# Some recipes start from a model and data that have to be made.
prepare="$repo/launch/prepare_$recipe.sh"
if [[ -f "$prepare" ]]; then
  if $dry_run; then echo "quickstart: would run $prepare"; else supervise bash "$prepare"; fi
fi

if $dry_run; then
  for variant in "${variants[@]}"; do
    check "$variant"
    echo "quickstart: would train with the $variant reward in $procs processes"
  done
  echo "quickstart: would write $dir/report.html"
  exit 0
fi

for variant in "${variants[@]}"; do
  check "$variant" >/dev/null
done
for variant in "${variants[@]}"; do
  echo "quickstart: $variant reward -> $dir/$variant"
  train "$variant" || failed $?
done
verify_exports
write_report >/dev/null
echo "report: $dir/report.html"

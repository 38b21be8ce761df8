# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# What the plain job scripts of this folder share: they are submitted from the checkout and take
# everything that a site profile would say from sbatch's options and these variables:
#   LONGRLVR_PYTHON     interpreter (default: .venv/bin/python of the checkout)
#   LONGRLVR_PROCS      processes on each node (default: one for each GPU, or one)
#   LONGRLVR_PREFLIGHT  MIN_GB_PER_S OPTIONS, see job_preflight of lib.sh; "no" starts without

checkout="${LONGRLVR_HOME:-$SLURM_SUBMIT_DIR}"
python=("${LONGRLVR_PYTHON:-$checkout/.venv/bin/python}")
processes="${LONGRLVR_PROCS:-${SLURM_GPUS_ON_NODE:-1}}"
srun_options=()
in_step=()
limits=(--max-restarts 20 --max-stalled 2)
watch_options=(--hang-timeout 1800 --stop-grace 240 --kill-grace 60)
lost_node_wait=300
steps=0

export PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
# srun does not take it from the job by itself; without it, a step has all cores of its nodes.
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
cd "$checkout" || exit 1
# shellcheck source=lib.sh
source "$checkout/slurm/lib.sh"

# Trains a recipe on all nodes of the job: plain_train RECIPE [key=value ...]
plain_train() {
  local resolved preflight
  resolved="$("${python[@]}" -m launch.resolve --nodes "$SLURM_NNODES" --procs "$processes" "$@")" \
    || exit
  { read -r run_dir && read -r steps; } <<<"$resolved"
  read -r -a preflight <<<"${LONGRLVR_PREFLIGHT:-0}"
  job_begin
  if [[ "${preflight[0]}" != no ]]; then
    job_preflight "${SLURM_GPUS_ON_NODE:-0}" "${preflight[@]}"
  fi
  job_run train "$SLURM_NNODES" "$processes" -m megatron_longrlvr train "$run_dir/job/recipe.json"
  job_end
}

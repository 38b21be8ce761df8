#!/usr/bin/env bash
# Lint, types and tests, in the environment of launch/setup.sh --tests.
#
#   bash tests/run.sh                        everything
#   bash tests/run.sh tests/unit -k reward   the arguments go to pytest
#
# All stages run; the exit code is that of the first one that failed, and the last line is pytest's.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
bash launch/setup.sh --tests || exit
bin="$PWD/.venv/bin"
export OMP_NUM_THREADS=1 # distributed tests start several processes on few cores
first_failure=0

stage() {
  local status=0
  echo "== ${*##*/}"
  "$@" || status=$?
  if [[ $status -ne 0 ]]; then
    echo "FAILED (exit $status): ${*##*/}"
    [[ $first_failure -ne 0 ]] || first_failure=$status
  fi
}

stage "$bin/ruff" check .
stage "$bin/ruff" format --check .
stage "$bin/mypy"
echo "== pytest $*"
"$bin/python" -m pytest --durations=15 --durations-min=1 "$@"
status=$?
[[ $first_failure -ne 0 ]] || first_failure=$status
exit "$first_failure"

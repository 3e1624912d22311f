#!/usr/bin/env bash
# Runs the tests, in a process for each core, of which each takes whole files. Arguments go to pytest: -m quick (under a
# minute), tests/network (one room), -k vae, -n 0 (all in one process, for a debugger). The first run sets up .venv.
set -euo pipefail
more_requirements=requirements-test.txt
# shellcheck source=SCRIPTDIR/../tools/setup_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../tools/setup_env.sh"
cd -- "$root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the cores are taken
exec "$python" -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@"

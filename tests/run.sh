#!/usr/bin/env bash
# Runs the tests. Arguments go to pytest: -m quick (under a minute), tests/network (one room), -k vae. The first run sets
# up .venv.
set -euo pipefail
more_requirements=requirements-test.txt
source "$(dirname -- "${BASH_SOURCE[0]}")/../tools/setup_env.sh"
cd -- "$root"
exec "$python" -m pytest "$@"

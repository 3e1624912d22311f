#!/usr/bin/env bash
# Opens the studio: a page in the browser on which videos are made, compared and looked at.
#
#   bash studio.sh                               the small models, and all others of configs/
#   bash studio.sh --base CONFIG… [key=value…]   another model, which is chosen at first
#
# Any option of studio.py may follow (bash studio.sh --help). The first run adds the packages of requirements-studio.txt
# to .venv (see tools/setup_env.sh).
set -euo pipefail
more_requirements=requirements-studio.txt
source "$(dirname -- "${BASH_SOURCE[0]}")/tools/setup_env.sh"

# As in inference.sh: keep the memory of freed large tensors.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1073741824} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1073741824}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)} TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}

exec "$python" "$root/studio.py" "$@"

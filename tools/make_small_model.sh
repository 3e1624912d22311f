#!/usr/bin/env bash
# Makes the small models from nothing: clips, autoencoder, text encoder, text-to-video, image-to-video and their table.
#
#   bash tools/make_small_model.sh [--out FOLDER] [--also NAME…] [--quick] [--plan] [--processes N]
#                                  [--precision bfloat16]
#
# The same command again continues what was stopped. The options stand in tools/make_small_model.py. The first run sets
# up .venv (see tools/setup_env.sh).
set -euo pipefail
# shellcheck source=SCRIPTDIR/setup_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"

# Keep the memory of freed large tensors; asking the system for zeroed pages again each time is slow.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1073741824} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1073741824}
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}

exec "$python" "$root/tools/make_small_model.py" "$@"

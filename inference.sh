#!/usr/bin/env bash
# Samples videos.
#
#   bash inference.sh                            small models, prompts of configs/prompts*.txt
#   bash inference.sh CONFIG… [key=value…]       any other model; adds configs/inference.yaml unless it is given
#   bash inference.sh --from-metadata RECORD…    the videos of records, again
#
# Any option of sample_video.py may follow the configurations. Options without a configuration (bash inference.sh
# --seed 3) apply to the small models. Videos go to outputs/, or to the folder that --output-dir or the variable OUTPUT_DIR
# names, those of the small models to a folder of each there. The first run sets up .venv (see tools/setup_env.sh).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/tools/setup_env.sh"

# Keep the memory of freed large tensors; asking the system for zeroed pages again each time is slow.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1073741824} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1073741824}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)} TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}

if [[ " $* " == *" --from-metadata"[\ =]* ]]; then
    exec "$python" "$root/sample_video.py" ${OUTPUT_DIR:+--output-dir "$OUTPUT_DIR"} "$@"
fi

configs=()
shared=$root/configs/inference.yaml
if [[ ${1-} == --base ]]; then shift; fi  # as sample_video.py is called
while [[ $# -gt 0 && $1 != -* && ( $1 != *=* || -f $1 ) ]]; do
    if [[ ${1##*/} == inference.yaml ]]; then shared=; fi
    configs+=("$1")
    shift
done

if [[ ${#configs[@]} -gt 0 ]]; then
    exec "$python" "$root/sample_video.py" --base "${configs[@]}" ${shared:+"$shared"} \
        ${OUTPUT_DIR:+--output-dir "$OUTPUT_DIR"} "$@"
fi

videos=${OUTPUT_DIR:-$root/outputs}
words=()
while [[ $# -gt 0 ]]; do  # each model has a folder of its own in the folder that is named
    case $1 in
        --output-dir | --output_dir) videos=${2-}; shift ;;
        --output-dir=* | --output_dir=* | args.output_dir=*) videos=${1#*=} ;;
        --base | --save-text-embeddings* | --input-type* | args.save_text_embeddings=* | args.input_type=*)
            echo "error: ${1%%=*} is for one model, and without a configuration there are two; name one first, such as" \
                "bash inference.sh configs/tiny_t2v.yaml" >&2
            exit 2 ;;
        *) words+=("$1") ;;
    esac
    if [[ -z $videos ]]; then echo "error: --output-dir: no folder is named" >&2; exit 2; fi
    shift
done
set -- ${words[@]+"${words[@]}"}
OMP_NUM_THREADS=$(( (OMP_NUM_THREADS + 1) / 2 ))

make_videos() {  # replaces its subshell by Python, so that a signal to the one reaches the other
    local model=tiny_$1
    shift
    exec "$python" "$root/sample_video.py" --base "$root/configs/$model.yaml" "$shared" \
        --output-dir "$videos/$model" "$@"
}

# Both models run side by side on half of the cores each. The output of the second follows when the first has ended.
said=$(mktemp)
make_videos i2v "$@" >"$said" 2>&1 &
second=$!
trap 'kill "$second" 2>/dev/null || true; rm -f -- "$said"' EXIT
(make_videos t2v "$@")
status=0
wait "$second" || status=$?
cat -- "$said" >&2
if [[ $status -ne 0 ]]; then exit "$status"; fi

if [[ " $* " =~ " --plan " || " $* " =~ " args.plan=true " || " $* " =~ " --help " || " $* " =~ " -h " ]]; then
    exit  # nothing was made
fi
echo "The videos are in $videos/tiny_t2v and $videos/tiny_i2v: 000000.mp4 in each folder, frames.png shows its frames."

"""Export the transformer's weights of a checkpoint, without training state, in a dtype of choice.

    python tools/export_weights.py runs/tiny_t2v checkpoints/tiny/t2v --dtype float16

SOURCE may be in any spelling that docs/released_models.md lists. TARGET gets `latest` and
`<iteration>/mp_rank_00_model_states.pt`.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

import torch

from common.console import run
from common.errors import CheckpointError
from common.files import check_empty, whole_folder
from weights.checkpoint import NETWORK_PREFIX, STATES, read_checkpoint, save_checkpoint
from weights.lora_files import HEADER
from weights.lora_names import is_matrix
from weights.sources import transformer_weights

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export_weights(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """Write the transformer's tensors of `source` to the new folder `target` in `dtype`; a LoRA keeps its alpha.

    Returns the file. Raises CheckpointError if there are no such tensors, or values overflow, and DataError if `target`
    holds anything.
    """
    check_empty(target)
    weights = transformer_weights(source)
    converted = {NETWORK_PREFIX + k: v.to(dtype) for k, v in weights.read().items()}
    overflown = [k for k, v in converted.items() if not torch.isfinite(v).all()]
    if overflown:
        raise CheckpointError(f"checkpoint {weights.source}: {overflown[0]} does not fit {dtype}; export in a wider "
                              "--dtype")
    file = weights.source if weights.source.is_file() else None
    if any("lora_" in name or is_matrix(name) for name in converted) and not (
            file and HEADER in read_checkpoint(file)):
        raise CheckpointError(f"{weights.source} is a LoRA of another program, whose strength is kept elsewhere; "
                              "convert it with tools/convert_lora.py")
    header = {key: value for key, value in read_checkpoint(file).items() if key == HEADER} if file else {}
    with whole_folder(target) as folder:
        written = save_checkpoint(folder, file.parent.name if file and file.name == STATES else "release",
                                  {"module": converted} | header)
    return target / written.relative_to(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkpoint folder or file")
    parser.add_argument("target", type=Path, help="the folder to write, new or empty")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    options = parser.parse_args(argv)
    written = export_weights(options.source, options.target, DTYPES[options.dtype])
    sys.stdout.write(f"{written}: {written.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    sys.exit(run(main))

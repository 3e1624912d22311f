"""Export the transformer's weights of a checkpoint, without training state, in a dtype of choice.

    python tools/export_weights.py runs/tiny_t2v checkpoints/tiny/t2v --dtype float16

The layout stays the same: `latest` and `<iteration>/mp_rank_00_model_states.pt`.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

import torch

from common.console import run
from common.errors import CheckpointError
from weights.checkpoint import NETWORK_PREFIX, find_checkpoint, read_state_dict, save_checkpoint

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export_weights(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """Write the transformer's tensors of `source` to `target` in `dtype`; integer tensors keep their dtype.

    Returns the file. Raises CheckpointError if there are no such tensors, or values overflow.
    """
    file = find_checkpoint(source)
    state = {k: v for k, v in read_state_dict(file).items() if k.startswith(NETWORK_PREFIX)}
    if not state:
        raise CheckpointError(f"checkpoint {file} holds no tensors under {NETWORK_PREFIX}")
    converted = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    overflown = [k for k, v in converted.items() if not torch.isfinite(v).all()]
    if overflown:
        raise CheckpointError(f"checkpoint {file}: {overflown[0]} does not fit {dtype}; export in a wider --dtype")
    return save_checkpoint(target, file.parent.name, {"module": converted})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkpoint folder or file")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    options = parser.parse_args(argv)
    written = export_weights(options.source, options.target, DTYPES[options.dtype])
    sys.stdout.write(f"{written}: {written.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    sys.exit(run(main))

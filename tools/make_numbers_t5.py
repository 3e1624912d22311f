"""Make the text encoder of the captions with numbers and relations, from that of the first captions.

    python tools/make_numbers_t5.py --start checkpoints/tiny/t5 --out runs/small_model/tiny/t5_numbers

It differs from the first one in three ways, so that a network can learn what the first one cannot tell it:

- Each whole number from 0 to 64 is one token. Its embedding lies on a smooth curve, so that a number which training
  never showed lies between its neighbours. Random embeddings would leave it unknown.
- Each attention head looks at one neighbour: one or two words back or ahead. The first encoder's heads hardly know the
  order of words, which its captions do not need; here "a red circle left of a blue square" is to differ from "a blue
  circle left of a red square".
- There are a few more words.

All other rows and layers are those of the first encoder. The same files and seed give the same files. Takes seconds.
"""
import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import sentencepiece.sentencepiece_model_pb2 as formats
import torch
from torch import Tensor, nn

from common.console import run
from common.files import expanded_path
from engine.t5_files import check_t5_folder
from engine.text_encoder import load_t5

logger = logging.getLogger("make_numbers_t5")

WORDS = ("radius", "speed", "above", "larger", "than", "(")  # where a word is missing, it would be spelled in letters
LARGEST = 64
WAVELENGTHS = (12.0, 256.0)  # from the shortest, several steps of 1, to one of which all numbers are a quarter
SENTINELS = 100  # that the tokenizer adds after the pieces
NEIGHBOURS = (1, 17, 2, 18)  # T5's buckets of one word back, one ahead, two back and two ahead, a head each
ATTENTION = 6.0  # added to the logits, whose standard deviation is about 1

PIECES = "spiece.model"


def number_rows(count: int, width: int) -> Tensor:
    """Return embeddings (count, width) of the whole numbers from 0: sines and cosines of geometric wavelengths."""
    shortest, longest = WAVELENGTHS
    waves = shortest * (longest / shortest) ** torch.linspace(0, 1, width // 2)
    angle = 2 * torch.pi * torch.arange(count)[:, None] / waves
    return 2**0.5 * torch.cat([angle.cos(), angle.sin()], dim=1)  # the other rows have a root mean square of 1 as well


def extend_pieces(path: Path, out: Path) -> tuple[int, dict[str, int]]:
    """Write the sentencepiece model with the new words and numbers; return the earlier and all pieces' numbers."""
    proto: Any = formats.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]  # made at run time
    before = len(proto.pieces)
    known = {piece.piece for piece in proto.pieces}
    numbers = [str(value) for value in range(LARGEST + 1)]
    for piece in (*(f"\u2581{word}" for word in (*WORDS, *numbers)), *numbers):  # with and without a space before
        if piece not in known:
            proto.pieces.add(piece=piece, score=-5.0)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    out.write_bytes(proto.SerializeToString())
    return before, {piece.piece: number for number, piece in enumerate(proto.pieces)}


def extend_encoder(encoder: Any, before: int, pieces: dict[str, int], seed: int) -> None:
    """Give an encoder rows for all pieces, and heads that look at neighbours; in place."""
    old = encoder.shared.weight.data
    drawn = torch.randn(len(pieces), old.shape[1], generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([old[:before], drawn[before:], old[-SENTINELS:]])
    for value, row in enumerate(number_rows(LARGEST + 1, old.shape[1])):
        for piece in (f"{value}", f"\u2581{value}"):
            rows[pieces[piece]] = row
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(rows))
    encoder.config.vocab_size = len(rows)
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data
    for head, bucket in enumerate(NEIGHBOURS):
        bias[bucket, head] += ATTENTION


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="checkpoints/tiny/t5", metavar="FOLDER",
                        help="text encoder of the first captions (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="of the new words' rows (default: %(default)s)")
    options = parser.parse_args(argv)
    start, out = (expanded_path(getattr(options, name), f"--{name}") for name in ("start", "out"))
    folder = check_t5_folder(str(start), None)
    encoder: Any = load_t5(folder, "cpu")
    out.mkdir(parents=True, exist_ok=True)
    before, pieces = extend_pieces(folder.tokenizer / PIECES, out / PIECES)
    extend_encoder(encoder, before, pieces, options.seed)
    encoder.save_pretrained(out)
    logger.info("%d pieces, %d of them new, in %s", len(pieces), len(pieces) - before, out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run(main))

"""Make the text encoder of the small models: a sentencepiece model and a T5 v1.1 encoder with random weights.

    python tools/make_tiny_t5.py --out checkpoints/tiny/t5

A random encoder gives different words different embeddings, which is all that the diffusion transformer needs to learn
their meaning. Each of the 25 words of the shapes world is one token, and so are some spare words for later fine-tuning;
other text is split into letters. Case does not matter. The same seed gives the same files. Takes seconds.
"""
import argparse
import io
import logging
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import sentencepiece
import sentencepiece.sentencepiece_model_pb2 as formats
import torch
from transformers import T5Config, T5EncoderModel

from common.console import run
from tools.shapes_world import all_combinations

logger = logging.getLogger("make_tiny_t5")

SPARE_WORDS = """
the an of in at to and or with from into over under behind two three small large big tiny left-right fast slow slowly
orange pink brown cyan magenta gold silver turquoise navy beige color dark light bright striped dotted plain
star heart ring cross diamond pentagon hexagon oval rectangle cube ball dot line arrow moon shape
rotates spins bounces stays stops jumps falls rises blinks fades turns waves rolls diagonally up-down still
sky sea grass sand snow wall floor room scene video picture
""".split()
LETTERS = string.ascii_lowercase + string.digits + string.punctuation.replace("_", "")


def write_pieces(folder: Path) -> int:
    """Write spiece.model with T5's special pieces (pad 0, eos 1, unk 2); return the number of pieces.

    Sentencepiece is trained only for its text normalization. Its pieces, which are odd for so few words, are replaced:
    by whole words, and by less likely single letters for all other text.
    """
    captions = [c.caption for c in all_combinations()]
    words = sorted({word for caption in captions for word in caption.split()})
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_writer=model, model_type="unigram", vocab_size=60, num_threads=1,
        normalization_rule_name="nmt_nfkc_cf", hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>")
    proto: Any = formats.ModelProto.FromString(model.getvalue())  # type: ignore[attr-defined]  # made at run time
    del proto.pieces[3:]
    scores = {f"\u2581{word}": -5.0 for word in [*words, *SPARE_WORDS]}
    for piece, score in (scores | {letter: -10.0 for letter in "\u2581" + LETTERS if letter not in scores}).items():
        proto.pieces.add(piece=piece, score=score)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    (folder / "spiece.model").write_bytes(proto.SerializeToString())
    return len(proto.pieces)


def make_encoder(folder: Path, pieces: int, seed: int) -> None:
    settings: dict[str, Any] = dict(
        vocab_size=pieces + 100,  # the tokenizer adds T5's 100 sentinels
        d_model=64, d_kv=16, num_heads=4, num_layers=2, d_ff=128, feed_forward_proj="gated-gelu", dropout_rate=0.0,
        is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False)
    config = T5Config(**settings)
    torch.manual_seed(seed)
    T5EncoderModel(config).save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/tiny/t5"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    pieces = write_pieces(args.out)
    make_encoder(args.out, pieces, args.seed)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    logger.info("%d pieces, %d bytes in %s", pieces, size, args.out)


if __name__ == "__main__":
    sys.exit(run(main))

"""The command line of the benchmark of reconstruction: its options, and the autoencoder that a configuration names."""
import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from common.compression import Compression
from common.errors import ConfigError
from common.files import check_writable
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import get_obj_from_str
from engine.first_stage import require_weights
from media.clips import ClipFormat
from training.autoencoder_model import check_model
from vae_modules.autoencoder import VideoAutoencodingEngine

KEY = re.compile(r"(args|model|data|deepspeed)[.=]")  # the beginning of a configuration's key
FASTEST = 1000  # frames a second


def size_of(text: str) -> tuple[int, int]:
    """Return (height, width) for `HEIGHTxWIDTH`. Raises ConfigError for anything else, and for sides below 16."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and int(side) >= 16 for side in sides):
        raise ConfigError(f"--sizes: {text} is not HEIGHTxWIDTH in pixels of at least 16, such as 64x64")
    return int(sides[0]), int(sides[1])


def form_of(size: str, fps: float, frames: int, compression: Compression) -> ClipFormat:
    """Return the format of a table's line. Raises ConfigError for clips that the autoencoder cannot take."""
    step = 2 * compression.time  # the decoder takes latent frames in pairs after the first
    if frames < 1 or (frames - 1) % step:
        raise ConfigError(f"--frames: {frames} frames cannot be decoded, only {step}k + 1, such as {step + 1}, "
                          f"{2 * step + 1} or {6 * step + 1}")
    sides = size_of(size)
    if not compression.has_size(*sides):
        raise ConfigError(f"--sizes: {size} cannot be encoded, only multiples of {compression.space}")
    return ClipFormat(sides, fps, frames)


def autoencoder_of(args: Arguments) -> dict:
    """Return the `first_stage_config` of a model, or of an autoencoder's training with the weights of `args.load`.

    Raises ConfigError if there is no autoencoder, or one with random weights.
    """
    if args.model_config.get("network_config") is None:
        config = check_model(args.model_config, args.run.device)["first_stage_config"]
        given = args.run.load or config["params"].get("ckpt_path")
        config = {**config, "params": {**config["params"], "ckpt_path": given}}
        if given is None:
            raise ConfigError("the autoencoder has random weights, which decode to noise; name its weights in "
                              "args.load")
        return config
    model = ModelConfig.read(args.model_config)
    if not issubclass(get_obj_from_str(model.first_stage_config["target"]), VideoAutoencodingEngine):
        raise ConfigError(f"model.first_stage_config.target is {model.first_stage_config['target']}; there is no "
                          "autoencoder to measure")
    require_weights(model.first_stage_config)
    return dict(model.first_stage_config)


def options_of(argv: Sequence[str] | None, description: str) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this benchmark, and the words of the command line that are a model's."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clips")
    parser.add_argument("--frames", type=int, nargs="+", default=[17], help="lengths, 8k + 1 (default: 17)")
    parser.add_argument("--sizes", nargs="+", default=["64x64"], help="HEIGHTxWIDTH in pixels (default: 64x64)")
    parser.add_argument("--fps", type=float, default=8, help="frames a second at which clips are read (default: 8)")
    parser.add_argument("--count", type=int, help="read the first so many clips (default: all)")
    parser.add_argument("--picture", type=Path, help="file for a picture of the first clips")
    words = sys.argv[1:] if argv is None else list(argv)
    keys = [word for word in words if KEY.match(word)]  # else the lists of options would take them in
    options, rest = parser.parse_known_args([word for word in words if word not in keys])
    if not 0 < options.fps <= FASTEST:
        raise ConfigError(f"--fps: {options.fps:g} is no rate; give a number above 0, at most {FASTEST}")
    if options.count is not None and options.count < 1:
        raise ConfigError(f"--count: {options.count} leaves no clip; leave it out")
    if options.picture is not None:
        if options.picture.suffix.lower() not in (".png", ".webp"):
            raise ConfigError(f"--picture: {options.picture} must end in .png or .webp")
        check_writable(options.picture.parent, "--picture")
    return options, [*rest, *keys]

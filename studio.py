"""Open the studio, a page in the browser on which videos are made, compared and looked at.

    python studio.py                                            # the models of configs/
    python studio.py --base configs/tiny_t2v.yaml args.bf16=true

The page is for this machine alone, and asks nothing of any other. Ctrl-C ends it.
"""
import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

from common import console
from common.errors import ConfigError
from common.files import REPOSITORY, expanded_path

PORT = 7860
ADD_GRADIO = f"{sys.executable} -m pip install -r {REPOSITORY / 'requirements-studio.txt'}"


def open_studio(argv: Sequence[str] | None = None) -> None:
    """Serve the page until a signal ends it."""
    options = read_options(argv)
    try:
        import gradio  # noqa: F401  # before the page, whose modules all import it
    except ImportError as error:
        raise ConfigError(f"the page needs Gradio, which is not installed ({error}): {ADD_GRADIO}") from error
    from cogvideo.studio.server import serve
    from cogvideo.studio.studio import Studio
    with Studio.opened(options.base, options.overrides, options.output_dir, options.loras,
                       options.studies) as studio:
        serve(studio, options.port, options.browser)


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", nargs="+", action="extend", default=[], metavar="YAML",
                        help="YAML files of a model beside those of configs/, merged left to right, and key=value")
    parser.add_argument("--output-dir", default="outputs", help="folder for the videos; the page shows all in it")
    parser.add_argument("--loras", default="checkpoints/loras", help="folder of the LoRAs that can be chosen")
    parser.add_argument("--studies", default="runs/studies", help="folder of the reports of benchmarks/study.py")
    parser.add_argument("--port", type=int, default=PORT, help=f"the next free one is taken (default: {PORT})")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="do not open a browser")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of that model, as of sample_video.py")
    options = parser.parse_args(argv)
    for name in ("output_dir", "loras", "studies"):
        setattr(options, name, str(expanded_path(getattr(options, name), f"--{name.replace('_', '-')}")))
    options.overrides += [word for word in options.base if "=" in word]
    options.base = [word for word in options.base if "=" not in word]
    if options.overrides and not options.base:
        raise ConfigError(f"command line: {options.overrides[0]} changes no model; give its file, --base MODEL.yaml")
    if not 0 < options.port < 65536:
        raise ConfigError(f"command line: --port is {options.port}; it must be a whole number from 1 to 65535")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return console.run(open_studio, argv)
    except SystemExit as ended:  # by a signal, or after --help
        return ended.code if isinstance(ended.code, int) else 0


def leave(code: int) -> NoReturn:
    """End the process at once, though the thread that makes videos may be in the middle of a long step."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())

"""The folders of a training run: what it writes must not become what it reads, and clips should be in one alone."""
import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from common.errors import ConfigError
from common.listing import listed
from common.ranks import is_main_process
from configuration.settings import TrainingSettings
from data_video import SFTDataset
from media.clip_facts import shared

logger = logging.getLogger(__name__)


def check_apart(settings: TrainingSettings) -> None:
    """Raise ConfigError if a run would write below a folder of clips, which its samples would then be counted in."""
    for key in ("train_data", "valid_data"):
        for folder in getattr(settings, key) or ():
            if settings.folder.resolve().is_relative_to(Path(folder).resolve()):
                raise ConfigError(f"args.save is {settings.save}, inside {folder} of args.{key}, so that samples would "
                                  "be taken for clips; choose another args.save")


def report_shared(train: Sequence[Sequence[SFTDataset]], valid: Sequence[Sequence[SFTDataset]]) -> None:
    """Log a warning for clips that several folders have, and for held-out clips that are trained on.

    Each folder is given by its buckets. Clips are compared by their bytes, of which only those of equal size are read.
    """
    if not is_main_process():
        return
    trained: dict[Path, str] = {}
    for folder in map(_clips, train):
        if twice := shared(folder, trained):
            logger.warning("%d clips are in several folders of args.train_data, and so count more often: %s",
                           len(twice), _names(twice))
        trained |= folder
    held_out = _clips(chain.from_iterable(valid))
    if known := shared(held_out, trained):
        logger.warning("%d of %d clips of args.valid_data are trained on, too, so that their loss does not tell how "
                       "the model does on new clips: %s", len(known), len(held_out), _names(known))


def _clips(buckets: Iterable[SFTDataset]) -> dict[Path, str]:
    """Return the digests of the clips of buckets, empty where they are not known."""
    return {video: digest for bucket in buckets
            for video, digest in zip(bucket.videos, bucket.digests, strict=True)}


def _names(clips: Sequence[Path]) -> str:
    return listed(clip.name for clip in clips)

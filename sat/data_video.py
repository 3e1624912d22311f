"""Data sets of captioned videos: a folder of mp4 files with captions, or WebDataset shards of them.

An item is ``{"mp4": (T, 3, H, W) float32 in [-1, 1], "txt": str, "num_frames": int, "fps": number}``, where
`num_frames` counts the real frames and the rest of the T repeat the last one.
"""

import io
import json
import logging
import tarfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import webdataset
from braceexpand import braceexpand
from torch.utils.data import Dataset, get_worker_info

from common.errors import ConfigError, DataError
from common.kinds import Count, Positive, Rate, Seed, Sides, Size
from media.clips import ClipFormat, UnreadableClip, clip_forms, fitting_form, probe_clip, read_clip
from parallel import groups

logger = logging.getLogger(__name__)

NAMES_IN_A_REPORT = 3
MAX_BAD_IN_A_ROW = 1000  # an endless stream of shards would otherwise never stop if nothing in it can be read


class SFTDataset(Dataset):
    """The mp4 files below `data_dir`, at any depth; the caption of `videos/NAME.mp4` is in `labels/NAME.txt`.

    A clip that cannot be read is reported once and replaced by the next one that can, always the same one.
    """

    def __init__(
        self,
        data_dir: str,
        video_size: Sequence[Any],
        fps: Rate,
        max_num_frames: Size | Sequence[Size],
        skip_frms_num: Count = 0,
    ):
        """Find the clips; `video_size` is (height, width), `skip_frms_num` frames are skipped at each end of a file.

        Raises ConfigError for several sizes or lengths, which `buckets` takes.
        """
        forms = clip_forms(video_size, fps, max_num_frames, skip_frms_num)
        if len(forms) > 1:
            raise ConfigError("data.params: one data set has clips of one size and length; give one of each")
        self._hold(find_videos(Path(data_dir)), forms[0])
        _report_missing_captions(data_dir, [self])

    @classmethod
    def buckets(
        cls,
        data_dir: str,
        video_size: Sequence,
        fps: float,
        max_num_frames: int | Sequence[int],
        skip_frms_num: int = 0,
    ) -> list["SFTDataset"]:
        """Return the clips of a folder in buckets, for one or several sizes `video_size` and lengths `max_num_frames`.

        Each clip is in the bucket whose format loses least of it. Empty buckets and unreadable clips are left out.
        Raises DataError if no clip can be read.
        """
        forms = clip_forms(video_size, fps, max_num_frames, skip_frms_num)
        if len(forms) == 1:
            return [cls(data_dir, forms[0].video_size, fps, forms[0].max_num_frames, skip_frms_num)]
        found: dict[ClipFormat, list[Path]] = {form: [] for form in forms}
        longest = max(forms, key=lambda form: form.max_num_frames)
        videos = find_videos(Path(data_dir))
        for video in videos:
            try:
                found[fitting_form(forms, *probe_clip(str(video), longest))].append(video)
            except UnreadableClip as problem:
                logger.warning("clip %s skipped: %s", video, problem)
        buckets = [cls._of(members, form) for form, members in found.items() if members]
        if not buckets:
            raise DataError(f"none of the {len(videos)} clips can be read, the first is {videos[0]}: replace them")
        _report_missing_captions(data_dir, buckets)
        return buckets

    @classmethod
    def _of(cls, videos: Sequence[Path], form: ClipFormat) -> "SFTDataset":
        bucket = cls.__new__(cls)
        bucket._hold(videos, form)
        return bucket

    def _hold(self, videos: Sequence[Path], form: ClipFormat) -> None:
        self.form = form
        self.videos = list(videos)
        self.captions = [read_caption(label_path(video)) for video in self.videos]
        self.unreadable: set[int] = set()

    @classmethod
    def create_dataset_function(cls, path: str, args: Namespace | None, **kwargs) -> "SFTDataset":
        """Build the data set, as SwissArmyTransformer's loaders call it; `kwargs` are this class's parameters."""
        return cls(data_dir=path, **kwargs)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        for offset in range(len(self)):
            candidate = (index + offset) % len(self)
            if candidate in self.unreadable:
                continue
            try:
                clip, num_frames = read_clip(str(self.videos[candidate]), self.form)
            except UnreadableClip as problem:
                self.unreadable.add(candidate)
                logger.warning("clip %s skipped: %s", self.videos[candidate], problem)
                continue
            return make_item(clip, self.captions[candidate], num_frames, self.form)
        raise DataError(f"none of the {len(self)} clips can be read, the first is {self.videos[0]}: replace them")


class VideoDataset(webdataset.DataPipeline):
    """An endless shuffled stream of WebDataset shards; samples have `.mp4` and `.txt`, or `.json` with the caption.

    Shards are drawn with replacement, so that any number of processes may read any number of shards.
    """

    def __init__(
        self,
        path: str | Iterable[str],
        video_size: Sides,
        fps: Rate,
        max_num_frames: Size,
        skip_frms_num: Count = 0,
        txt_key: str = "caption",
        shuffle_buffer: Positive = 1000,
        seed: Seed = 1,
    ):
        """Find the shards of `path`: a folder, a tar file, a pattern such as `{000..127}.tar`, or a list of these.

        `txt_key` is the caption's key in the `.json`; `shuffle_buffer` 1 keeps the order within a shard.
        """
        form = ClipFormat(video_size, fps, max_num_frames, skip_frms_num)
        failures = _Failures()
        super().__init__(
            webdataset.ResampledShards(
                find_shards(path),
                seed=seed,
                worker_seed=partial(_reader_seed, groups.data_rank_and_size()[0]),
                deterministic=True,
            ),
            webdataset.tarfile_to_samples(handler=failures.skip_shard),
            webdataset.detshuffle(shuffle_buffer, initial=min(shuffle_buffer, 100), seed=seed),
            partial(_read_samples, form=form, txt_key=txt_key, failures=failures),
        )

    @classmethod
    def create_dataset_function(cls, path: str, args: Namespace | None, **kwargs) -> "VideoDataset":
        """Build the data set, as SwissArmyTransformer's loaders call it; `kwargs` are this class's parameters."""
        return cls(path=path, **{"seed": getattr(args, "seed", None) or 1, **kwargs})


def _report_missing_captions(data_dir: str, datasets: Sequence[SFTDataset]) -> None:
    clips = [clip for dataset in datasets for clip in zip(dataset.videos, dataset.captions, strict=True)]
    without = [video.name for video, caption in clips if not caption]
    if without:
        named = ", ".join(without[:NAMES_IN_A_REPORT]) + (", …" if len(without) > NAMES_IN_A_REPORT else "")
        logger.warning(
            "%d of %d clips in %s have no caption, using an empty one: %s", len(without), len(clips), data_dir, named
        )


def _reader_seed(data_rank: int) -> int:
    """Return a seed for each data-parallel rank and loader worker; ranks that share one model read the same clips."""
    worker = get_worker_info()
    return data_rank * 1000 + (worker.id if worker else 0)


class _Failures:
    """A log of unreadable clips and shards, which raises DataError when too many follow one another."""

    def __init__(self):
        self.reported: set[str] = set()
        self.in_a_row = 0

    def report(self, what: str, problem: Exception) -> None:
        if what not in self.reported:
            self.reported.add(what)
            logger.warning("%s skipped: %s", what, problem)
        self.in_a_row += 1
        if self.in_a_row >= MAX_BAD_IN_A_ROW:
            raise DataError(f"{self.in_a_row} clips in a row cannot be read, the last is {what}: replace the shards")

    def skip_shard(self, problem: Exception) -> bool:
        """Report an unreadable shard as webdataset's handler; True makes it continue with the next shard."""
        if not isinstance(problem, (OSError, tarfile.TarError, ValueError, EOFError)):
            raise problem
        self.report(f"rest of shard {problem.args[-1]}", problem)
        return True


def _read_samples(samples: Iterable[dict], form: ClipFormat, txt_key: str, failures: _Failures) -> Iterator[dict]:
    for sample in samples:
        name = f"clip {sample['__key__']} of {sample['__url__']}"
        try:
            if "mp4" not in sample:
                raise UnreadableClip("no .mp4 in the sample")
            clip, num_frames = read_clip(io.BytesIO(sample["mp4"]), form)
            caption = _caption_of(sample, txt_key)
        except UnreadableClip as problem:
            failures.report(name, problem)
            continue
        failures.in_a_row = 0
        if not caption and name not in failures.reported:
            failures.reported.add(name)
            logger.warning("%s has no caption, using an empty one", name)
        yield make_item(clip, caption, num_frames, form)


def _caption_of(sample: dict, txt_key: str) -> str:
    if "txt" in sample:
        return _first_line(sample["txt"])
    try:
        described = json.loads(sample.get("json", b"{}"))
    except ValueError as problem:
        raise UnreadableClip(f"its .json is damaged ({problem})") from problem
    return str(described.get(txt_key) or "") if isinstance(described, dict) else ""


def make_item(clip, caption: str, num_frames: int, form: ClipFormat) -> dict:
    return {"mp4": clip, "txt": caption, "num_frames": num_frames, "fps": form.fps}


def find_videos(folder: Path) -> list[Path]:
    """Return all mp4 files at any depth, sorted, except hidden ones. Raises DataError if there are none."""
    if not folder.is_dir():
        raise DataError(f"training data {folder} is not a folder: give one that contains videos/ and labels/")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".mp4" and path.name[0] != ".")
    if not found:
        raise DataError(f"training data {folder} contains no .mp4 file: put the clips into {folder / 'videos'}")
    return found


def label_path(video: Path) -> Path:
    """Return the path `…/labels/a/NAME.txt` for `…/videos/a/NAME.mp4`; without a `videos` folder, beside the clip."""
    parts = list(video.absolute().with_suffix(".txt").parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "videos":
            parts[position] = "labels"
            break
    return Path(*parts)


def read_caption(path: Path) -> str:
    """Return the first line of a file, or an empty caption if the file does not exist."""
    return _first_line(path.read_bytes()) if path.is_file() else ""


def _first_line(text: bytes) -> str:
    lines = text.decode("utf-8-sig", errors="replace").splitlines()
    return lines[0].strip() if lines else ""


def find_shards(path: str | Iterable[str]) -> list[str]:
    """Return the tar files that one or several paths name.

    Empty or unreadable ones are reported and left out. Raises DataError if none is left.
    """
    patterns = [path] if isinstance(path, (str, Path)) else list(path)
    named = [Path(name) for pattern in patterns for name in braceexpand(str(pattern))]
    shards = []
    for name in named:
        shards += sorted(name.rglob("*.tar")) if name.is_dir() else [name]
    good = [str(shard) for shard in shards if _holds_something(shard)]
    if not good:
        raise DataError(f"no readable tar shard in {path}: give a folder, a file or a pattern such as {{000..127}}.tar")
    return good


def _holds_something(shard: Path) -> bool:
    try:
        with tarfile.open(shard) as archive:
            if archive.next() is not None:
                return True
        reason = "it is empty"
    except (OSError, tarfile.TarError) as problem:
        reason = str(problem)
    logger.warning("shard %s skipped: %s", shard, reason)
    return False

"""Data sets of captioned videos: a folder of clips with captions, or WebDataset shards of them.

An item is ``{"mp4": (T, 3, H, W) float32 in [-1, 1], "txt": str, "num_frames": int, "fps": number}``, where
`num_frames` counts the real frames and the rest of the T repeat the last one. With `control` it also has the control
clip, ``"control": (T, 3, H, W)``.
"""

import io
import json
import logging
import tarfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import webdataset
from annotated_types import MinLen
from braceexpand import braceexpand
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from common.errors import ConfigError, DataError
from common.kinds import Count, Positive, Rate, Seed, Sides, SidesOfEach, Size
from common.listing import listed
from common.ranks import is_main_process
from common.text import decoded
from media.clip_facts import Facts, gather
from media.clip_folders import CaptionLines, Clip, ClipFolder, folded, read_clip_folder
from media.clip_survey import ShortClips, Survey, require_captions, without_caption
from media.clips import ClipFormat, UnreadableClip, clip_forms, read_clip
from media.containers import VIDEO_SUFFIXES
from media.controls import (
    FROM_FILES,
    Control,
    check_controls,
    control_files,
    is_control_file,
    made_control,
)
from parallel import groups

logger = logging.getLogger(__name__)

FORM_KEYS = ("video_size", "fps", "max_num_frames", "skip_frms_num")
MAX_BAD_IN_A_ROW = 1000  # an endless stream of shards would otherwise never stop if nothing in it can be read
CLIPS_BEFORE_A_CAPTION = 100  # without a single caption: a stream of shards then has none


class SFTDataset(Dataset):
    """The clips of a folder with their captions, in any layout that `media.clip_folders` knows.

    A clip that cannot be read is reported once and replaced by the next one that can, always the same one.
    """

    def __init__(
        self,
        data_dir: str,
        video_size: Sides | SidesOfEach,
        fps: Rate,
        max_num_frames: Size | Annotated[Sequence[Size], MinLen(1)],
        skip_frms_num: Count = 0,
        caption_lines: CaptionLines = "all",
        txt_key: str | None = None,
        short_clips: ShortClips = "mask",
        allow_no_captions: bool = False,
        control: Control | None = None,
    ):
        """Find the clips; `video_size` is (height, width), `skip_frms_num` frames are skipped at each end of a file.

        A caption is all of its text, or with `caption_lines` "first" the first line of it. `txt_key` is the caption's
        column in a list. `short_clips` says what becomes of clips that have less than `max_num_frames`, for `buckets`
        and training. `allow_no_captions` accepts a folder without any. `control` says where control clips come from:
        made of each clip (`media.controls`), or with "folder" from `controls/NAME.mp4` beside `videos/NAME.mp4`.
        """
        forms = clip_forms(video_size, fps, max_num_frames, skip_frms_num)
        if len(forms) > 1:
            raise ConfigError("data.params: several sizes or lengths make buckets; give one video_size and one "
                              "max_num_frames")
        found = _clips_of(data_dir, caption_lines, txt_key, control)
        _report(data_dir, [*found.oddities, *without_caption(found.clips, allow_no_captions)])
        self._hold(found.clips, forms[0], short_clips, control=control)

    @classmethod
    def buckets(cls, data_dir: str, memory: Path | None = None, **params) -> list["SFTDataset"]:
        """Return the clips of a folder in buckets, for one or several sizes `video_size` and lengths `max_num_frames`.

        `params` are those of the class. Each clip is opened, and is in the bucket whose format loses least of it. What
        is not used or odd is counted and named. Empty buckets and unreadable clips are left out. A `memory` is a file
        that keeps what is found of clips, see `media.clip_facts`; the clips then have `digests`. Raises DataError if no
        clip can be used, and if no clip has a caption, unless `allow_no_captions`.
        """
        forms, short_clips = clip_forms_of(params), params.get("short_clips", "mask")
        allowed, control = params.get("allow_no_captions", False), params.get("control")
        found = _clips_of(data_dir, params.get("caption_lines", "all"), params.get("txt_key"), control)
        _report(data_dir, found.oddities)  # first, as they may say why there are no captions
        if not allowed:
            require_captions(found)
        survey = Survey.of(found, forms, short_clips, memory)
        _report(data_dir, [*without_caption(found.clips, allowed), *survey.oddities()])
        digests = _control_digests(survey, memory) if control == FROM_FILES else [x.digest for x in survey.facts]
        made = []
        for form, members in survey.usable.items():
            bucket = cls.__new__(cls)
            bucket._hold([found.clips[i] for i in members], form, short_clips, [survey.facts[i] for i in members],
                         control, [digests[i] for i in members])
            made += [bucket] if members else []
        logger.info("%s: %d of %d clips, with captions from %s", data_dir, sum(map(len, made)), len(found.clips),
                    found.captions_from)
        return made

    def _hold(self, clips: Sequence[Clip], form: ClipFormat, short_clips: ShortClips, facts: Sequence[Facts] = (),
              control: Control | None = None, control_digests: Sequence[str] = ()) -> None:
        self.form, self.short_clips = form, short_clips
        self.videos = [clip.video for clip in clips]
        self.captions = [clip.caption for clip in clips]
        self.frames = [known.frames for known in facts]
        self.digests = [known.digest for known in facts]
        self.control, self.control_digests = control, control_digests
        self.controls = control_files(self.videos) if control == FROM_FILES else []
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
                control = self._control(candidate, clip, num_frames)
            except UnreadableClip as problem:
                self.unreadable.add(candidate)
                logger.warning("clip %s skipped: %s", self.videos[candidate], problem)
                continue
            return make_item(clip, self.captions[candidate], num_frames, self.form) | control
        raise DataError(f"none of the {len(self)} clips can be read, the first is {self.videos[0]}: replace them")


    def _control(self, number: int, clip: Tensor, num_frames: int) -> dict[str, Tensor]:
        """Return an item's `control`, if it has one. Raises UnreadableClip for a file that ends before the clip."""
        if self.control is None:
            return {}
        if not self.controls:
            return {"control": made_control(self.control, clip)}
        control, there = read_clip(str(self.controls[number]), self.form)
        if there < num_frames:
            raise UnreadableClip(f"its control clip has {there} frames, not {num_frames}")
        return {"control": control}


def _clips_of(data_dir: str, caption_lines: CaptionLines, txt_key: str | None, control: str | None) -> ClipFolder:
    """Return the clips of a folder, without those that control others."""
    found = read_clip_folder(Path(data_dir), caption_lines, txt_key)
    if control != FROM_FILES:
        return found
    clips = [clip for clip in found.clips if not is_control_file(clip.video, Path(data_dir))]
    if not clips:
        raise DataError(f"training data {data_dir} has control clips alone; put the clips into {data_dir}/videos")
    return replace(found, clips=clips)


def _control_digests(survey: Survey, memory: Path | None) -> list[str]:
    """Return the digests of the files of all control clips, empty without a memory. Raises DataError for unfit ones."""
    videos = [clip.video for clip in survey.folder.clips]
    files = control_files(videos)
    facts = gather(files, max(survey.usable, key=lambda form: form.max_num_frames), memory)
    check_controls(videos, survey.facts, facts, files)
    return [known.digest for known in facts]


def clip_forms_of(params: Mapping) -> list[ClipFormat]:
    """Return the formats that the parameters of a data set ask for."""
    return clip_forms(**{key: params[key] for key in FORM_KEYS if key in params})


class VideoDataset(webdataset.DataPipeline):
    """An endless shuffled stream of WebDataset shards; samples have a clip and `.txt`, or `.json` with the caption.

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
        caption_lines: CaptionLines = "all",
        allow_no_captions: bool = False,
    ):
        """Find the shards of `path`: a folder, a tar file, a pattern such as `{000..127}.tar`, or a list of these.

        `txt_key` is the caption's key in the `.json`; `shuffle_buffer` 1 keeps the order within a shard. If none of the
        first clips has a caption, the stream ends with DataError, unless `allow_no_captions`.
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
            partial(_read_samples, form=form, caption_of=partial(_caption_of, txt_key=txt_key, which=caption_lines),
                    failures=failures, allow_no_captions=allow_no_captions),
        )

    @classmethod
    def create_dataset_function(cls, path: str, args: Namespace | None, **kwargs) -> "VideoDataset":
        """Build the data set, as SwissArmyTransformer's loaders call it; `kwargs` are this class's parameters."""
        seed = getattr(args, "seed", None)
        return cls(path=path, **{"seed": 1 if seed is None else seed, **kwargs})


def _report(data_dir: str, sentences: Iterable[str]) -> None:
    if is_main_process():
        for sentence in sentences:
            logger.warning("%s: %s", data_dir, sentence)


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


def _read_samples(samples: Iterable[dict], form: ClipFormat, caption_of: Callable[[Mapping], str],
                  failures: _Failures, allow_no_captions: bool) -> Iterator[dict]:
    captioned, without = allow_no_captions, 0
    for sample in samples:
        name = f"clip {sample['__key__']} of {sample['__url__']}"
        try:
            caption = caption_of(sample)
            clip, num_frames = read_clip(io.BytesIO(_video_of(sample)), form)
        except DataError as problem:
            failures.report(name, problem)
            continue
        failures.in_a_row = 0
        captioned, without = captioned or bool(caption), without + (not caption)
        if not captioned and without >= CLIPS_BEFORE_A_CAPTION:
            raise DataError(f"none of the first {without} clips of the shards has a caption; write .txt or .json "
                            "beside them, or train without, with allow_no_captions: true")
        if not caption and name not in failures.reported:
            failures.reported.add(name)
            logger.warning("%s has no caption, using an empty one", name)
        yield make_item(clip, caption, num_frames, form)


def _video_of(sample: Mapping) -> bytes:
    """Return the bytes of a sample's clip. Raises UnreadableClip if it has none, or several."""
    found = [key for key in sample if f".{key.lower()}" in VIDEO_SUFFIXES]
    if len(found) != 1:
        has = listed(key for key in sample if not key.startswith("__"))
        raise UnreadableClip(f"it has {len(found)} clips among {has or 'no files'}, and must have one, such as .mp4")
    return sample[found[0]]


def _caption_of(sample: Mapping, txt_key: str, which: CaptionLines) -> str:
    """Return a sample's caption, empty if it has none. Raises DataError if it is damaged or not text."""
    if "txt" in sample:
        return folded(decoded(sample["txt"], "its .txt"), which)
    if "json" not in sample:
        return ""
    text = decoded(sample["json"], "its .json")
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UnreadableClip(f"its .json is damaged ({problem})") from problem
    caption = described.get(txt_key) if isinstance(described, dict) else described
    if caption is not None and not isinstance(caption, str):
        raise UnreadableClip(f"its .json has no text under {txt_key!r}, but {str(caption)[:40]}")
    return folded(caption or "", which)


def make_item(clip, caption: str, num_frames: int, form: ClipFormat) -> dict:
    return {"mp4": clip, "txt": caption, "num_frames": num_frames, "fps": form.fps}


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

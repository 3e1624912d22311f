"""The clips of a folder before they are used: which can be, in which format, and what a user should know of them."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import DataError
from common.listing import listed
from media.clip_facts import Facts, copies, gather
from media.clip_folders import Clip, ClipFolder
from media.clips import ClipFormat, fitting_form

LEAST_MOVING = 0.9  # of a clip's frames are other than the one before; cameras leave out a few
ShortClips = Literal["mask", "skip", "repeat"]
# What becomes of clips that are shorter than asked, by data.params.short_clips.
SHORT = {"mask": "their last frame is repeated, and what is repeated does not count in the loss",
         "skip": "they are left out",
         "repeat": "their last frame is repeated, and counts in the loss"}


@dataclass(frozen=True)
class Survey:
    """The facts of each clip of a folder, and the numbers of the `usable` clips of each format."""

    folder: ClipFolder
    facts: list[Facts]
    usable: dict[ClipFormat, list[int]]
    short_clips: ShortClips

    @classmethod
    def of(cls, folder: ClipFolder, forms: Sequence[ClipFormat], short_clips: ShortClips, memory: Path | None
           ) -> "Survey":
        """Open all clips; `memory` as in `clip_facts.gather`. Raises DataError if none can be used."""
        videos = [clip.video for clip in folder.clips]
        facts = gather(videos, max(forms, key=lambda form: form.max_num_frames), memory)
        if all(known.problem for known in facts):
            raise DataError(f"none of the {len(videos)} clips can be read, the first is {videos[0]} "
                            f"({facts[0].problem}): replace them")
        usable: dict[ClipFormat, list[int]] = {form: [] for form in forms}
        for number, known in enumerate(facts):
            if not known.problem:
                form = fitting_form(forms, known.height, known.width, known.frames)
                if known.frames >= form.max_num_frames or short_clips != "skip":
                    usable[form].append(number)
        if not any(usable.values()):
            raise DataError(f"all {len(videos)} clips are shorter than data.params.max_num_frames, the first is "
                            f"{videos[0]}: give shorter lengths, or set data.params.short_clips to mask")
        return cls(folder, facts, usable, short_clips)

    def oddities(self) -> list[str]:
        """Return what is not used or odd, a sentence each with a count and the first names."""
        return [*self._unreadable(), *self._copies(), *self._short(), *self._slow()]

    def _named(self) -> list[tuple[str, Facts]]:
        return [(clip.video.name, known) for clip, known in zip(self.folder.clips, self.facts, strict=True)]

    def _unreadable(self) -> list[str]:
        broken = [f"{name} ({known.problem})" for name, known in self._named() if known.problem]
        return [f"{len(broken)} of {len(self.facts)} clips skipped, they cannot be read: {listed(broken)}"
                ] if broken else []

    def _copies(self) -> list[str]:
        same = [video.name for video in copies([clip.video for clip in self.folder.clips], self.facts)]
        return [f"{len(same)} clips are copies of others, which so count more often: {listed(same)}"] if same else []

    def _short(self) -> list[str]:
        forms = list(self.usable)
        least = min(form.max_num_frames for form in forms)
        short = [f"{name} ({known.frames})" for name, known in self._named()
                 if not known.problem and known.frames < least]
        return [f"{len(short)} of {len(self.facts)} clips have less than {least} frames at {forms[0].fps} fps; "
                f"{SHORT[self.short_clips]} (data.params.short_clips: {self.short_clips}): {listed(short)}"
                ] if short else []

    def _slow(self) -> list[str]:
        slow = [f"{name} ({known.frames - known.repeated} of {known.frames})" for name, known in self._named()
                if known.frames - known.repeated < LEAST_MOVING * known.frames]
        fps = next(iter(self.usable)).fps
        return [f"{len(slow)} of {len(self.facts)} clips have fewer frames a second than data.params.fps, {fps}, so "
                f"that frames are repeated (those that are new, of all): {listed(slow)}"] if slow else []


def require_captions(folder: ClipFolder) -> None:
    """Raise DataError if no clip has a caption."""
    if not any(clip.caption for clip in folder.clips):
        raise DataError(f"none of the {len(folder.clips)} clips has a caption, the first is {folder.clips[0].video}; "
                        "write it into labels/NAME.txt for videos/NAME.mp4, or into a list (docs/training.md), or "
                        "train without captions: data.params.allow_no_captions: true")


def without_caption(clips: Sequence[Clip], allowed: bool) -> list[str]:
    """Return a sentence that counts the clips without a caption; none if all have one, or none and that is `allowed`.
    """
    without = [clip.video.name for clip in clips if not clip.caption]
    if not without or allowed and len(without) == len(clips):
        return []
    return [f"{len(without)} of {len(clips)} clips have no caption, using an empty one: {listed(without)}"]

import json

import numpy as np
import pytest

from benchmarks import shapes_judge
from benchmarks.shapes_judge import judge_file, judge_folder, judge_frames, summarize, wilson_interval
from common.console import run
from common.errors import DataError
from media.videos import write_video
from tools.shapes_world import Combination, all_combinations, parse_caption, render

SAMPLE = all_combinations()[::5]  # 44 clips: every colour, shape, motion and background


def clip_of(combination, seed=0):
    return render(combination, np.random.default_rng(seed)).astype(np.float32)


def blurred(clip, sigma):
    kernel = np.exp(-(np.arange(-4, 5) ** 2) / (2 * sigma**2))
    for axis in (1, 2):
        wide = np.pad(clip, [(4, 4) if axis == other else (0, 0) for other in range(4)], mode="edge")
        clip = sum(weight * wide.take(range(k, k + 64), axis) for k, weight in enumerate(kernel / kernel.sum()))
    return clip


def poorly_decoded(clip, rng):
    """Return the clip with blur, lower contrast and noise."""
    return np.clip(blurred(clip, 1.0) * 0.93 + 8 + rng.normal(0, 6, clip.shape), 0, 255)


@pytest.mark.parametrize("damage", ["none", "poor decoder"])
def test_every_attribute_is_recognized(damage):
    rng = np.random.default_rng(0)
    for combination in SAMPLE:
        clip = clip_of(combination)
        if damage != "none":
            clip = poorly_decoded(clip, rng)
        verdict = judge_frames(clip)
        assert all(verdict.matches(combination).values()), (combination.caption, str(verdict), verdict.measures)


def test_mush_is_not_recognized():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (17, 64, 64, 3))
    for mush in (np.zeros_like(noise), np.full_like(noise, 128), noise, blurred(noise.astype(float), 3)):
        verdict = judge_frames(mush)
        assert (verdict.color, verdict.shape, verdict.motion) == (None, None, None)
    black = [c for c in all_combinations() if c.background == "black"]
    for count in (2, 4, 20, 60):
        average = np.mean([clip_of(c, seed) for seed, c in enumerate(rng.choice(black, count))], axis=0)
        verdict = judge_frames(average)
        assert verdict.color is None or verdict.shape is None or verdict.motion is None, (count, str(verdict))


def test_wrong_clips_are_not_forgiven():
    moving = clip_of(Combination("red", "triangle", "moves left", "gray"))
    assert judge_frames(moving[::-1]).motion == "moves right"
    assert judge_frames(moving[[8] * 17]).motion is None
    slow = judge_frames(np.repeat(moving[:6], 3, axis=0)[:17])
    assert slow.motion is None and slow.measures["speed"] < 0.7
    assert judge_frames(moving[np.random.default_rng(0).permutation(17)]).motion is None
    assert judge_frames(moving[:, ::-1]).shape is None, "a triangle on its tip"
    two = np.where(clip_of(Combination("red", "circle", "grows", "black")).max(-1, keepdims=True) > 60, 200, moving)
    assert judge_frames(two).shape is None
    textured = moving + 40 * np.sin(np.arange(64) / 2)[None, None, :, None]
    assert judge_frames(textured).background is None
    between = np.where(moving == 90, 45, moving)
    assert judge_frames(between).background is None
    assert judge_frames(moving * 0.6).color is None


def test_files_and_folders(tmp_path):
    captions = {
        "a red square moves left on a gray background": "a red square moves left on a gray background",
        "a red circle moves left on a black background": "a red circle moves right on a black background",
        "a blue square grows on a black background@@first.png": "a blue square grows on a black background",
        "a cat": "a blue circle grows on a black background",
    }
    for index, (prompt, shown) in enumerate(captions.items()):
        folder = tmp_path / f"{index}_x" / "0"
        folder.mkdir(parents=True)
        write_video(folder / "000000.mp4", [clip_of(parse_caption(shown)).astype(np.uint8)], 8)
        (folder / "metadata.json").write_text(json.dumps({"prompt": prompt}))
    judged, left_out = judge_folder(tmp_path)
    assert len(judged) == 3 and len(left_out) == 1
    (tmp_path / "3_x" / "0" / "metadata.json").write_text('{"prompt": ')
    assert judge_folder(tmp_path)[1] == left_out, "a damaged record is left out, and counted"
    summary = summarize(judged)
    assert (summary["seen"]["videos"], summary["seen"]["all"]["right"]) == (2, 2)
    assert (summary["unseen"]["videos"], summary["unseen"]["motion"]["right"]) == (1, 0)
    assert summary["unseen"]["color"]["right"] == summary["unseen"]["background"]["right"] == 1
    assert shapes_judge.format_summary(summary).count("\n") == 4
    wrong = tmp_path / "1_x" / "0" / "000000.mp4"
    asked = "a red circle moves left on a black background"
    shapes_judge.main([str(tmp_path), "--require", "0.6"])  # two of three are right
    for words in ([str(wrong), "--expect", asked], [str(tmp_path), "--require", "0.7"]):
        with pytest.raises(SystemExit) as ended:
            shapes_judge.main(words)
        assert ended.value.code == 1
    for words in ([str(tmp_path), "--expect", asked], [str(wrong), "--require=0.5"], [str(tmp_path), "--require=nan"]):
        assert run(shapes_judge.main, words) == 2
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    with pytest.raises(DataError, match="junk.mp4"):
        judge_file(tmp_path / "junk.mp4")
    assert run(shapes_judge.main, [str(tmp_path / "junk.mp4")]) == 2
    with pytest.raises(DataError, match="no video"):
        judge_folder(tmp_path / "nothing")


def test_wilson_interval():
    assert wilson_interval(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-3)
    low, high = wilson_interval(20, 20)
    assert (low, high) == pytest.approx((0.8389, 1.0), abs=1e-3)

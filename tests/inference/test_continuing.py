"""Tests of videos in segments, after a clip or from noise, on a small random model."""
import json
import logging

import numpy as np
import pytest
import torch

from common.compression import COGVIDEOX
from common.files import REPOSITORY
from inference.continuing import Segments, kept_latents, usual_kept
from inference.pipeline import Trace
from inference.segments import without_first
from media.clips import ClipFormat, read_clip
from media.videos import write_video
from sample_video import main


@pytest.fixture
def run(small_model, tmp_path, capfd, caplog):
    """A function that runs the script with prompt lines; returns exit code, messages and folders by prompt."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 10, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    write_video(tmp_path / "clip.mp4", [pixels], 8)
    write_video(tmp_path / "short.mp4", [pixels[:3]], 8)
    write_video(tmp_path / "endless.mp4", [np.zeros((500, 32, 32, 3), np.uint8)], 8)

    def call(*words, lines=("a red circle@@clip.mp4",), model="t2v", out="out"):
        (tmp_path / "prompts.txt").write_text("\n".join(lines))
        with caplog.at_level(logging.INFO):
            code = main(["--base", str(small_model / f"{model}.yaml"), str(REPOSITORY / "configs" / "inference.yaml"),
                         "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / out), *words])
        said = "\n".join([*caplog.messages, capfd.readouterr().err])
        caplog.clear()
        return code, said, sorted((tmp_path / out).glob("*/*/"))
    return call


def frames_of(folder):
    record = json.loads((folder / "metadata.json").read_text())
    form = ClipFormat((record["height"], record["width"]), record["fps"], 101)
    frames, real = read_clip(folder / "000000.mp4", form)
    return frames[:real]


def test_the_usual_share_is_kept_where_no_number_is_given():
    assert [usual_kept(latents) for latents in (1, 3, 5, 13, 21)] == [1, 1, 3, 7, 12]


def test_lengths_count_kept_frames_once():
    from_noise = Segments(3, 2, COGVIDEOX)
    assert from_noise.kept_frames == 5 and from_noise.frames(17) == 17 + 12 + 12
    assert Segments(3, 2, COGVIDEOX, before=20).frames(17) == 20 + 3 * 12


def test_padding_repeats_the_first_kept_latent():
    def encode(video, sample_posterior):
        assert not sample_posterior
        return video[:, :1, ::4]

    video = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 3, 5, 2, 2)
    assert kept_latents(encode, video, pad_latents=1)[0, :, 0, 0, 0].tolist() == [0, 0, 4]


def test_the_first_frames_are_left_out_across_chunks():
    chunks = torch.arange(9.0).view(1, 9, 1, 1).split([5, 4], dim=1)
    for dropped in (0, 3, 5, 7):
        assert torch.cat(list(without_first(chunks, dropped)), 1).flatten().tolist() == list(range(dropped, 9))


def test_the_course_of_segments_is_one():
    one = Trace([3.0], [{"alpha": 1}], [2], [0.5]) + Trace([1.0], [{"alpha": 0}], [6], [0.0])
    assert one == Trace([3.0, 1.0], [{"alpha": 1}, {"alpha": 0}], [2, 8], [0.125])


@pytest.mark.slow
def test_a_continued_clip_stays_as_it_is_and_new_frames_follow(run, tmp_path):
    code, err, (folder,) = run("--continue-from", "2")
    record, frames = json.loads((folder / "metadata.json").read_text()), frames_of(folder)
    assert code == 0, err
    assert len(frames) == 20 + 12 == record["frames"] and record["clip_frames"] == 20 and record["kept_latents"] == 2
    clip = read_clip(tmp_path / "clip.mp4", ClipFormat((32, 32), 8, 21))[0][:20]
    assert (frames[:20] - clip).abs().mean() < 0.05, "only the codec is between them"
    again = run("--continue-from", "2", "--resume")[1]
    assert "every video of this run is finished already" in again
    assert "(continue_from was 2, is 1)" in run("--continue-from", "1", "--resume")[1]


@pytest.mark.slow
def test_segments_start_from_noise_or_a_clip_in_one_run_whatever_the_batch(run):
    lines = ("a red circle", "a blue square@@clip.mp4", "a green circle@@clip.mp4")
    together = run("--segments", "2", "--batch-size", "3", lines=lines)
    assert together[0] == 0, together[1]
    assert [len(frames_of(folder)) for folder in together[2]] == [17 + 8, 20 + 16, 20 + 16]
    alone = run("--segments", "2", lines=lines, out="alone")[2]
    for one, other in zip(together[2], alone, strict=True):
        assert (frames_of(one) - frames_of(other)).abs().max() < 0.1
    record = json.loads((alone[0] / "metadata.json").read_text())
    assert record["segments"] == 2 and record["clip_frames"] == 0 and len(record["noise"]) == 2 * 3
    assert record["passes"] == sorted(record["passes"])


@pytest.mark.slow
def test_an_image_model_sees_the_first_kept_frame(run):
    picture = REPOSITORY / "configs" / "images"
    image = next(picture.iterdir())
    code, err, folders = run("--segments", "2", lines=(f"a red circle@@{image}", "a red circle@@clip.mp4"), model="i2v")
    assert code == 0, err
    assert [len(frames_of(folder)) for folder in folders] == [17 + 8, 20 + 16]


def test_the_plan_counts_segments(run):
    code, err, _ = run("--segments", "3", "--plan", lines=("a",))
    assert code == 0
    assert ("segments: 3 of 17 frames, which keep the last 3 latent frames (9 frames) of what was before; "
            "the whole video: 33 frames") in err
    plain = run("--plan", lines=("a",))[1]

    def passes(text):
        return int(text.split(" forward passes of the transformer")[0].rsplit(" ", 1)[1])

    assert passes(plain) == 3 and passes(err) == 3 + 2 * 4, "of 3 steps, the middle one is made twice"


@pytest.mark.parametrize("words, line, says", [
    (["--continue-from", "0"], "a@@clip.mp4", "args.continue_from is 0; it must be"),
    (["--segments", "0"], "a", "args.segments is 0; it must be"),
    (["--continue-from", "5"], "a@@clip.mp4", "a segment of 17 frames has 5 latent frames, of which at least one must "
                                              "be new; give at most 4 (usual: 3)"),
    (["--continue-from", "5", "--plan"], "a@@clip.mp4", "give at most 4"),
    (["--continue-from", "2"], "a", "needs a clip; write prompt@@path/to/clip.mp4"),
    (["--continue-from", "2"], "a@@short.mp4", "short.mp4 is too short: 3 frames at 8 a second, where 2 kept latent "
                                               "frames stand for 5; give a longer clip, or --continue-from 1"),
    (["--continue-from", "2"], "a@@endless.mp4", "endless.mp4 is too long: all of it becomes part of the video"),
    (["--continue-from", "2", "--strength", "0.5"], "a@@clip.mp4", "args.continue_from and args.strength exclude"),
    (["--segments", "2", "--invert"], "a@@clip.mp4", "args.segments and args.invert exclude each other"),
    (["--segments", "2", "--only-save-latents"], "a", "args.segments and args.only_save_latents exclude each other"),
    (["--segments", "2", "--num-frames", "1"], "a", "a segment of 1 frame has nothing to continue with"),
    (["--segments", "100000000", "--plan"], "a", "args.segments is 100000000"),
    (["--segments", "2", "model.sampler_config.params.fixed_frames=1"], "a", "leave sampler_config.params."),
    (["--segments", "2"], "a@@clip.mp4@@clip.mp4", "@@ stands there 2 times"),
])
def test_mistakes_get_one_line(run, words, line, says):
    code, err, _ = run(*words, lines=(line,))
    last = err.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in err and last.startswith("error: ") and says in last, err


@pytest.mark.slow
def test_steps_of_a_continuing_segment_are_made_as_often_as_asked(run):
    passes = {}
    for rounds in ("1", "2", "3"):
        code, said, (folder,) = run("--segments", "2", "--continue-rounds", rounds, lines=("a red circle",), out=rounds)
        assert code == 0, said
        passes[rounds] = json.loads((folder / "metadata.json").read_text())["passes"][-1]
    usual = run("--segments", "2", lines=("a red circle",), out="usual")[2][0]
    assert passes["1"] < passes["2"] < passes["3"]
    assert passes["2"] == json.loads((usual / "metadata.json").read_text())["passes"][-1]
    code, said, _ = run("--continue-rounds", "2", lines=("a red circle",), out="alone")
    assert code == 2 and "args.continue_rounds has an effect only with args.segments" in said
    code, said, _ = run("--segments", "1", "--continue-rounds", "2", lines=("a red circle",), out="single")
    assert code == 2 and "args.continue_rounds has no effect on a single segment" in said

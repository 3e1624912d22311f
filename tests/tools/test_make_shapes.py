import numpy as np
import pytest

from data_video import SFTDataset
from media.clips import read_frames
from tools import make_shapes, shapes_world
from tools.grammars import GRAMMARS, parse_scene, render_scene


def test_clips_read_back_as_they_were_drawn(tmp_path, capfd):
    arguments = ["--out", str(tmp_path), "--clips", "4", "--seed", "7", "--processes", "2"]
    assert make_shapes.main(arguments) == 0
    for name, combination, seed in make_shapes.plan_clips("train", 4, 7):
        drawn = shapes_world.render(combination, np.random.default_rng(seed)).astype(float)
        error = read_frames(str(tmp_path / "videos" / f"{name}.mp4")) - drawn
        assert 10 * np.log10(255**2 / (error**2).mean()) > 40
        assert (tmp_path / "labels" / f"{name}.txt").read_text() == combination.caption + "\n"
    assert len(list((tmp_path / "videos").iterdir())) == 4, "no temporary file is left"
    item = SFTDataset(str(tmp_path), video_size=[64, 64], fps=8, max_num_frames=17)[0]
    assert item["mp4"].shape == (17, 3, 64, 64) and item["num_frames"] == 17

    assert make_shapes.main(arguments) == 2, "clips that are there are not overwritten"
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")
    assert make_shapes.main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_clips_of_another_grammar_read_back_as_they_were_drawn(grammar, tmp_path):
    words = ["--out", str(tmp_path), "--clips", "4", "--grammar", grammar, "--split", "unseen", "--processes", "1"]
    assert make_shapes.main(words) == 0
    for name, scene, seed in make_shapes.plan_scenes(grammar, "unseen", 4, 0):
        assert parse_scene((tmp_path / "labels" / f"{name}.txt").read_text()) == scene and scene.unseen
        drawn = render_scene(scene, np.random.default_rng(seed)).astype(float)
        assert np.square(read_frames(str(tmp_path / "videos" / f"{name}.mp4")) - drawn).mean() < 6.5, "above 40 dB"
    assert make_shapes.main([*words, "--overwrite"]) == 0
    assert len(list((tmp_path / "videos").iterdir())) == 4
    with pytest.raises(SystemExit):
        make_shapes.main([*words, "--colors", "red"])


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_splits_of_another_grammar_share_no_clip_and_a_longer_list_begins_with_the_shorter(grammar):
    plans = [make_shapes.plan_scenes(grammar, split, 40, 0) for split in ("train", "heldout-clips", "unseen")]
    assert len({tuple(seed.generate_state(4)) for plan in plans for _, _, seed in plan}) == 120
    assert all(bool(scene.unseen) == (plan is plans[2]) for plan in plans for _, scene, _ in plan)
    assert [clip[:2] for clip in make_shapes.plan_scenes(grammar, "train", 9, 0)] == [clip[:2] for clip in plans[0][:9]]


@pytest.mark.parametrize("split", make_shapes.SPLITS)
def test_splits_hold_their_combinations_equally_often(split):
    count = 36 if split in ("unseen", "outside") else 180
    clips = make_shapes.plan_clips(split, 2 * count, seed=0)
    combinations = [combination for _, combination, _ in clips]
    assert all(c.held_out == (split == "unseen") for c in combinations)
    assert len(set(combinations[:count])) == len(set(combinations[count:])) == count
    assert [c.caption for c in combinations[:count]] != [c.caption for c in combinations[count:]]


def test_colors_and_backgrounds_narrow_a_split():
    combinations = [c for _, c, _ in make_shapes.plan_clips("train", 60, 0, ["green", "white"])]
    assert {c.color for c in combinations} == {"green", "white"} and not any(c.held_out for c in combinations)
    assert len(set(combinations)) == 60, "2 colours x 3 shapes x 6 motions, less the 6 held out, on 2 backgrounds"
    gray = [c for _, c, _ in make_shapes.plan_clips("train", 30, 0, ["green", "white"], ["gray"])]
    assert set(gray) == {c for c in combinations if c.background == "gray"}
    with pytest.raises(SystemExit):
        make_shapes.main(["--out", "never-made", "--split", "outside", "--colors", "green"])


def test_splits_share_no_clip_and_a_longer_list_begins_with_the_shorter():
    plans = [make_shapes.plan_clips(split, 99, 0) for split in make_shapes.SPLITS]
    assert len({tuple(seed.generate_state(4)) for plan in plans for _, _, seed in plan}) == len(make_shapes.SPLITS) * 99
    short, long = (make_shapes.plan_clips("train", count, 0) for count in (50, 400))
    assert [clip[:2] for clip in short] == [clip[:2] for clip in long[:50]]

"""Tests of benchmarks.vbench: a suite on the small model, its names and records, and files that are none."""
import json
import sys

import pytest

from benchmarks import vbench, vbench_evaluation, vbench_submission
from benchmarks.vbench import main
from common.console import run
from common.errors import DataError

LONG = "ä" * 124  # with its ending as long as a file's name may be
INFO = [{"prompt_en": LONG, "dimension": ["color"]},
        {"prompt_en": "a green square, unmoved.", "dimension": ["temporal_flickering"]}]
NAMES = json.dumps(INFO)
LONGER = "a red circle moves left on black background\na green square on black background\n"


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A function that runs the command on files of these contents, with fewer videos of a prompt."""
    for module in (vbench, vbench_submission):
        monkeypatch.setattr(module, "GROUPS", {"standard": 2, "flickering": 3})

    def sample(base, *words, prompts=LONGER, names=NAMES, ending="json"):
        (tmp_path / "longer.txt").write_text(prompts)
        (tmp_path / f"names.{ending}").write_text(names)
        return run(main, ["--base", str(base), "--prompts", str(tmp_path / "longer.txt"), "--names",
                          str(tmp_path / f"names.{ending}"), "--out", str(tmp_path / "out"), *words])
    return sample


@pytest.mark.slow
def test_a_suite_is_sampled_named_recorded_and_resumed(suite, small_model, tmp_path, caplog):
    words = ["model.sampler_config.params.num_steps=2", "args.seed=5", "args.batch_size=3", "args.device=cpu"]
    with caplog.at_level("INFO"):
        assert suite(small_model / "t2v.yaml", *words) == 0
    assert "5 videos of 17 frames at 8 fps: 1 prompts (standard) 2 times, 1 prompts (flickering) 3" in caplog.text
    videos = tmp_path / "out/videos"
    names = ["a green square, unmoved.-0.mp4", "a green square, unmoved.-1.mp4", "a green square, unmoved.-2.mp4",
             f"{LONG}-0.mp4", f"{LONG}-1.mp4"]
    assert sorted(path.name for path in videos.iterdir()) == names
    listed = json.loads((tmp_path / "out/videos.json").read_text())
    assert [one["video"] for one in listed] == [*names[3:], *names[:3]] and len({one["seed"] for one in listed}) == 5
    assert listed[0]["prompt"] == LONGER.splitlines()[0] and listed[0]["original_prompt"] == LONG
    info = json.loads((tmp_path / "out/model_info.json").read_text())
    assert info["Frame Count"] == 17 and info["Resolution"] == "32x32" and info["Model"] is None
    kept = (videos / names[0]).stat().st_mtime_ns
    (tmp_path / "out/sampled/0_a_red_circle_moves_left_on_black_background/1/000000.mp4").unlink()
    (videos / names[4]).unlink()
    (videos / "of another suite-0.mp4").write_bytes(b"")
    assert suite(small_model / "t2v.yaml", *words) == 2, "somebody's video stays"
    assert (videos / "of another suite-0.mp4").is_file()
    (tmp_path / "out/videos.json").write_text(json.dumps([*listed, {"video": "of another suite-0.mp4"}]))
    (tmp_path / "out/model_info.json").write_text(json.dumps(info | {"Model": "mine"}))
    assert suite(small_model / "t2v.yaml", *words) == 0
    assert json.loads((tmp_path / "out/model_info.json").read_text())["Model"] == "mine"
    assert sorted(path.name for path in videos.iterdir()) == names
    assert (videos / names[0]).stat().st_mtime_ns == kept
    again = json.loads((tmp_path / "out/videos.json").read_text())
    assert [one["seed"] for one in again] == [one["seed"] for one in listed]


def test_from_5_seconds_the_long_suite_applies(suite, small_model, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert suite(small_model / "t2v.yaml", "args.plan=true", "args.sampling_fps=3") == 0
    assert "videos last 5.67 s: from 5 s the leaderboard judges with VBench-Long" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change, says", [
    ({"prompts": "one line\n"}, "has 1 prompts and"),
    ({"names": "[1]"}, "is not like VBench_full_info.json"),
    ({"names": "a/b\nc\n", "ending": "txt"}, "prompt 1: 'a/b' cannot be the name of a file"),
    ({"names": f"c\n{'ä' * 125}\n", "ending": "txt"}, "has 250 bytes"),
    ({"names": "same\nsame\n", "ending": "txt"}, "twice, with different prompts"),
    ({"names": "\n", "ending": "txt"}, "has no prompts"),
])
def test_files_that_are_no_suite_are_one_line(suite, small_model, capsys, change, says):
    assert suite(small_model / "t2v.yaml", **change) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_names_are_those_of_vbench_and_prompts_have_no_space_around_them(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps([{"prompt_en": " a dog ", "dimension": ["temporal_flickering"]}]))
    (tmp_path / "flickering.txt").write_text("a dog\n")
    entry, = vbench.read_suite(tmp_path / "names.json", tmp_path / "names.json", tmp_path / "flickering.txt").entries
    assert (entry.prompt, entry.name, entry.flickering) == ("a dog", " a dog ", True)


def test_what_stands_there_again_counts_once(suite, small_model, caplog):
    with caplog.at_level("INFO"):
        assert suite(small_model / "t2v.yaml", "args.plan=true", prompts="a\na\nb\n", names="x\nx\ny\n",
                     ending="txt") == 0
    assert "1 prompts stand in" in caplog.text and "4 videos" in caplog.text
    assert "no prompt is known to be for temporal flickering" in caplog.text


@pytest.mark.parametrize("words, says", [
    (["args.num_samples=3"], "VBench's suite decides this"), (["--num-samples", "3"], "VBench's suite decides this"),
    (["--only-save-latents"], "args.only_save_latents: VBench's suite decides this"),
    (["--evaluate", "/no/python"], "is no Python that can be run"),
    (["--evaluate", sys.executable], "has no vbench"),
])
def test_what_cannot_be_done_is_said_before_anything_is_loaded(suite, small_model, capsys, words, says):
    assert suite(small_model / "t2v.yaml", *words) == 2
    assert says in capsys.readouterr().err


def test_image_models_are_refused(suite, small_model, capsys):
    assert suite(small_model / "i2v.yaml") == 2
    assert "need text alone" in capsys.readouterr().err


def test_evaluation_calls_vbench_in_its_own_environment(tmp_path, monkeypatch, caplog):
    package = tmp_path / "site/vbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import json, os\n"
        "class VBench:\n"
        "    def __init__(self, device, info, out):\n"
        "        self.out = out\n"
        "    def evaluate(self, videos_path, name, dimension_list):\n"
        "        with open(f'{self.out}/{name}_eval_results.json', 'w') as file:\n"
        "            json.dump({name: [0.75, os.listdir(videos_path)]}, file)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a-0.mp4").write_bytes(b"")
    info = tmp_path / "info.json"
    info.write_text("[]")
    vbench_evaluation.check_vbench(vbench_evaluation.Path(sys.executable), info)
    with caplog.at_level("INFO"):
        vbench_evaluation.evaluate(vbench_evaluation.Path(sys.executable), info, tmp_path)
    assert "temporal_flickering: 0.7500, of 1 videos" in caplog.text
    (tmp_path / "videos/a-0.mp4").unlink()
    with pytest.raises(DataError, match="found none of the videos"):
        vbench_evaluation.evaluate(vbench_evaluation.Path(sys.executable), info, tmp_path)

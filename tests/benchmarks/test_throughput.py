"""Tests of benchmarks.throughput, with runs that are not made."""
import pytest

from benchmarks import throughput
from benchmarks.throughput import making
from common.errors import ConfigError

TOLD = "4 video(s) in x; seconds: {'configuration': 1.0, 'model load': 2.0, 'prompt encoding': 0.5, 'sampling': 5.5}"


def test_every_way_makes_the_same_videos_with_all_cores_in_turns(monkeypatch, capsys):
    runs = []
    monkeypatch.setattr(throughput, "completed", lambda words, environment: runs.append((words, environment)) or TOLD)
    monkeypatch.setattr(throughput.os, "cpu_count", lambda: 4)
    throughput.main(["--batches", "2", "4", "--processes", "1", "2", "--videos", "4", "--repeats", "2", "--",
                     "args.num_inference_steps=2"])
    told = capsys.readouterr().out
    assert told.endswith("\nToo few videos to fill batch by processes: 4 by 2.\n")
    lines = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| ")]
    rows = [dict(zip(throughput.COLUMNS, row, strict=True)) for row in lines[2:]]
    assert [(row["batch"], row["processes"], row["threads of each"]) for row in rows] == [
        ("2", "1", "4"), ("4", "1", "4"), ("2", "2", "2")], "no process is left without a batch"
    assert {row["videos a minute"] for row in rows} == {"40 (40 to 40)"}
    batches = [words[words.index("--batch-size") + 1] for words, _ in runs]
    assert batches == ["2", "4", "2", "2", "4", "2"], "the second round begins with the last"
    assert [words[0] for words, _ in runs] == ["sample_video.py"] * 2 + ["-m"] * 2 + ["sample_video.py"] * 2
    assert all(words[-1] == "args.num_inference_steps=2" for words, _ in runs)
    folders = [words[words.index("--output-dir") + 1] for words, _ in runs]
    assert len(set(folders)) == len(runs), "nothing that was made before is taken for finished"


def test_fewer_videos_than_a_batch_are_one_line():
    with pytest.raises(ConfigError, match="--videos: 3 do not fill a batch of 4 on each of 1 process"):
        throughput.read_options(["--videos", "3", "--batches", "8", "4"])


@pytest.mark.parametrize("told, seconds", [(TOLD, 6.0), (f"a process: {TOLD}\n{TOLD.replace('5.5', '2.5')}", 3.0)])
def test_loading_is_no_part_of_making_videos(told, seconds):
    assert making(told) == seconds


@pytest.mark.parametrize("words", [["--batches", "0"], ["--processes", "0"], ["--videos", "-1"], ["--repeats", "x"]])
def test_a_count_below_one_is_one_line(words, capsys):
    with pytest.raises(SystemExit) as ended:
        throughput.read_options(words)
    assert ended.value.code == 2
    assert f"argument {words[0]}: '{words[1]}' is not a whole number above 0" in capsys.readouterr().err

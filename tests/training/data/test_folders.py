"""Clips that several folders of a run have are counted and named."""
import shutil

import pytest

from data_video import SFTDataset
from tests.test_data_video import FORM, ramp, write_video
from training.data.folders import report_shared


def buckets(folder, memory=None):
    return SFTDataset.buckets(str(folder), memory, **FORM, allow_no_captions=True)


@pytest.fixture
def folders(tmp_path):
    """A folder of two clips, and one with a copy of the second and a clip of its own."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_video(first / "a.mp4", ramp(9))
    write_video(first / "b.mp4", ramp(9)[::-1])
    second.mkdir()
    shutil.copy(first / "b.mp4", second / "copy.mp4")
    write_video(second / "own.mp4", [7] * 9)
    return first, second


@pytest.mark.parametrize("memory", [None, "clips.json"])
def test_clips_of_several_folders_and_held_out_clips_that_are_trained_on(folders, tmp_path, memory, caplog):
    first, second = (buckets(folder, memory and tmp_path / memory) for folder in folders)
    report_shared([first, second], [])
    report_shared([first], [second])
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "1 clips are in several folders of args.train_data", "1 of 2 clips of args.valid_data are trained on"]
    assert all("copy.mp4" in record.getMessage() for record in caplog.records)


def test_a_folder_that_is_given_twice_is_noticed_and_folders_of_other_clips_are_not(folders, caplog):
    first = buckets(folders[0])
    shutil.rmtree(folders[1])
    write_video(folders[1] / "new.mp4", ramp(8))
    report_shared([first], [buckets(folders[1])])
    report_shared([buckets(folders[1]), first], [])
    assert not [record for record in caplog.records if "args." in record.getMessage() and "short" not in record.msg]
    report_shared([first, first], [first])
    assert "2 clips are in several folders" in caplog.text and "2 of 2 clips of args.valid_data" in caplog.text

"""Clips in memory, and the stages that take batches of them."""
import pytest
import torch
from omegaconf import OmegaConf

from common.errors import ConfigError
from tests.test_data_video import ramp, write_video
from training.data import memory_clips
from training.data.memory_clips import MemoryClips, Stage, read_buckets, read_stages, stage_at

PARAMS = {"video_size": [16, 16], "fps": 8, "max_num_frames": 9}


def section(*stages, **params):
    return OmegaConf.create({"params": PARAMS | params, "stages": list(stages)})


def test_a_batch_is_a_stretch_of_clips_drawn_from_the_generator():
    clips = MemoryClips(torch.arange(4 * 9, dtype=torch.uint8).view(4, 1, 9, 1, 1).expand(4, 3, 9, 2, 2))
    drawn, again = (clips.draw(6, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert drawn.shape == (6, 3, 5, 2, 2) and torch.equal(drawn, again)
    numbers = ((drawn + 1) * 127.5).round().long()[:, 0, :, 0, 0]
    assert torch.equal(numbers.diff(dim=1), torch.ones(6, 4, dtype=torch.long))
    assert len(set((numbers[:, 0] % 9).tolist())) == 1 and len(set((numbers[:, 0] // 9).tolist())) > 1


def test_clips_are_read_without_captions_and_only_those_that_can_be(tmp_path, caplog):
    for name, count in (("a", 9), ("b", 6)):
        write_video(tmp_path / f"{name}.mp4", ramp(count), size=(16, 16))
    (tmp_path / "c.mp4").write_bytes(b"no video")
    config = OmegaConf.merge(section(short_clips="mask"), {"target": "data_video.SFTDataset"})
    assert len(MemoryClips.read(read_buckets(config, [str(tmp_path)]))) == 2
    assert "1 of 3 clips skipped" in caplog.text
    assert "(data.params.short_clips: repeat): b.mp4 (6)" in caplog.text
    config.params.short_clips = "skip"
    clips = MemoryClips.read(read_buckets(config, [str(tmp_path)]))
    assert len(clips) == 1 and clips.videos.shape == (1, 3, 9, 16, 16)


def test_clips_that_do_not_fit_in_memory_are_refused_before_any_is_read(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", ramp(9), size=(16, 16))
    found = read_buckets(OmegaConf.merge(section(), {"target": "data_video.SFTDataset"}), [str(tmp_path)])
    monkeypatch.setattr(memory_clips, "free_memory", lambda device: 3 * 9 * 16 * 16 - 1)
    with pytest.raises(ConfigError, match="1 clips of 9 frames take .* GB of memory free"):
        MemoryClips.read(found)


def test_stages_follow_one_another_and_the_last_goes_on():
    first, second = {"iters": 2, "frames": 1, "batch_size": 4}, {"iters": 1, "frames": 9, "batch_size": 1}
    stages = read_stages(section(first, second))
    assert stages == [Stage(2, 1, 4), Stage(1, 9, 1)]
    assert [stage_at(stages, step).frames for step in range(4)] == [1, 1, 9, 9]


@pytest.mark.parametrize("stage, message", [
    ({"iters": 2, "frames": 1}, r"data.stages\[0\].batch_size is missing"),
    ({"iters": 0, "frames": 1, "batch_size": 1}, r"data.stages\[0\].iters is 0; it must be a whole number above 0"),
    ({"iters": 2, "frames": 10, "batch_size": 1}, r"data.stages\[0\].frames is 10; it must be 4k \+ 1"),
    ({"iters": 2, "frames": 13, "batch_size": 1}, "at most data.params.max_num_frames, 9"),
])
def test_a_stage_that_cannot_be_is_refused(stage, message):
    with pytest.raises(ConfigError, match=message):
        read_stages(section(stage))


def test_clips_of_several_lengths_are_refused():
    with pytest.raises(ConfigError, match="the autoencoder trains on clips of one size and length"):
        read_stages(section(max_num_frames=[9, 17]))

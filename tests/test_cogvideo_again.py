"""Videos made again from Python, from their records alone."""
import numpy as np
import pytest

from cogvideo import again
from common.errors import UserError
from common.files import REPOSITORY
from sample_video import main
from tests.test_cogvideo import CONFIG, PROMPTS, STEPS


@pytest.mark.slow
def test_a_video_is_made_again_from_its_record_alone(tmp_path, caplog):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    out, steps = tmp_path / "out", STEPS.replace("=4", "=2")
    assert main(["--base", CONFIG, str(REPOSITORY / "configs/inference.yaml"), steps, "--device", "cpu", "--num-frames",
                 "9", "--batch-size", "2", "--input-file", str(tmp_path / "p.txt"), "--output-dir", str(out)]) == 0
    first, second = sorted(path.parent for path in out.rglob("000000.mp4"))
    results = again(out, progress=False)
    for result, folder in zip(results, (first, second), strict=True):
        assert result.save(tmp_path / "again.mp4").read_bytes() == (folder / "000000.mp4").read_bytes()
    backwards = again([second / "metadata.json", first / "000000.mp4"], progress=False)
    assert [result.prompt for result in backwards] == PROMPTS[::-1], "the order of the names"
    assert np.array_equal(backwards[0].video, results[1].video) and "made otherwise" not in caplog.text
    other = again(first, device="cpu", seed=5, batch_size=1, progress=False)
    assert other.seed == 5 and not np.array_equal(other.video, results[0].video)
    assert "seed was 0, is 5" in caplog.text and "another size than args.batch_size" in caplog.text


def test_what_has_no_record_is_one_line(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "metadata.json").write_text('{"files": {"a.mp4": {"bytes": 8, "sha256": "0"}}}')
    for given, says in ((tmp_path / "a.mp4", "a.mp4 has no metadata.json beside it that describes it"),
                        (tmp_path, "has no config, made_from"), (tmp_path / "-x", "there is no record"),
                        (3, "3 is no record; give the path"), ("", "which is empty")):
        with pytest.raises(UserError, match=says):
            again(given)
    with pytest.raises(UserError, match="is no key=value; give several records as a list"):
        again(tmp_path, "other.json")

"""Tests of the log: what cannot be written is reported once, and what is written is whole."""
import json
import os
import resource
import threading

import pytest

from training.metrics import JsonLines, Log


def test_a_full_disk_is_reported_once_and_the_log_goes_on_later(tmp_path, caplog):
    hook = threading.excepthook
    log = Log(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = []
    for step in range(1, 41):
        if step in (11, 31):  # no file may grow, then they may again
            room = os.path.getsize(tmp_path / "log.jsonl") + 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (room if step == 11 else limits[0], limits[1]))
        log.write(step, {"loss": 1.0})
        written += [step] if step <= 10 or step > 30 else []
    log.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == written
    said = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(said) == 2 and {text.split()[0] for text in said} == {"log.jsonl", "tensorboard"}
    assert threading.excepthook is hook


def test_a_line_has_null_for_what_is_not_finite_since_json_knows_no_infinity(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.write(3, {"loss": 0.5, "grad_norm": float("inf"), "other": float("nan")})
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 3, "loss": 0.5, "grad_norm": null, "other": null}\n'


@pytest.mark.parametrize("fits", [0, 5])
def test_a_line_of_which_a_part_fits_is_taken_back(fits, tmp_path):
    lines = JsonLines(tmp_path / "log.jsonl")
    lines.write(1, {"loss": 1.0})

    class Full:
        def write(self, line):
            return stream.write(line[:fits])

        def __getattr__(self, name):
            return getattr(stream, name)

    stream, lines.stream = lines.stream, Full()
    with pytest.raises(OSError, match="No space left"):
        lines.write(2, {"loss": 1.0})
    lines.stream = stream
    lines.write(3, {"loss": 1.0})
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 3]

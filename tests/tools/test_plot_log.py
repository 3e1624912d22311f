"""Tests of plotting logs: lines without the key are skipped, a repeated step counts once, stages follow one another."""
import pytest

from common.console import run
from tools.plot_log import main, read_series, read_stages


def test_a_step_logged_again_after_a_resume_replaces_the_first(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 20, "loss": 2.0}\n{"step": 10, "loss": 3.0}\n{"step": 20, "loss": 1.0}\n'
                   '{"step": 30, "psnr": 25}\n')
    assert read_series(log, "loss") == ([10, 20], [3.0, 1.0])


def test_the_steps_of_a_stage_are_counted_on_from_the_one_before(tmp_path):
    logs = [tmp_path / name for name in ("first.jsonl", "between.jsonl", "second.jsonl")]
    logs[0].write_text('{"step": 20, "loss": 3.0}\n{"step": 40, "loss": 2.0}\n')
    logs[1].write_text('{"step": 5, "psnr": 25}\n')
    logs[2].write_text('{"step": 20, "loss": 1.5}\n')
    assert read_stages(logs, "loss") == ([20, 40, 60], [3.0, 2.0, 1.5])


def test_a_key_that_is_nowhere_is_named_and_nothing_is_drawn(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n')
    assert run(main, [str(log), "--keys", "pnsr", "--out", str(tmp_path / "curve.png")]) == 2
    assert "no line with pnsr" in capsys.readouterr().err
    assert not (tmp_path / "curve.png").exists()
    assert run(main, [str(log), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize("text, says", [
    ('{"step": 1, "loss": "x"}\n', "loss of step 1 is 'x', not a number"), ('{"loss": 1}\n', "line 1: it has no step"),
    ('{"step": 1,\n{"step": 2}\n', "line 1: not a line of a log"), (b"\xff", "line 1: not UTF-8"),
    (None, "No such file")])
def test_what_is_no_log_is_one_line(tmp_path, capsys, text, says):
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run(main, [str(log), "--out", str(tmp_path / "curve.png")]) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err and not (tmp_path / "curve.png").exists()


def test_the_last_line_may_be_cut_and_curves_are_png(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_series(tmp_path / "log.jsonl", "loss") == ([1], [2.0])
    assert run(main, [str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "a.txt")]) == 2
    assert "ends with .png" in capsys.readouterr().err

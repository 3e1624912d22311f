"""Tests of plotting a log: lines without the key are skipped, and a repeated step counts once."""
from tools.plot_log import main, read_series


def test_a_step_logged_again_after_a_resume_replaces_the_first(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 20, "loss": 2.0}\n{"step": 10, "loss": 3.0}\n{"step": 20, "loss": 1.0}\n'
                   '{"step": 30, "psnr": 25}\n')
    assert read_series(log, "loss") == ([10, 20], [3.0, 1.0])


def test_a_key_that_is_nowhere_is_named_and_nothing_is_drawn(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n')
    assert main([str(log), "--keys", "pnsr", "--out", str(tmp_path / "curve.png")]) == 2
    assert "no line with pnsr" in capsys.readouterr().err
    assert not (tmp_path / "curve.png").exists()
    assert main([str(log), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").stat().st_size > 1000

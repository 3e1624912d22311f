"""Tests of plotting logs: lines without the key are skipped, a repeated step counts once, stages follow one another."""
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
    assert main([str(log), "--keys", "pnsr", "--out", str(tmp_path / "curve.png")]) == 2
    assert "no line with pnsr" in capsys.readouterr().err
    assert not (tmp_path / "curve.png").exists()
    assert main([str(log), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").stat().st_size > 1000

"""Exit codes and the one line: common.console.run."""
import os
import signal

import pytest

from common.console import faults_beside, run
from common.errors import ConfigError


def ending_with(error):
    def main(argv):
        raise error
    return main


@pytest.mark.parametrize(("error", "line"), [
    (ConfigError("args.seed is\n -1"), "error: args.seed is -1\n"),
    (FileNotFoundError(2, "No such file or directory", "a/b"), "error: a/b: No such file or directory\n"),
    (OSError(28, "No space left on device"), "error: No space left on device\n"),
    (MemoryError(), "error: the memory does not suffice (); --plan shows what a run takes\n"),
])
def test_what_a_user_can_correct_is_one_line(error, line, capsys):
    assert run(ending_with(error)) == 2
    assert capsys.readouterr().err == line


def test_a_fault_of_the_program_is_one_line_with_its_traceback_in_the_run_folder(tmp_path, capsys):
    def main(argv):
        with faults_beside(tmp_path):
            raise KeyError("x")
    assert run(main) == 1
    said = capsys.readouterr().err
    [report] = tmp_path.glob("fault_*.txt")
    assert said == f"error: a fault of this program (KeyError: 'x'); please report it with {report}\n"
    assert "Traceback" in report.read_text()


def test_the_report_on_a_fault_goes_elsewhere_if_its_folder_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def main(argv):
        with faults_beside(tmp_path / "missing"):
            raise KeyError("x")
    assert run(main) == 1
    assert len(list(tmp_path.glob("fault_*.txt"))) == 1


def test_user_errors_pass_through_the_net_unchanged(tmp_path):
    with pytest.raises(ConfigError), faults_beside(tmp_path):
        raise ConfigError("x")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_lets_the_run_clean_up(number, capsys):
    cleaned = []

    def main(argv):
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned.append(True)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 128 + number and cleaned and signal.getsignal(number) is before
    assert capsys.readouterr().err == f"\nended by {number.name}\n"

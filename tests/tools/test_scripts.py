"""Tests of the shell scripts, with a stand-in for Python that records its calls."""
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STAND_IN = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
    "-c "*) exit "${TOO_OLD:-0}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install "*) exit "${PIP_EXIT:-0}" ;;
    *tiny_i2v*"${SLOW:-never}"*) echo $$ > "$CALLS.pid" && exec sleep 30 ;;
    *tiny_t2v*"${SLOW:-never}"*) until [[ -s $CALLS.pid ]]; do sleep 0.01; done; exit "$SAMPLE_EXIT" ;;
    *sample_video.py*"${FAILS:-}"*)
        if [[ ${SAMPLE_EXIT:-0} != 0 ]]; then echo "error of ${FAILS:-}" >&2; fi
        exit "${SAMPLE_EXIT:-0}" ;;
esac
"""
SCRIPTS = [REPOSITORY / name for name in subprocess.run(
    ["git", "ls-files", "*.sh"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()]
PYTEST = "-m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder"
PYTHONS = ("python3", "python3.11", "python3.12", "python3.13", "python")


class Checkout:
    """A folder with only the scripts, and with the stand-in first on PATH under every Python name that they try."""

    def __init__(self, folder: Path):
        self.root, self.calls, self.bin = folder / "checkout", folder / "calls", folder / "bin"
        for name in ("tools/setup_env.sh", "inference.sh", "tests/run.sh"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, self.root / name)
        (self.root / "requirements.txt").write_text("anything==1\n")
        (self.root / "requirements-test.txt").write_text("beside==1\n")
        self.bin.mkdir()
        for name in PYTHONS:
            (self.bin / name).write_text(STAND_IN)
            (self.bin / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        self.calls.write_text("")
        ambient = {k: v for k, v in os.environ.items() if k not in ("SAT_PYTHON", "OUTPUT_DIR")}
        ambient |= {"PATH": f"{self.bin}:/usr/bin:/bin", "CALLS": str(self.calls)}
        done = subprocess.run(["bash", str(self.root / script), *arguments], cwd=self.root.parent, text=True,
                              env=ambient | environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        return done, self.calls.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def installs(calls):
    return [call for call in calls if call.startswith("-m pip install")]


def test_the_first_run_sets_up_and_later_ones_start_at_once(checkout):
    done, calls = checkout.run("tests/run.sh", "-k", "vae")
    assert done.returncode == 0 and len(installs(calls)) == 3 and calls[-1] == f"{PYTEST} -k vae"
    assert "setting up" in done.stderr
    done, calls = checkout.run("tests/run.sh")
    assert calls == [PYTEST]
    (checkout.root / "requirements.txt").write_text("anything==2\n")
    assert len(installs(checkout.run("tests/run.sh")[1])) == 2


def test_the_last_packages_come_without_what_they_declare(checkout):
    first, last = installs(checkout.run("inference.sh")[1])
    assert "/requirements.txt" in first and "--no-deps" not in first
    assert last.endswith(f"--no-deps -r {checkout.root}/requirements-nodeps.txt")


def test_packages_of_the_tests_come_with_the_tests(checkout):
    _, calls = checkout.run("inference.sh")
    assert [("requirements-test.txt" in call) for call in installs(calls)] == [False, False]
    _, calls = checkout.run("tests/run.sh")
    beside, = installs(calls)
    assert "/requirements.txt" in beside and "/requirements-test.txt" in beside, "the versions of the first hold"
    assert not installs(checkout.run("inference.sh")[1])


def test_an_interrupted_set_up_goes_on_where_it_stopped(checkout):
    done, calls = checkout.run("tests/run.sh", PIP_EXIT="1")
    assert done.returncode == 2 and "error: the packages could not be installed" in done.stderr
    assert not any(call.startswith("-m pytest") for call in calls)
    packages = checkout.root / ".venv/lib/python3.11/site-packages"
    for name, files in {"half-1.dist-info": ["METADATA"], "whole-1.dist-info": ["METADATA", "INSTALLER"]}.items():
        (packages / name).mkdir(parents=True)
        for file in files:
            (packages / name / file).touch()
    done, calls = checkout.run("tests/run.sh")
    assert done.returncode == 0 and len(installs(calls)) == 3
    assert not any("-m venv" in call for call in calls)
    assert [found.name for found in packages.iterdir()] == ["whole-1.dist-info"]


def test_a_python_that_is_too_old_is_one_line(checkout):
    done, calls = checkout.run("tests/run.sh", TOO_OLD="1")
    assert done.returncode == 2 and not installs(calls)
    assert [line for line in done.stderr.splitlines() if "error: Python 3.11 or newer" in line]


def test_an_environment_of_ones_own_is_taken_as_it_is(checkout):
    done, calls = checkout.run("tests/run.sh", SAT_PYTHON="python")
    assert done.returncode == 0 and len(calls) == 1 and not (checkout.root / ".venv").exists()
    done, calls = checkout.run("tests/run.sh", SAT_PYTHON="no-such-python")
    assert done.returncode == 2 and not calls and "no-such-python" in done.stderr


def test_without_arguments_both_small_models_make_videos(checkout):
    done, calls = checkout.run("inference.sh", SAT_PYTHON="python", OUTPUT_DIR="/videos")
    configs = checkout.root / "configs"
    assert sorted(calls) == [
        f"{checkout.root}/sample_video.py --base {configs}/tiny_{kind}.yaml {configs}/inference.yaml "
        f"--output-dir /videos/tiny_{kind}" for kind in ("i2v", "t2v")]
    assert "/videos/tiny_t2v" in done.stdout


@pytest.mark.parametrize("words", [
    ("--output-dir", "/my own"), ("--output_dir=/my own",), ("args.output_dir=/my own",)])
def test_each_small_model_has_a_folder_in_the_one_that_is_named(checkout, words):
    done, calls = checkout.run("inference.sh", "--seed", "3", *words, "args.bf16=true", SAT_PYTHON="python")
    assert sorted(call.partition("--output-dir")[2] for call in calls) == [
        f" /my own/tiny_{kind} --seed 3 args.bf16=true" for kind in ("i2v", "t2v")]
    assert "The videos are in /my own/tiny_t2v and" in done.stdout


@pytest.mark.parametrize("word", ["--plan", "--help", "-h"])
def test_no_videos_are_told_of_that_were_not_made(checkout, word):
    done, calls = checkout.run("inference.sh", "--seed", "3", word, SAT_PYTHON="python")
    assert (done.returncode, len(calls)) == (0, 2) and "The videos are in" not in done.stdout


@pytest.mark.parametrize("words", [("--save-text-embeddings", "e"), ("--input-type=cli",), ("args.input_type=latents",),
                                   ("--seed", "3", "--base", "a.yaml")])
def test_what_is_for_one_model_is_refused_for_both(checkout, words):
    done, calls = checkout.run("inference.sh", *words, SAT_PYTHON="python")
    assert done.returncode == 2 and not calls and "is for one model, and without" in done.stderr


@pytest.mark.parametrize("words", [("--output-dir",), ("--output-dir=",)])
def test_a_folder_without_a_name_is_one_line(checkout, words):
    done, calls = checkout.run("inference.sh", *words, SAT_PYTHON="python")
    assert (done.returncode, done.stderr, calls) == (2, "error: --output-dir: no folder is named\n", [])


def test_configurations_come_with_what_they_share_and_overrides(checkout):
    script, shared = f"{checkout.root}/sample_video.py", f"{checkout.root}/configs/inference.yaml"
    _, calls = checkout.run("inference.sh", "a.yaml", "b.yaml", "args.seed=3", "--num-frames", "9", SAT_PYTHON="python")
    assert calls == [f"{script} --base a.yaml b.yaml {shared} args.seed=3 --num-frames 9"]
    _, calls = checkout.run("inference.sh", "--base", "a.yaml", "args.seed=3", SAT_PYTHON="python", OUTPUT_DIR="/v")
    assert calls == [f"{script} --base a.yaml {shared} --output-dir /v args.seed=3"]
    (checkout.root / "a=b.yaml").touch()
    _, calls = checkout.run("inference.sh", f"{checkout.root}/a=b.yaml", SAT_PYTHON="python")
    assert calls == [f"{script} --base {checkout.root}/a=b.yaml {shared}"]
    for words in (("--from-metadata", "r"), ("--from-metadata=r",)):
        assert checkout.run("inference.sh", *words, SAT_PYTHON="python")[1] == [f"{script} {' '.join(words)}"]
    _, calls = checkout.run("inference.sh", "a.yaml", "own/inference.yaml", SAT_PYTHON="python")
    assert calls == [f"{script} --base a.yaml own/inference.yaml"]
    _, calls = checkout.run("inference.sh", "--seed", "3", SAT_PYTHON="python")
    assert len(calls) == 2 and all(call.endswith("--seed 3") for call in calls)


def test_exit_codes_pass_through(checkout):
    done, calls = checkout.run("inference.sh", "a.yaml", SAT_PYTHON="python", SAMPLE_EXIT="7")
    assert done.returncode == 7 and len(calls) == 1


@pytest.mark.parametrize("fails", ["t2v", "i2v"])
def test_either_model_that_fails_fails_the_run(checkout, fails):
    done, _ = checkout.run("inference.sh", SAT_PYTHON="python", SAMPLE_EXIT="7", FAILS=f"tiny_{fails}.yaml")
    assert done.returncode == 7 and "The videos are in" not in done.stdout
    assert f"error of tiny_{fails}.yaml" in done.stderr


def test_the_second_model_stops_when_the_first_fails(checkout):
    done, _ = checkout.run("inference.sh", "--seed", "123", SAT_PYTHON="python", SAMPLE_EXIT="7", SLOW="--seed 123")
    assert done.returncode == 7
    process = Path(f"/proc/{Path(f'{checkout.calls}.pid').read_text().strip()}/cmdline")
    until = time.monotonic() + 10
    while process.exists() and b"sleep" in process.read_bytes():
        assert time.monotonic() < until, "the second model's run goes on"
        time.sleep(0.05)


# What bash has had only since 4.0, and options of GNU programs that macOS' lack.
NEWER = {
    "declare -A kept": r"\b(declare|local|typeset|readonly) -[a-zA-Z]*[An]",
    "mapfile -t x": r"\b(mapfile|readarray|coproc)\b",
    "echo ${x,,}": r"\$\{\w+(,|\^|@[A-Za-z]\})", "make |& tee": r"\|&|&>>", "case x in x) ;;&": r";;?&",
    "wait -n": r"\bwait -n\b", "[[ -v x ]]": r"\[\[ -v ", "echo ${x: -1} ${x[-1]}": r"\$\{\w+\[-|\$\{\w+:[^}]*:-\d",
    "printf '%(%s)T'": r"%\(", "echo $EPOCHSECONDS": r"EPOCH|BASHPID", "shopt -s globstar": r"globstar",
    "readlink -f x": r"\breadlink -f|\brealpath\b", "sed -i s/a/b/": r"\bsed -i|\bstat -c|\bdate -d|\bmktemp -[pt]",
    "cp --parents": r"\b(cp|mv|rm|ls|mktemp|sort|grep|xargs|tail|head|du) (-\w+ )*--\w",
}


@pytest.mark.parametrize("example", NEWER)
def test_the_scripts_keep_to_what_macos_has(example):
    assert re.search(NEWER[example], example), "the pattern finds its own example"
    for script in SCRIPTS:
        assert not re.search(NEWER[example], script.read_text()), script


def test_no_array_of_a_script_is_expanded_empty():  # for which bash before 4.4 stops under set -u
    filled = {"configs", "packages", "BASH_SOURCE"}  # the first is expanded where it has been counted
    guarded = r'\$\{(\w+)\[@\]\+"\$\{\1\[@\]\}"\}'
    texts = [re.sub(guarded, "", script.read_text()) for script in SCRIPTS]
    assert {name for text in texts for name in re.findall(r"[^#]\{(\w+)\[@\]", text)} <= filled


def test_windows_installs_and_runs_the_same():
    words = (REPOSITORY / "inference.ps1").read_text()
    for name in ("requirements.txt", "requirements-nodeps.txt", "sample_video.py", "configs\\inference.yaml",
                 *re.findall(r"tiny_\w+", (REPOSITORY / "inference.sh").read_text())):
        assert name in words, name

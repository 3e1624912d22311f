"""Runs of the project's commands in processes of their own, as users start them."""
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from common.errors import UserError
from common.files import REPOSITORY

PROMPT = "a red circle moves right on a black background"


class RunFailed(UserError):
    """The user error for a run that ended with an error."""


def completed(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run Python with these words in the repository's folder; return what it writes. Raises RunFailed if it fails."""
    return _completed(words, words, environment)


def peak_of(words: Sequence[str]) -> tuple[str, int]:
    """Return what Python writes when run with these words, and the peak of its resident memory in bytes.

    The peak is measured in a process of its own, as the system keeps only the largest of a process's children. Raises
    RunFailed.
    """
    watch = ("import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
             "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")
    told = _completed(["-c", watch, sys.executable, *words], words)
    return told, 1024 * int(re.findall(r"^peak (\d+)$", told, re.MULTILINE)[-1])


def _completed(words: Sequence[str], shown: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, text=True, check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=os.environ | dict(environment or {}))
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        raise RunFailed(f"{' '.join(shown)} ended with code {done.returncode}; "
                        f"{said[-1] if said else 'without an error of its own, as when the system lacks memory'}")
    return done.stdout

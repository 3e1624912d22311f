"""A studio in a process of its own, for tests in a browser."""
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from common.files import REPOSITORY


@contextmanager
def running_studio(*words: str) -> Iterator[str]:
    """Context manager that gives the address of a studio with these options, which Ctrl-C then ends."""
    obey = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
    with subprocess.Popen([sys.executable, "studio.py", "--no-browser", *words], cwd=REPOSITORY,
                          stderr=subprocess.PIPE, text=True, preexec_fn=obey) as process:
        found = next((found for line in process.stderr if (found := re.search(r"the studio is at (\S+);", line))), None)
        assert found is not None, "the studio did not start"
        yield found.group(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130

"""Resolve the requirements of sampling for another system, by pip and from wheels alone; nothing is installed.

    python tests/resolve_requirements.py macos-arm64      # or linux-aarch64, windows

pip evaluates environment markers for the system that it runs on, whatever its --platform says. Here it is given those
of the other system, for what packages declare, too. It needs a process of its own, because pip is changed.
"""
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"
MARKERS = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "implementation_name": "cpython",
           "platform_python_implementation": "CPython", "implementation_version": f"{PYTHON}.0"}


@dataclass(frozen=True)
class System:
    """A system: pip's names of the wheels that it takes, and what its environment markers are."""

    wheels: Sequence[str]
    os_name: str
    sys_platform: str
    platform_system: str
    platform_machine: str

    @property
    def markers(self) -> Mapping[str, str]:
        """All environment markers, with no version of the system."""
        return {**MARKERS, "os_name": self.os_name, "sys_platform": self.sys_platform, "platform_version": "",
                "platform_system": self.platform_system, "platform_machine": self.platform_machine,
                "platform_release": ""}


SYSTEMS: Mapping[str, System] = {
    "macos-arm64": System(["macosx_14_0_arm64"], "posix", "darwin", "Darwin", "arm64"),
    "linux-aarch64": System([f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)] + ["manylinux2014_aarch64"],
                            "posix", "linux", "Linux", "aarch64"),
    "windows": System(["win_amd64"], "nt", "win32", "Windows", "AMD64"),
}


def resolve(system: System, words: Sequence[str]) -> list[str]:
    """Resolve what `words` ask of pip for a system; return the wheels that it chose, none if it cannot."""
    # Imported here, because pip keeps setuptools from its own distutils, which torch's compiler needs, in a process
    # that reads SYSTEMS alone.
    import pip._vendor.packaging.markers as pip_markers
    from pip._internal.cli.main import main as pip
    from pip._internal.exceptions import CommandError
    from pip._internal.operations.prepare import RequirementPreparer

    chosen: list[str] = []

    def stop(preparer, requirements, *arguments, **more):
        chosen.extend(found.link.filename for found in requirements)
        raise CommandError("nothing is installed, as intended")

    pip_markers.default_environment = lambda: dict(system.markers)
    # Called to fetch what was chosen: fast-deps has read what each wheel declares without the rest of it.
    RequirementPreparer.prepare_linked_requirements_more = stop
    with tempfile.TemporaryDirectory() as target:
        wheels = [word for name in system.wheels for word in ("--platform", name)]
        pip(["install", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--python-version", PYTHON,
             "--target", target, "--use-feature=fast-deps", "--progress-bar", "off", "--no-input",
             "--disable-pip-version-check", "--retries", "1", "--timeout", "20", *wheels, *words])
    return chosen


def main(name: str) -> int:
    """Resolve both files of requirements for the named system; print the wheels, and return 1 if there are none."""
    system = SYSTEMS[name]
    found = [resolve(system, ["--no-deps", "-r", str(ROOT / "requirements-nodeps.txt")]),
             resolve(system, ["-r", str(ROOT / "requirements.txt")])]
    sys.stdout.write(f"chosen: {' '.join(sum(found, []))}\n")
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""What the documents name is there."""
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_tests_that_hold_each_quirk_exist():
    text = (REPOSITORY / "docs/fidelity.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    cases = re.findall(r"recorded\[(\w+)\]", text.partition("## Kept")[2])
    assert named and cases
    missing = [f"{path}::{name}" for path, name in named
               if f"def {name}(" not in (REPOSITORY / path).read_text(encoding="utf-8")]
    missing += [case for case in cases if not (REPOSITORY / "tests/recorded" / case / "case.json").is_file()]
    assert missing == []


@pytest.mark.parametrize("document", ["README.md", "docs/fidelity.md"])
def test_the_files_that_documents_name_exist(document):
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.-])(?:sat|configs|docs|tests|tools|benchmarks|checkpoints)/[\w/.*-]*[\w/*]", text)
    named += re.findall(r"(?<![\w/.-])\w+\.(?:py|sh)(?![\w/])", text) if document == "README.md" else []
    assert named
    assert [path for path in sorted(set(named)) if not any(
        next(folder.glob(path), None) for folder in (REPOSITORY, REPOSITORY / "sat"))] == []

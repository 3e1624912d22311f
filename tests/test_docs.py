"""Tests that what the documents name exists."""
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import sgm.guiders
import sgm.sampling_utils
from common.errors import ConfigError
from configuration.model import ModelConfig
from configuration.settings import KEYS
from sgm.guiders import Evaluation
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import VE
from training.autoencoder_model import OwnKeys
from training.data.memory_clips import Stage

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


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/fidelity.md"])
def test_the_files_that_documents_name_exist(document):
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.-])(?:sat|configs|docs|tests|tools|benchmarks|checkpoints)/[\w/.*-]*[\w/*]", text)
    named += re.findall(r"(?<![\w/.-])\w+\.(?:py|sh)(?![\w/])", text) if document == "README.md" else []
    assert named
    assert [path for path in sorted(set(named)) if not any(
        next(folder.glob(path), None) for folder in (REPOSITORY, REPOSITORY / "sat"))] == []


DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def test_links_between_documents_lead_to_files_and_headings():
    broken = []
    for document in DOCUMENTS:
        for path, anchor in links_of(document):
            target = (document.parent / path) if path else document
            if not target.exists() or (anchor and anchor not in anchors_of(target)):
                broken.append(f"{document.name}: {path}#{anchor}")
    assert broken == []


def test_every_page_can_be_reached_from_the_index():
    index = REPOSITORY / "docs/README.md"
    reached, waiting = {index.resolve()}, [index]
    while waiting:
        document = waiting.pop()
        targets = {(document.parent / path).resolve() for path, _ in links_of(document) if path.endswith(".md")}
        waiting += [target for target in targets - reached if target.exists()]
        reached |= targets
    assert {document.name for document in DOCUMENTS if document.resolve() not in reached} <= {"README.md"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_tests_that_documents_name_exist(document):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", document.read_text(encoding="utf-8"))
    assert [f"{path}::{name}" for path, name in named
            if f"def {name}(" not in (REPOSITORY / path).read_text(encoding="utf-8")] == []


def test_every_key_is_named_in_a_document():
    pages = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    code = "\n".join(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", pages, flags=re.S)))
    keys = [*KEYS, *(field.name for kind in (ModelConfig, OwnKeys, Stage) for field in fields(kind))]
    assert [key for key in keys if not re.search(rf"\b{key}\b|--{key.replace('_', '-')}\b", code)] == []


def links_of(document):
    """Return (path, anchor) of every link to another document or picture."""
    found = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    return [(link.partition("#")[0], link.partition("#")[2]) for link in found if "://" not in link]


def anchors_of(document):
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_guiders_and_thresholdings_named_are_those_that_exist():
    text = (REPOSITORY / "docs/guidance.md").read_text(encoding="utf-8")
    existing = [f"guiders.{name}" for name in guiders()] + ["guiders.IdentityGuider"]
    existing += [f"sampling_utils.{name}" for name, _ in classes_of(sgm.sampling_utils)]
    assert sorted(re.findall(r"^\| `(\w+\.\w+)`", text, re.M)) == sorted(existing)


def test_the_passes_and_parameters_that_guiders_have_are_those_named():
    text = (REPOSITORY / "docs/guidance.md").read_text(encoding="utf-8")
    named_by_all = set(re.findall(r"`(\w+)`", text.partition("All but the first take:")[2].partition("target of")[0]))
    for name, cls in guiders().items():
        row = re.search(rf"^\| `guiders\.{name}` \| (\d)[^|]*\|[^|]*\|(.*)\|$", text, re.M)
        required = {"ckpt_path": "weak", "layers": [0]}
        given = {field.name: required[field.name] for field in fields(cls) if field.name in required}
        assert len(cls(scale=0.5, **given).passes) == int(row[1]), name
        own = {field.name for field in fields(cls) if field.init} - {field.name for field in fields(sgm.guiders.Guider)}
        assert own | {"scale"} == set(re.findall(r"`(\w+)`", row[2])) | {"scale"}, name
    assert {field.name for field in fields(sgm.guiders.Guider) if field.init} <= named_by_all


def guiders():
    """The guiders with a scale, by name; not their bases."""
    found = {name: getattr(sgm.guiders, name) for name in sgm.guiders.__all__}
    bases = (sgm.guiders.Guider, sgm.guiders.WeakenedGuidance)
    return {name: o for name, o in found.items()
            if isinstance(o, type) and issubclass(o, sgm.guiders.Guider) and o not in bases}


def test_the_guiders_that_the_page_shows_work():
    page = (REPOSITORY / "docs/guidance.md").read_text(encoding="utf-8")
    names = {"__name__": "shown"}
    for shown in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(shown, names)
    guider, at = names["Damped"](scale=3.0), Evaluation(None, NoiseLevel(1.0, 1.0, None, 0, 10, VE), 3.0)
    away, _ = names["WithoutTheMiddle"](scale=3.0).guide([torch.zeros(1, 1), torch.ones(1, 1)], at)
    assert away.tolist() == [[3.0]]
    estimates = torch.zeros(1, 2), torch.ones(1, 2)
    first, memory = guider.guide(estimates, at)
    second, _ = guider.guide(estimates, at, memory)
    assert first.tolist() == [[3.0, 3.0]] and second.tolist() == [[2.0, 2.0]]
    late = replace(at, noise=replace(at.noise, index=5))
    assert names["WithoutTheMiddle"](scale=3.0).guide([torch.ones(1, 1)], late)[0].tolist() == [[1.0]]
    with pytest.raises(ConfigError, match="only one"):
        names["WithoutTheMiddle"](scale=3.0).check_network({"num_layers": 1})
    estimates, at = (torch.rand(1, 2), torch.rand(1, 2)), replace(at, x=torch.rand(1, 2), scale=0.6, then=NoiseLevel(
        1.0, 0.5, None, 1, 10, VE))
    ours, theirs = (cls(scale=0.6).guide(estimates, at)[0] for cls in (sgm.guiders.CFGPlusPlus, names["LooksAhead"]))
    torch.testing.assert_close(ours, theirs)


def classes_of(module):
    return [(name, o) for name, o in vars(module).items() if isinstance(o, type) and o.__module__ == module.__name__]

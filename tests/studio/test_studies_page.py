"""Tests of the page of reports: which there are, and how the foreign pages are served."""
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from cogvideo.studio.studies import Reports, reports, shown


@pytest.fixture
def folder(tmp_path):
    """A folder of studies: two reports, one folder without, and a link that leads out of it."""
    root = tmp_path / "studies"
    for name in ("order_of_convergence", "it's <b>"):
        (root / name).mkdir(parents=True)
        (root / name / "report.html").write_text("<script>parent.document</script>")
    (root / "order_of_convergence/results.csv").write_text("a\n")
    (root / "empty").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/report.html").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    return root


@pytest.fixture
def client(folder):
    site = Starlette()
    site.mount("/studies", Reports(folder))
    return TestClient(site)


def test_studies_with_a_report_are_listed(folder):
    assert sorted(name for _, name in reports(folder)) == ["it's <b>", "order_of_convergence"]
    assert reports(folder / "nowhere") == []


def test_a_report_has_an_origin_of_its_own_and_runs_its_own_script_alone(client):
    found = client.get("/studies/order_of_convergence/report.html")
    policy = found.headers["content-security-policy"]
    assert found.status_code == 200 and policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy and "unsafe-inline" not in policy.partition("script-src")[2]
    assert found.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["order_of_convergence/results.csv", "link/report.html", "../secret/report.html",
                                  "%2e%2e/secret/report.html", "..%2fsecret%2freport.html", "empty/report.html", ""])
def test_nothing_else_is_served(client, path):
    assert client.get(f"/studies/{path}").status_code in (404, 405)


def test_a_report_is_shown_in_a_sandbox_and_an_unknown_one_is_one_line(folder):
    studio = SimpleNamespace(studies=folder)
    assert 'sandbox="allow-scripts"' in shown(studio, "order_of_convergence")
    assert "<b>" not in shown(studio, "it's <b>") and "it&#x27;s%20" not in shown(studio, "nothing")
    assert shown(studio, "../secret").startswith('<div class="problem"')
    assert "no reports in" in shown(SimpleNamespace(studies=folder / "nowhere"), None)

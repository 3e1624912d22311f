"""Tests of the site: its own page alone, its own files alone, on this machine alone."""
import socket

import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

from starlette.testclient import TestClient

import studio as script
from cogvideo.studio import server
from cogvideo.studio.server import HOST, application, free_socket
from common.errors import ConfigError


@pytest.fixture
def studio(lasting_studio):
    return lasting_studio


@pytest.fixture(scope="module")
def site(lasting_studio):
    """The site, over outputs with a file, a link that leads out of them, and a secret beside them."""
    studio = lasting_studio
    (studio.outputs / "a.txt").write_text("made here")
    (studio.outputs.parent / "secret.txt").write_text("secret")
    (studio.outputs / "link").symlink_to(studio.outputs.parent / "secret.txt")
    with TestClient(application(studio), base_url=f"http://{HOST}:7860") as client:
        yield client


def test_files_of_the_outputs_are_served(site):
    assert site.get("/outputs/a.txt").text == "made here"


def test_a_page_among_the_outputs_runs_nothing(site, studio):
    (studio.outputs / "a.html").write_text("<script>fetch('/gradio_api/info')</script>")
    headers = site.get("/outputs/a.html").headers
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", [
    "/outputs/../secret.txt", "/outputs/%2e%2e/secret.txt", "/outputs//etc/passwd", "/outputs/..%2fsecret.txt",
    "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/file=../../../etc/passwd",
    "/gradio_api/file=http://example.org/a.png", "/gradio_api/proxy=http://example.org/", "/outputs/link"])
def test_nothing_else_is(site, path):
    answer = site.get(path, follow_redirects=False)
    assert answer.status_code >= 400 and answer.text != "secret" and "root:" not in answer.text


def test_other_sites_and_other_names_are_refused(site):
    assert site.get("/", headers={"host": "evil.example"}).status_code == 400
    for origin in ("http://evil.example", "null", "http://localhost.evil.example:7860"):
        assert site.post("/gradio_api/queue/join", json={}, headers={"origin": origin}).status_code == 403
    assert site.get("/", headers={"origin": f"http://{HOST}:7860"}).status_code == 200


def test_the_page_names_no_other_machine(site):
    page = site.get("/").text
    foreign = [part.split('"')[0] for part in page.split('src="http')[1:] + page.split('href="http')[1:]]
    assert not [address for address in foreign if "127.0.0.1" not in address], foreign


def test_a_port_in_use_is_passed_by():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with free_socket(port) as found:
            assert found.getsockname()[1] > port


@pytest.mark.parametrize("words, says", [
    (["--port", "0"], "--port is 0"), (["args.seed=1"], "changes no model"),
    (["--base", "nowhere.yaml"], "nowhere.yaml")])
def test_wrong_options_are_one_line(words, says, tmp_path, capfd):
    assert script.main([*words, "--output-dir", str(tmp_path / "outputs"), "--no-browser"]) == 2
    assert says in capfd.readouterr().err


def test_missing_gradio_is_one_line(monkeypatch, capfd):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert script.main(["--no-browser"]) == 2
    assert "pip install -r" in capfd.readouterr().err


def test_no_free_port_is_one_line(monkeypatch):
    monkeypatch.setattr("cogvideo.studio.server.PORTS", 0)
    with pytest.raises(ConfigError, match="no port"):
        free_socket(7860)


@pytest.mark.parametrize("path", ["/gradio_api/file=HTTPS://example.com/a", "/gradio_api/file/http://example.com/a",
                                  "/gradio_api//file=http://example.com/a", "/gradio_api/file=%68ttp://example.com/a"])
def test_no_other_machine_is_asked_for_what_a_request_names(site, path, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: asked.append(given) or [])
    assert site.get(path).status_code in (403, 404) and asked == []


def test_requests_and_uploads_have_a_largest_size(site, monkeypatch):
    monkeypatch.setattr(server, "LARGEST_UPLOAD", 10_000)
    for path, given in (("/gradio_api/queue/join", {"content": b" " * (server.LARGEST_REQUEST + 1)}),
                        ("/gradio_api/upload", {"files": {"files": ("a.png", b"0" * 50_000)}})):
        assert site.post(path, **given).status_code == 413, path


def test_an_upload_lies_in_the_temporary_folder_whatever_its_name(site, studio):
    for name in ("../../up.png", "/etc/up.png", "..\\up.png"):
        (path,) = site.post("/gradio_api/upload", files={"files": (name, b"0")}).json()
        assert (studio.temporary / path).resolve().is_relative_to(studio.temporary.resolve())


def test_a_file_that_was_not_uploaded_is_no_input(site):
    config = site.get("/config").json()
    files = {part["id"] for part in config["components"] if part["type"] == "file"}
    start = next(one for one in config["dependencies"] if len(files & set(one["inputs"])) == 3)
    given = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    answer = site.post(f"/gradio_api/run/{start['api_name']}", json={
        "data": [given if part in files else None for part in start["inputs"]], "fn_index": start["id"],
        "session_hash": "a"})
    assert answer.status_code >= 400 and "root:" not in answer.text

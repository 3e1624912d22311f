"""The server of the page: on this machine alone, for its own page alone, and without any other machine's help."""
import logging
import os
import re
import socket
import threading
import webbrowser

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cogvideo.studio.app import STYLE, page, theme
from cogvideo.studio.studies import ADDRESS, Reports
from cogvideo.studio.studio import Studio
from common.errors import ConfigError

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]  # by which a browser may ask for the page
PORTS = 100  # tried one after the other
LARGEST_UPLOAD = 200 * 2**20  # bytes
LARGEST_REQUEST = 2 * 2**20  # of anything but an upload
UPLOAD = "/gradio_api/upload"
ELSEWHERE = re.compile(r"https?:|/proxy=", re.IGNORECASE)  # in a path: Gradio would fetch what it names


def serve(studio: Studio, port: int, browser: bool = True) -> None:
    """Serve the page on the first free port from `port` on until a signal ends the process; say where it is."""
    listening = free_socket(port)
    found = listening.getsockname()[1]
    if found != port:
        logger.warning("port %d is in use; %d is taken", port, found)
    server = uvicorn.Server(uvicorn.Config(application(studio), log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listening],), name="server", daemon=True)
    thread.start()
    address = f"http://{HOST}:{found}"
    logger.info("the studio is at %s; Ctrl-C ends it", address)
    if browser and not _open(address):
        logger.info("no browser was found here; open %s in one", address)
    try:
        while thread.is_alive():
            thread.join(1)
    finally:
        server.should_exit = server.force_exit = True
    raise ConfigError(f"the page at {address} could not be served; see above")


def free_socket(port: int) -> socket.socket:
    """Return a socket that listens on the first free port from `port` on. Raises ConfigError if none is free."""
    last = min(port + PORTS, 65536)
    for number in range(port, last):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, number))
            listening.listen()
            return listening
        except OSError:
            listening.close()
    raise ConfigError(f"no port from {port} to {last - 1} is free; choose another with --port")


def application(studio: Studio) -> FastAPI:
    """Return the site: Gradio's page at its root, the studio's outputs below /outputs, reports below /studies."""
    os.environ["GRADIO_TEMP_DIR"] = str(studio.temporary)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    site = FastAPI(openapi_url=None)
    site.mount("/outputs", Outputs(directory=studio.outputs))
    site.mount(ADDRESS, Reports(studio.studies))
    site = gr.mount_gradio_app(
        site, page(studio), path="", server_name=HOST, footer_links=[], run_history=False, allowed_paths=[],
        blocked_paths=[], show_error=False, max_file_size=LARGEST_UPLOAD, ssr_mode=False, enable_monitoring=False,
        pwa=False, mcp_server=False, theme=theme(), css_paths=[STYLE], app_kwargs={"openapi_url": None})
    site.add_middleware(OwnPageAlone)
    site.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)
    return site


class Outputs(StaticFiles):
    """The files of the outputs. They are foreign: one that is a page runs nothing, and is no part of the studio."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


class OwnPageAlone:
    """Middleware that refuses what the page itself never asks for.

    That is a request from another site's page, one for an address elsewhere that Gradio would fetch, and one too large.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            largest = LARGEST_UPLOAD if scope["path"].startswith(UPLOAD) else LARGEST_REQUEST
            if refusal := _refusal(scope["path"], headers, largest):
                await refusal(scope, receive, send)
                return
            receive = _bounded(receive, largest)
        await self.app(scope, receive, send)


def _refusal(path: str, headers: dict[str, str], largest: int) -> PlainTextResponse | None:
    """Return the answer to a request that is refused, or None."""
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{headers.get('host')}", f"https://{headers.get('host')}"):
        return PlainTextResponse("this page takes no requests of another site", 403)
    if ELSEWHERE.search(path):
        return PlainTextResponse("this page fetches nothing from elsewhere", 403)
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > largest:
        return PlainTextResponse(f"this page takes at most {largest} bytes at once", 413)
    return None


def _bounded(receive: Receive, largest: int) -> Receive:
    """Return `receive` for a body of at most `largest` bytes; what comes after them counts as a broken connection."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= largest else {"type": "http.disconnect"}

    return bounded


def _open(address: str) -> bool:
    """Open an address in the browser; return False if there is none."""
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False



"""The page of docs/playground as a server has it, and what its pictures are."""

import base64
import contextlib
import functools
import http.server
import importlib.util
import io
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2p_helpers.paths import data_folder

SOURCE = Path(__file__).parent.parent / "docs" / "playground"
NAMES = ("source", "edit", "free")


def _build():
    spec = importlib.util.spec_from_file_location("build_playground", SOURCE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _build()


def page_folder(folder: Path) -> Path:
    """The page with the tokenizer, but without a model. Skips where the libraries were not fetched."""
    if not all(build.kept(name).is_dir() for name in build.LIBRARIES):
        pytest.skip("the page's libraries are not here: python docs/playground/build.py --fetch")
    build.copy_page(folder)
    tokenizer = data_folder("toyland") / "pipeline" / "tokenizer"
    shutil.copytree(tokenizer, folder / "model", dirs_exist_ok=True)
    return folder


@contextlib.contextmanager
def served(folder: Path, **headers: str):
    """The address of a server on this machine that has a folder, and sends these headers alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def end_headers(self):
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            super().end_headers()

        def log_message(self, *said):
            pass

    class Patient(http.server.ThreadingHTTPServer):
        def handle_error(self, request, client):
            pass  # the browser left before it had all of it

    with Patient(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def barriers(page) -> list[tuple[str, str]]:
    """What axe finds on a page that keeps someone out: its rule, and where. A page in a frame has its heading around it."""
    axe = build.kept("axe-core") / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core was not fetched: python docs/playground/build.py --fetch")
    page.evaluate(axe.read_text(encoding="utf-8"))
    rules = {"page-has-heading-one": {"enabled": False}, "target-size": {"enabled": True}}
    found = page.evaluate("rules => axe.run({ rules })", rules)["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found]


def picture(page, name: str) -> np.ndarray:
    """A picture as the page shows it."""
    url = page.evaluate(f"document.getElementById('picture-{name}').toDataURL()")
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)

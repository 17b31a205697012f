"""Shared fixtures: a small pipeline with random weights, the embedded model, and a network that is switched off."""

import dataclasses
import json
import os
import signal
import socket

import jaxtyping
import pytest
import torch
import transformers
from jaxtyping import install_import_hook
from transformers import CLIPTokenizer

from . import typecheck  # noqa: F401  (the hook below looks it up by name)
from .browsers import launched

with install_import_hook(
    "p2p_helpers", "tests.typecheck.check"
):  # shapes in signatures are checked in every test
    import p2p_helpers as p2p
    from p2p_helpers.paths import data_folder
    from p2p_helpers.toyland.tokenizer import MAX_TOKENS, write_tokenizer
    from p2p_helpers.toyland.training.diffusion import new_pipeline
    from p2p_helpers.view import map_figures  # noqa: F401  (imported on demand otherwise, outside of the hook)

    for name in p2p.__all__:
        getattr(p2p, name)


NEW = int(transformers.__version__.split(".")[0]) >= 5
fast_tokenizers = pytest.mark.skipif(not NEW, reason="transformers 4 reads this otherwise")
float64_texts = pytest.mark.skipif(not NEW, reason="transformers 4 has no CLIP in float64")


if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's job in the background ignores Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def untyped():
    """No type checker before a call: a user has none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A stray download fails at once, with a name."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise AssertionError(f"a test tried to reach {address}; tests never use the network")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    look_up = socket.getaddrinfo

    def refuse_name(host, *args, **more):
        if host not in LOCAL:
            pytest.fail(f"a test looked up {host!r}; tests never use the network")
        return look_up(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", refuse_name)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """The embedded model's tokenizer, written afresh."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)


@pytest.fixture(scope="session")
def random_pipe(tokenizer):
    """A StableDiffusionPipeline of the embedded model's architecture with random weights: fast, and needs no trained files."""
    config = json.loads((data_folder("toyland") / "training.json").read_text())
    torch.manual_seed(0)
    pipe = new_pipeline(config, tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def toyland():
    """The embedded model."""
    return p2p.load_pipeline("toyland", device="cpu")


@pytest.fixture(scope="session")
def start_browser():
    """Starts the browser of tests."""
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=60_000)  # ms: two cores do everything
    with sync_api.sync_playwright() as playwright:

        def start():
            try:
                return launched(playwright)
            except sync_api.Error as error:
                if os.environ.get("CI"):
                    raise  # there no test may be left out
                pytest.skip(
                    "no browser to test in; apt install chromium, or playwright install chromium "
                    f"({error.message[:80]})"
                )

        yield start


@pytest.fixture(scope="session")
def browser(start_browser):
    """A browser that tests share."""
    started = start_browser()
    yield started
    started.close()


@pytest.fixture
def studio(toyland):
    """A studio that takes four steps; what it has begun has ended when the test ends."""
    from p2p_helpers.view.settings import Settings
    from p2p_helpers.view.studio import Studio

    made = Studio(toyland, dataclasses.replace(Settings(), steps=4))
    yield made
    made.stop()
    made.wait()

"""The networks that look at pictures, from the Hub or from folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers.utils import logging

from ..errors import InputError, ModelError
from ..values import first_line

CLIP = "openai/clip-vit-large-patch14"
DINO = "facebook/dino-vitb8"


def installed() -> str:
    """The name of the package with the common measures. Raises InputError if it is not installed."""
    try:
        import torchmetrics
    except ImportError:
        raise InputError(
            'The benchmark measures with torchmetrics: pip install "p2p-helpers[bench]".'
        ) from None
    return torchmetrics.__name__


def load_clip(name: str) -> tuple:
    """CLIP, its tokenizer, and what brings pictures to its size. Raises ModelError."""
    with _said("CLIP", name, CLIP, "--clip"):
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        return (
            CLIPModel.from_pretrained(name).eval(),
            CLIPTokenizer.from_pretrained(name),
            CLIPImageProcessor.from_pretrained(name),
        )


def load_dino(name: str):
    """DINO's vision transformer. Raises ModelError."""
    with _said("The structure distance", name, DINO, "--dino"):
        from transformers import ViTModel

        return ViTModel.from_pretrained(name, add_pooling_layer=False).eval()


@contextlib.contextmanager
def _said(what: str, name: str, usual: str, option: str) -> Iterator[None]:
    """Load without bars and advice; an error says what is needed and where it can lie."""
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # the Hub's client raises many kinds
        said = first_line(error)
        raise ModelError(
            f"{what} needs the model {usual}, and {name} could not be loaded: {said} Download it "
            f"where there is a network (hf download {usual} --local-dir FOLDER), and give the "
            f"folder: {option} FOLDER."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

"""A prompt for a picture: inversion wants to know what it shows."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch
from PIL import Image

from .attention.families import family_of
from .errors import InputError, ModelError, PromptError
from .images import picture
from .prompts.words import vocabulary, words
from .values import first_line

CAPTIONER = "Salesforce/blip-image-captioning-base"
MOST_TOKENS = 60  # of a caption


def describe(image: Image.Image, pipe, *, model: str | Path = CAPTIONER) -> str:
    """A prompt that says what a picture shows, in words that the pipeline's model knows.

    The embedded model's reader writes the captions of its own small world. For other models an
    image-to-text model does it, and the text is cut to what the pipeline's tokenizer reads.

    Args:
        image: e.g. from `load_image(file, pipe)`.
        pipe: the pipeline that will get the prompt.
        model: a name on the Hugging Face Hub or a folder, of an image-to-text model that transformers
            knows and that needs no question, as BLIP, GIT and BLIP-2; BLIP (Li et al. 2022, arXiv
            2201.12086) when not given. For others hand your own caption to `invert` or `edit`.

    Raises:
        InputError: no picture, or for the embedded model another size than its own, or a picture in
            which its reader names nothing.
        ModelError: the image-to-text model cannot be loaded, or writes no caption of a picture alone.
    """
    image = picture(image)
    # A copy: the pipeline may be at work in another thread.
    tokenizer = copy.deepcopy(family_of(pipe).tokenizer(pipe, {}))
    if vocabulary(tokenizer):
        return _read(image)
    return _cut(tokenizer, _captioned(image, str(model), str(pipe._execution_device)))


def _read(image: Image.Image) -> str:
    """What the embedded model's reader sees, as a caption of its world."""
    from .toyland.reader import NO_COLOUR, load_reader
    from .toyland.world import Scene, Thing, caption

    reading = load_reader().read([image])[0]
    largest = sorted(reading.objects, key=lambda one: -one.cells.sum())[:2]
    colourless = reading.style == "old photo"
    things = [
        Thing(one.name, None if colourless or one.colour == NO_COLOUR else one.colour)
        for one in reading.objects
        if one in largest
    ]
    if not things:
        raise InputError(
            "The embedded model's reader sees no object that it can name. Write the prompt yourself; print(p2p.words(...)) "
            "and the studio say which words the model knows."
        )
    return caption(
        Scene(
            tuple(things),
            background=reading.background,
            style=reading.style,
            night=float(reading.night),
            snow=float(reading.snow),
            autumn=reading.autumn,
        )
    )


def _captioner(model: str, device: str):
    """An image-to-text model with its processor."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        return (
            AutoProcessor.from_pretrained(model),
            AutoModelForImageTextToText.from_pretrained(model).to(device).eval(),
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"The image-to-text model {model!r} cannot be loaded: {first_line(error)} Without a network give a folder, "
            "describe(image, pipe, model='./blip'), where AutoModelForImageTextToText.save_pretrained put one; or write the "
            "prompt yourself."
        ) from error


@torch.no_grad()
def _captioned(image: Image.Image, model: str, device: str) -> str:
    processor, network = _captioner(model, device)
    try:
        inputs = processor(images=image, return_tensors="pt").to(device)
        tokens = network.generate(**inputs, max_new_tokens=MOST_TOKENS)
        text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise ModelError(
            f"The image-to-text model {model!r} ({type(network).__name__}) writes no caption of a picture alone: {first_line(error)} "
            f"It may want a question beside it. Take another, e.g. {CAPTIONER!r}, or write the prompt yourself."
        ) from error
    return re.sub(r"\s+", " ", text).strip()


def _cut(tokenizer, text: str) -> str:
    """As many of a text's words as the tokenizer reads."""
    parts = text.split(" ")
    while len(parts) > 1:
        try:
            words(tokenizer, " ".join(parts))
            break
        except PromptError:
            parts.pop()
    return " ".join(parts)

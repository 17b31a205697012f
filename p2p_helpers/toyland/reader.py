"""The reader: a small network that says what is in a picture and where. It judges generated and edited pictures.

It looks at a picture as 16×16 cells of 8×8 pixels and names the object and its colour in each, and the background, style, night and
snow of the whole. It is trained on other scenes than it judges; its own accuracy is printed beside every figure it produces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..images import picture
from ..paths import data_folder
from ..values import file_path, first_line, listed
from .world import BACKGROUNDS, HUES, OBJECTS, SIZE, Scene

CELL = 8  # pixels
LOOKS = (
    "plain",
    "old photo",
    "watercolor",
)  # styles that can be seen; "a photo of" looks like no style
MIN_CELLS = 4  # an object covers at least so many cells
NO_COLOUR = "natural"
UNKNOWN = 1 + len(OBJECTS)  # class of what stands out as an object and cannot be named


@dataclass(frozen=True)
class Found:
    """One object the reader sees: its name, its colour, and its cells, bool (row, column)."""

    name: str
    colour: str
    cells: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels."""
        rows, columns = np.flatnonzero(self.cells.any(1)), np.flatnonzero(self.cells.any(0))
        return tuple(int(v) * CELL for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


@dataclass(frozen=True)
class Reading:
    """All the reader sees in one picture; `objects` from left to right."""

    objects: list[Found]
    background: str
    style: str
    night: bool
    snow: bool
    autumn: bool


class _Block(nn.Module):
    """A residual pair of 3×3 convolutions."""

    def __init__(self, width: int, dilation: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Reader(nn.Module):
    """Pictures in −1…1, (picture, 3, 128, 128) → scores of each cell and of the whole.

    Returns:
        object (picture, class, 16, 16), colour (picture, class, 16, 16), background, style (picture, class),
        night, snow, autumn (picture,). Class 0 of object and colour is "none" and "natural".
    """

    def __init__(self, width: int = 64):
        super().__init__()

        def down(a: int, b: int, kernel: int = 3, stride: int = 2) -> list[nn.Module]:
            return [
                nn.Conv2d(a, b, kernel, stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            ]

        self.stem = nn.Sequential(
            *down(3, width // 2, 5), *down(width // 2, width), *down(width, width), _Block(width)
        )
        self.local = nn.Sequential(_Block(width, 2), _Block(width, 4), _Block(width))
        self.cells = nn.Conv2d(width, 2 + len(OBJECTS) + 1 + len(HUES), 1)
        self.whole = nn.Sequential(
            *down(width, width), _Block(width), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.answers = nn.Linear(4 * width, len(BACKGROUNDS) + len(LOOKS) + 3)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        features = self.stem(pictures)
        objects, colours = self.cells(self.local(features)).split(
            [2 + len(OBJECTS), 1 + len(HUES)], dim=1
        )
        answers = self.answers(self.whole(features))
        background, style, switches = answers.split([len(BACKGROUNDS), len(LOOKS), 3], dim=1)
        return objects, colours, background, style, *switches.T

    @torch.no_grad()
    def read(self, images: list[Image.Image]) -> list[Reading]:
        """What the reader sees in 128×128 pictures. Raises InputError for another size, or what is no list of pictures."""
        images = [picture(image) for image in listed("images", images, "of pictures")]
        for image in images:
            if image.size != (SIZE, SIZE):
                raise InputError(
                    f"The reader was trained on {SIZE}×{SIZE} pictures of Toyland, not {image.size}. Resize the picture first."
                )
        readings = []
        device = next(self.parameters()).device
        for i in range(0, len(images), 64):
            pixels = np.stack([np.asarray(image) for image in images[i : i + 64]])
            batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            objects, colours, *whole = (answer.cpu() for answer in self(batch))
            names, background, style, night, snow, autumn = objects.argmax(1).numpy(), *whole
            for j, grid in enumerate(names):
                found = []
                for k in np.unique(grid[(grid > 0) & (grid != UNKNOWN)]):
                    cells = grid == k
                    if cells.sum() >= MIN_CELLS:
                        colour = colours[j][:, torch.from_numpy(cells)].mean(1).argmax().item()
                        found.append(Found(OBJECTS[k - 1], (NO_COLOUR, *HUES)[colour], cells))
                found.sort(key=lambda f: np.nonzero(f.cells)[1].mean())
                readings.append(
                    Reading(
                        found,
                        list(BACKGROUNDS)[background[j].argmax()],
                        LOOKS[style[j].argmax()],
                        bool(night[j] > 0),
                        bool(snow[j] > 0),
                        bool(autumn[j] > 0),
                    )
                )
        return readings


def truth(scene: Scene, masks: np.ndarray) -> dict[str, np.ndarray | int | float]:
    """What the reader should say of a scene's render: class numbers of the cells (16, 16) and of the whole."""
    share = masks.reshape(len(masks), SIZE // CELL, CELL, SIZE // CELL, CELL).mean(
        (2, 4)
    )  # (object, row, column)
    objects, colours = (
        np.zeros(share.shape[1:], np.int64),
        np.full(share.shape[1:], -1),
    )  # −1: no object, no colour to learn
    for thing, covered in zip(scene.things, share, strict=True):
        objects[covered > 0.5] = 1 + OBJECTS.index(thing.name)
        if scene.style != "old photo":  # it has no colours
            colours[covered > 0.5] = 1 + list(HUES).index(thing.colour) if thing.colour else 0
    look = LOOKS.index("plain" if scene.style == "photo" else scene.style)
    return {
        "objects": objects,
        "colours": colours,
        "background": list(BACKGROUNDS).index(scene.background),
        "style": look,
        "night": float(scene.night > 0),
        "snow": float(scene.snow > 0),
        "autumn": float(scene.autumn),
    }


def load_reader(folder: str | Path | None = None) -> Reader:
    """The reader that came with the package, ready to `read`, or the one in another folder.

    Raises:
        InputError: what is no folder's name.
        ModelError: the folder holds no reader.safetensors, or not this reader's.
    """
    place = data_folder("toyland") if folder is None else file_path("folder", folder, "runs/reader")
    reader, file = Reader(), place / "reader.safetensors"
    try:
        reader.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{file} cannot be read: {first_line(error)} Give the folder of a reader that was trained, or leave it out for the one "
            "that came with the package."
        ) from error
    return reader.eval()

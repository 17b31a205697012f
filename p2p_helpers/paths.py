"""Where the package's data lies, beside the code in an installed wheel and at the top of a checkout; and files that appear whole."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from .errors import ModelError


def data_folder(name: str) -> Path:
    """The folder `data/<name>` that came with the package.

    Raises:
        ModelError: neither an installed package nor a checkout holds it; the message names both places.
    """
    package = Path(__file__).resolve().parent
    places = [package / "data" / name, package.parent / "data" / name]
    for place in places:
        if place.is_dir():
            return place
    raise ModelError(
        f"The data folder {name!r} is missing. Looked in {places[0]} and {places[1]}. "
        "Reinstall the package, or run from a complete checkout of the repository."
    )


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write in a path's place, which it takes at the end of the block. After an error what stood there is as it was.

    Raises:
        OSError: it cannot take the place.
    """
    part = path.parent / f".{secrets.token_hex(8)}.part"  # a name that no other writer has
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()

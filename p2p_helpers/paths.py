"""Where the package's data lies: beside the code in an installed wheel, at the top of a checkout."""

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

"""Blind sheets: pictures without captions for a person to name, and what the answers come to.

`python -m p2p_helpers.toyland.sheets` draws three of them, with a key that the person does not see: pictures made from one-object
prompts, word swaps in such pictures, and word swaps in painted pictures. The person writes for each picture what it shows and how it
looks, from 1 (a mess) to 3 (clean and charming); `--score` compares the answers of one or several of them with the key.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..errors import InputError
from .evaluate import RECOMMENDED, edit_painted, generate, painted_cases, swap_cases
from .reader import load_reader
from .world import SIZE, Scene, caption, scene_at

FIRST = 50_000  # test scenes before this number are the evaluation's
COLUMNS = ROWS = 4  # of a page
SCALE = 2
OTHER_NAMES = {
    "bunny": "rabbit",
    "hare": "rabbit",
    "hot air balloon": "balloon",
    "hot-air balloon": "balloon",
    "ship": "boat",
    "sailboat": "boat",
    "sailing boat": "boat",
    "cupcake": "cake",
    "toadstool": "mushroom",
    "jack-o'-lantern": "pumpkin",
    "flower": "sunflower",
    "automobile": "car",
    "cottage": "house",
}

Judged = tuple[
    Image.Image, str, str
]  # a picture, the object that it should show, how it came about


def one_object_scenes(count: int) -> Iterator[Scene]:
    """Test scenes with one object that no evaluation saw."""
    return (scene_at("test", FIRST + i, objects=1) for i in range(count))


def generated(pipe, count: int, steps: int) -> list[Judged]:
    """Pictures made from prompts."""
    scenes = list(one_object_scenes(count))
    images = generate(pipe, [caption(s) for s in scenes], steps)
    return [(image, s.things[0].name, caption(s)) for image, s in zip(images, scenes, strict=True)]


def swapped(pipe, count: int, steps: int) -> list[Judged]:
    """Word swaps between any two objects, with the recommended settings."""
    from ..run import edit

    found = []
    cases = swap_cases(count, None, first=FIRST)
    for i, (before, after, _, new) in enumerate(cases):
        prompts = caption(before), caption(after)
        result = edit(pipe, *prompts, RECOMMENDED, seed=i, steps=steps, progress=False)
        found.append((result.image, new, " → ".join(prompts)))
    return found


def painted(pipe, count: int, steps: int) -> list[Judged]:
    """Word swaps in painted pictures with one object."""
    found = []
    for case in painted_cases(count, "swap", first=FIRST, objects=1):
        image = edit_painted(pipe, case, RECOMMENDED, steps=steps).image
        found.append((image, case.words[1], f"{case.source} → {case.target}"))
    return found


SHEETS = {"generated": generated, "swaps": swapped, "painted": painted}


def draw(judged: list[Judged], out: Path, name: str):
    """Pages of numbered pictures."""
    side, each = SIZE * SCALE, ROWS * COLUMNS
    for page in range(0, len(judged), each):
        sheet = Image.new("RGB", (COLUMNS * side, ROWS * (side + 16)), "white")
        pen = ImageDraw.Draw(sheet)
        for place, (image, _, _) in enumerate(judged[page : page + each]):
            x, y = place % COLUMNS * side, place // COLUMNS * (side + 16)
            sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x, y + 16))
            pen.text((x + 4, y + 2), str(page + place + 1), fill="black")
        sheet.save(out / f"{name}-{page // each + 1}.png")


def score(key: dict, judges: list[dict]) -> dict[str, dict[str, float | int]]:
    """Shares of pictures named, by people and by the reader, and the mean look.

    The reader names a picture if it sees that one object and no other.

    Args:
        key: sheet → for every picture its "object" and what the "reader" saw.
        judges: what each person wrote, sheet → for every picture [name, look]. A sheet without answers is left out.

    Raises:
        InputError: there are answers for some pictures of a sheet only.
    """
    found = {}
    for sheet, pictures in key.items():
        answers = [judge[sheet] for judge in judges if sheet in judge]
        for said in answers:
            if len(said) != len(pictures):
                raise InputError(
                    f"The sheets {sheet!r} have {len(pictures)} pictures, and there are {len(said)} answers. Give one for each."
                )
        if not answers:
            continue
        wanted = [p["object"] for p in pictures]
        right = [
            OTHER_NAMES.get(name.lower().strip(), name.lower().strip()) == one
            for said in answers
            for (name, _), one in zip(said, wanted, strict=True)
        ]
        found[sheet] = {
            "person": float(np.mean(right)),
            "reader": float(np.mean([p["reader"] == [p["object"]] for p in pictures])),
            "looks": float(np.mean([look for said in answers for _, look in said])),
            "pictures": len(pictures),
        }
    return found


def main(arguments: list[str] | None = None):
    """The command line."""
    from ..pipelines import load_pipeline

    parser = argparse.ArgumentParser(
        prog="python -m p2p_helpers.toyland.sheets", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--model", default="toyland")
    parser.add_argument("--reader", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/sheets"))
    parser.add_argument(
        "--score",
        type=Path,
        nargs="+",
        help="files of answers to the sheets in --out, one of each person: keeps them with the key in answers.json, draws nothing",
    )
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    key_file = chosen.out / "key.json"
    if chosen.score:
        key, *judges = (
            json.loads(file.read_text(encoding="utf-8")) for file in (key_file, *chosen.score)
        )
        kept = json.dumps({"key": key, "judges": judges})
        (chosen.out / "answers.json").write_text(kept, encoding="utf-8")
        print(json.dumps(score(key, judges), indent=2))
        return
    pipe, reader, key = load_pipeline(chosen.model), load_reader(chosen.reader), {}
    for name, make in SHEETS.items():
        judged = make(pipe, chosen.count, chosen.steps)
        draw(judged, chosen.out, name)
        readings = reader.read([image for image, _, _ in judged])
        key[name] = [
            {"object": wanted, "how": how, "reader": [f.name for f in reading.objects]}
            for (_, wanted, how), reading in zip(judged, readings, strict=True)
        ]
        key_file.write_text(json.dumps(key, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

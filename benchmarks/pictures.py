"""Make the README's pictures and data/photos: `python -m benchmarks.pictures`.

Chosen by hand are the prompts of the README's second picture, and which test scenes became photos.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.toyland import caption, counterfactual, render, scene_at
from p2p_helpers.toyland.counterfactual import swap
from p2p_helpers.toyland.world import to_json
from p2p_helpers.view.figures import figure_png

DATA = Path(__file__).parent.parent / "data"
OUT = DATA / "pictures"
PHOTOS = {  # test scenes, each with the kinds of edit it is used for
    "rabbit-beach": (1010, ("swap", "night")),
    "snowman-desert": (1008, ("background", "swap")),
    "car-snow": (1001, ("recolour", "night")),
    "cat-snow": (1058, ("add", "swap")),
    "pumpkin-meadow": (1085, ("restyle", "snow")),
    "dog-ocean": (1025, ("swap", "snow")),
    "fox-mushroom": (1051, ("swap", "restyle")),
    "balloon-forest": (1006, ("recolour", "background")),
}


def word_swaps(pipe, count: int = 4):
    """The first test captions with one object: source, the same seed with the new word alone, word swap with local blend."""
    images, titles, index = [], [], 0
    while len(images) < 3 * count:
        scene = scene_at("test", index)
        index += 1
        if len(scene.things) == 2:
            continue
        after, _, old, new = swap(scene, np.random.default_rng(index - 1))
        pair = caption(scene), caption(after)
        blend = p2p.LocalBlend((old, new))
        swapped = p2p.edit(
            pipe, *pair, p2p.Replace(), local_blend=blend, seed=index - 1, progress=False
        )
        alone = p2p.edit(
            pipe,
            *pair,
            p2p.Replace(cross_steps=0.0, self_steps=0.0),
            seed=index - 1,
            progress=False,
        )
        images += [swapped.source, alone.image, swapped.image]
        titles += [caption(scene), f"{old} → {new}: same seed only", f"{old} → {new}: word swap"]
    return p2p.gallery(images, titles, columns=6, width=10)


def refinements_and_faders(pipe, seed: int = 2):
    """One source refined in six ways, and one word of another prompt turned from −2 to 4."""
    source = "a house in a meadow"
    targets = [
        f"{source} at night",
        f"{source} with falling snow",
        f"{source} at night with falling snow",
        f"a watercolor painting of {source}",
        f"a pencil sketch of {source}",
        "a yellow house in a meadow",
    ]
    refined = p2p.edit(pipe, source, targets, p2p.Refine(), seed=seed, progress=False)
    prompt, weights = "a car in the city with falling snow", (-2, -1, 0, 1, 2, 3, 4)
    edits = [p2p.Reweight({"falling snow": w}) for w in weights]
    faded = p2p.edit(pipe, prompt, [prompt] * len(edits), edits, seed=seed, progress=False)
    titles = [
        source,
        "… at night",
        "… with falling snow",
        "… at night with falling snow",
        "a watercolor painting of …",
        "a pencil sketch of …",
    ]
    titles += ["a yellow house …", *(f"falling snow × {w}" for w in weights)]
    return p2p.gallery(
        [refined.source, *refined.images, *faded.images], titles, columns=7, width=10
    )


def write_photos(folder: Path):
    """Paint data/photos: every picture, its objects' masks, the true result of each of its edits, and photos.json, which describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for name, (index, kinds) in PHOTOS.items():
        scene = scene_at("test", index)
        picture, masks = render(scene)
        picture.save(folder / f"{name}.png")
        for thing, mask in zip(scene.things, masks, strict=True):
            Image.fromarray(mask).save(folder / f"{name}.mask-{thing.name}.png")
        edits = [counterfactual(scene, kind, np.random.default_rng(index)) for kind in kinds]
        for e in edits:
            e.pictures[1].save(folder / f"{name}.{e.kind}.png")
        described[name] = {
            "test scene": index,
            "prompt": caption(scene),
            "scene": json.loads(to_json(scene)),
            "edits": [
                {
                    "kind": e.kind,
                    "prompt": e.target,
                    "words": e.words,
                    "after": json.loads(to_json(e.after)),
                }
                for e in edits
            ],
        }
    (folder / "photos.json").write_text(json.dumps(described, indent=1) + "\n")


def main():
    """Write all."""
    write_photos(DATA / "photos")
    pipe = p2p.load_pipeline("toyland")
    OUT.mkdir(exist_ok=True)
    for name, make in (("word-swap", word_swaps), ("refine-and-reweight", refinements_and_faders)):
        (OUT / f"{name}.png").write_bytes(figure_png(make(pipe)))


if __name__ == "__main__":
    main()

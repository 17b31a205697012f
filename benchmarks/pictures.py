"""Make the README's pictures: `python -m benchmarks.pictures`. Nothing is chosen by hand but the prompts of the second."""

from pathlib import Path

import numpy as np

import p2p_helpers as p2p
from p2p_helpers.toyland import caption, scene_at
from p2p_helpers.toyland.evaluate import swap

OUT = Path(__file__).parent.parent / "data" / "pictures"


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
        swapped = p2p.edit(pipe, *pair, p2p.Replace(), local_blend=blend, seed=index - 1, progress=False)
        alone = p2p.edit(pipe, *pair, p2p.Replace(cross_steps=0.0, self_steps=0.0), seed=index - 1, progress=False)
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
    return p2p.gallery([refined.source, *refined.images, *faded.images], titles, columns=7, width=10)


def main():
    """Write both."""
    pipe = p2p.load_pipeline("toyland")
    OUT.mkdir(exist_ok=True)
    for name, make in (("word-swap", word_swaps), ("refine-and-reweight", refinements_and_faders)):
        (OUT / f"{name}.png").write_bytes(p2p.plots.figure_png(make(pipe)))


if __name__ == "__main__":
    main()

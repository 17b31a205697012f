"""Make the README's picture: the first test captions with one object and a word swap, not chosen. `python benchmarks/pictures.py`"""

from pathlib import Path

import numpy as np

import p2p_helpers as p2p
from p2p_helpers.toyland import caption, scene_at
from p2p_helpers.toyland.evaluate import swap

OUT = Path(__file__).parent.parent / "data" / "pictures" / "word-swap.png"


def main():
    pipe = p2p.load_pipeline("toyland")
    images, titles, index = [], [], 0
    while len(images) < 12:
        scene = scene_at("test", index)
        index += 1
        if len(scene.things) == 2:
            continue
        after, _, old, new = swap(scene, np.random.default_rng(index - 1))
        pair = caption(scene), caption(after)
        swapped = p2p.edit(pipe, *pair, p2p.Replace(), seed=index - 1, progress=False)
        alone = p2p.edit(pipe, *pair, p2p.Replace(cross_steps=0.0, self_steps=0.0), seed=index - 1, progress=False)
        images += [swapped.source, alone.image, swapped.image]
        titles += [caption(scene), f"{old} → {new}: same seed only", f"{old} → {new}: word swap"]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(p2p.plots.figure_png(p2p.gallery(images, titles, columns=6, width=10)))


if __name__ == "__main__":
    main()

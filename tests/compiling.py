"""How often torch.compile compiles the UNet for edits: `python -m tests.compiling wrapped|in-place`. Prints JSON.

A script of its own, since the tests check shapes in every function, which no compiler can look into. The graphs are
captured whole (`fullgraph=True`) and run as they are; code generation would need minutes and a C++ compiler.
"""

import json
import sys

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch._dynamo.testing import CompileCounter

import p2p_helpers as p2p

SOURCE, TARGET = "a cat on the beach", "a cat on the beach at night"
TINY = {
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}


def edits(pipe) -> dict:
    """Some edits, twice each: name → the pictures."""
    change = p2p.Refine(cross_steps={"default": 0.7, "beach": 0.4}, self_steps=0.3, self_size=1.0)
    blend = p2p.LocalBlend(("cat", "night"))
    run = {"steps": 10, "seed": 1, "guidance_scale": 4.0, "progress": False}
    ways = {
        "edit": lambda: p2p.edit(pipe, SOURCE, TARGET, change, **run),
        "edit again": lambda: p2p.edit(pipe, SOURCE, TARGET, change, **run),
        "blend and record": lambda: p2p.edit(
            pipe, SOURCE, TARGET, change, local_blend=blend, record=True, **run
        ),
        "both again": lambda: p2p.edit(
            pipe, SOURCE, TARGET, change, local_blend=blend, record=True, **run
        ),
    }
    return ways


def main(way: str):
    """Compile, edit, count."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    toyland = p2p.load_pipeline("toyland", device="cpu")
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=8, out_channels=8, cross_attention_dim=128, **TINY, **BLOCKS
    )
    parts = {**toyland.components, "unet": unet}
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    plain = {name: np.asarray(run().image) for name, run in edits(pipe).items()}
    counter, counts, apart = CompileCounter(), {}, {}
    if way == "wrapped":
        pipe.unet = torch.compile(unet, backend=counter, fullgraph=True)
    else:
        unet.compile(backend=counter, fullgraph=True)
    for name, run in edits(pipe).items():
        before = counter.frame_count
        made = np.asarray(run().image)
        counts[name] = counter.frame_count - before
        apart[name] = int(np.abs(made.astype(int) - plain[name]).max())
    print(json.dumps({"graphs": counts, "apart": apart}))


if __name__ == "__main__":
    main(sys.argv[1])

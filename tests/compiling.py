"""How often torch.compile compiles a model for edits: `python -m tests.compiling unet|sd3.5|flux wrapped|in-place`. Prints JSON.

A script of its own, since the tests check shapes in every function, which no compiler can look into. The graphs are
captured whole (`fullgraph=True`) and run as they are; code generation would need minutes and a C++ compiler.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch._dynamo.testing import CompileCounter

import p2p_helpers as p2p

from . import transformers

SOURCE, TARGET = "a cat on the beach", "a cat on the beach at night"
TINY = {
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}


def unet():
    """A pipeline with a UNet of two blocks."""
    toyland = p2p.load_pipeline("toyland", device="cpu")
    model = UNet2DConditionModel(
        sample_size=4, in_channels=8, out_channels=8, cross_attention_dim=128, **TINY, **BLOCKS
    )
    parts = {**toyland.components, "unet": model}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def edits(pipe) -> dict:
    """Some edits, twice each: name → the pictures."""
    change = p2p.Refine(cross_steps={"default": 0.7, "beach": 0.4}, self_steps=0.3, self_size=1.0)
    blend = p2p.LocalBlend(("cat", "night"))
    run = {"steps": 10, "seed": 1, "guidance_scale": 4.0, "progress": False}
    if not hasattr(pipe, "unet"):
        run |= {"height": 128, "width": 128, "max_sequence_length": 48}
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


def main(model: str, way: str):
    """Compile, edit, count."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pipe = unet() if model == "unet" else transformers.build(model, Path(tempfile.mkdtemp()))
    plain = {name: np.asarray(run().image) for name, run in edits(pipe).items()}
    counter, counts, apart = CompileCounter(), {}, {}
    part = "unet" if model == "unet" else "transformer"
    if way == "wrapped":
        setattr(pipe, part, torch.compile(getattr(pipe, part), backend=counter, fullgraph=True))
    else:
        getattr(pipe, part).compile(backend=counter, fullgraph=True)
    for name, run in edits(pipe).items():
        before = counter.frame_count
        made = np.asarray(run().image)
        counts[name] = counter.frame_count - before
        apart[name] = int(np.abs(made.astype(int) - plain[name]).max())
    print(json.dumps({"graphs": counts, "apart": apart}))


if __name__ == "__main__":
    main(*sys.argv[1:])

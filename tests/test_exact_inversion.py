"""Inversion without an error: its sampler runs backwards, and only the source takes it."""

import pytest
import torch
from diffusers import DDIMInverseScheduler

import p2p_helpers as p2p
from p2p_helpers.inversion import methods, samplers
from p2p_helpers.inversion.samplers import BDIAScheduler

from .pipelines import build
from .test_inversion import PICTURE, PROMPT, TARGET


@pytest.mark.parametrize("kind", ["toyland", "sd2"])
@pytest.mark.parametrize("steps", [7, 20])
def test_the_exact_sampler_runs_backwards_to_rounding(kind, steps, request, tmp_path):
    """From a latent to noise and back, where plain DDIM misses by far more."""
    pipe = request.getfixturevalue("toyland") if kind == "toyland" else build(kind, tmp_path)

    def missed(inverse, forth):
        pivot = methods._pivot(pipe, PICTURE, PROMPT, steps, inverse)
        with samplers._scheduler(pipe, lambda config: forth(config, pivot)):
            run = {"guidance_scale": 1.0, "num_inference_steps": steps, "output_type": "latent"}
            back = pipe([PROMPT], **run, **samplers._arguments(pipe, pivot[:1])).images
        return ((back - pivot[-1:]).abs().max() / pivot[-1].std()).item()

    exact = missed(BDIAScheduler.over, lambda config, pivot: BDIAScheduler.over(config, pivot[1]))
    ddim = missed(
        DDIMInverseScheduler.from_config,
        lambda config, pivot: samplers.DDIMScheduler.from_config(config),
    )
    assert exact < 2e-3
    assert ddim > 20 * exact


def test_exact_leaves_the_targets_their_own_null_text(tmp_path):
    """SDXL has zeros for it; the UNet gets what it gets for "ddim", but for the source's row."""
    pipe, seen = build("sdxl", tmp_path), {}
    for method in ("ddim", "exact"):
        inv = p2p.invert(
            pipe, PICTURE, PROMPT, method=method, steps=2, guidance_scale=5.0, progress=False
        )

        def look(module, args, kwargs, method=method):
            seen[method] = (
                kwargs["encoder_hidden_states"],
                kwargs["added_cond_kwargs"]["text_embeds"],
            )

        hook = None

        def edit_begins(*args, look=look):
            nonlocal hook
            hook = hook or pipe.unet.register_forward_pre_hook(
                look, with_kwargs=True
            )  # after the inversion's own
            return args[-1]

        p2p.edit(pipe, inv, TARGET, callback=edit_begins, progress=False)
        hook.remove()
    for ddim, exact in zip(seen["ddim"], seen["exact"], strict=True):
        # The source without a prompt is not run: its latents are known.
        torch.testing.assert_close(exact, ddim[1:])
        assert not ddim[:2].any()

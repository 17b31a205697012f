"""Stable Diffusion 1.x, 2.x and XL: small pipelines of the real topology, saved to disk and loaded as a user loads one."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image
from safetensors.torch import save_file

import p2p_helpers as p2p
from p2p_helpers.pipelines import _moved, _usual_dtype

from . import materialised
from .pipelines import build
from .test_exact import COLD, apart, latents_of

CAT, DOG = "a cat on the beach", "a dog on the beach"
SNOWMAN = "a snowman on the beach"


def pixels(image):
    return np.asarray(image)


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    build(request.param, folder / "tokenizer").save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def real(folder):
    pipe = p2p.load_pipeline(str(folder), device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("has", [True, False])
def test_models_of_flow_matching_take_bfloat16_where_the_gpu_has_it(
    folder, tmp_path, monkeypatch, has
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    flow = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(flow))
    wanted = torch.bfloat16 if has else torch.float16
    kinds = {str(folder): torch.float16, str(tmp_path): wanted, None: torch.float16}
    for name, kind in kinds.items():
        assert _usual_dtype(name, "cuda") == kind and _usual_dtype(name, "cpu") == torch.float32


EDITS = {
    "swap": (DOG, p2p.Replace(self_size=1.0), None),
    "swap by a word of more tokens": (SNOWMAN, p2p.Replace(), None),
    "refine": ("a cat on the beach at night", p2p.Refine(), None),
    "reweight": (CAT, p2p.Reweight({"beach": -2, "cat": 3}), None),
    "blend": (
        DOG,
        p2p.Replace() | p2p.Reweight({"dog": 2}),
        p2p.LocalBlend(("cat", "dog"), threshold=0.97),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_runs_and_leaves_the_source_alone(real, name):
    target, change, blend = EDITS[name]
    before = dict(real.unet.attn_processors)
    twins = [torch.Generator().manual_seed(1) for _ in range(2)]
    plain = real([CAT, target], num_inference_steps=4, guidance_scale=5.0, generator=twins).images
    result = p2p.edit(
        real,
        CAT,
        target,
        change,
        local_blend=blend,
        seed=1,
        steps=4,
        guidance_scale=5.0,
        progress=False,
    )
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))
    assert (pixels(result.image) != pixels(plain[1])).any()
    assert (pixels(result.image) != pixels(result.source)).any()
    if blend:
        assert 0 < result.masks.float().mean() < 1
        assert result.masks.shape[0] == real.num_timesteps
    assert real.unet.attn_processors == before  # unhooked: the plain picture comes again
    twins = [torch.Generator().manual_seed(1) for _ in range(2)]
    again = real([CAT, target], num_inference_steps=4, guidance_scale=5.0, generator=twins).images
    np.testing.assert_array_equal(pixels(again[1]), pixels(plain[1]))


@pytest.mark.parametrize("guidance", [0.0, 5.0], ids=["turbo: no guidance", "guidance"])
def test_they_equal_the_paper_with_maps_written_out(real, guidance):
    """Swap, refinement and reweighting in one batch, self-attention in every layer; as turbo models run, too."""
    prompts = [CAT, SNOWMAN, "a cat on the beach at night", CAT]
    edits = [
        p2p.Replace(cross_steps=0.6),
        p2p.Refine(cross_steps=0.6),
        p2p.Reweight({"beach": -2}, cross_steps=0.6),
    ]
    edits = [e | p2p.Reweight({}, cross_steps=1.0, self_steps=0.5, self_size=1.0) for e in edits]
    ours, _ = latents_of(real, prompts, edits, steps=4, guidance_scale=guidance)
    calls = real.num_timesteps  # PNDM takes one more than steps
    alpha = [materialised.schedule(real.tokenizer, p, calls, 0.6) for p in prompts[1:]]
    equations = [
        materialised.swap(real.tokenizer, CAT, SNOWMAN),
        materialised.refine(real.tokenizer, CAT, prompts[2]),
        materialised.reweight(real.tokenizer, CAT, {"beach": -2}, lambda a_s, a_t: a_s),
    ]
    theirs, _ = materialised.run(
        real,
        prompts,
        list(zip(equations, alpha, strict=True)),
        4,
        calls // 2,
        guidance_scale=guidance,
    )
    assert apart(ours, theirs) <= COLD
    plain, _ = latents_of(
        real,
        prompts,
        [p2p.Replace(cross_steps=0.0, self_steps=0.0)]
        + [p2p.Refine(cross_steps=0.0, self_steps=0.0)] * 2,
        steps=4,
        guidance_scale=guidance,
    )
    assert apart(plain, theirs) > 10 * COLD  # the edits do something that could have gone wrong


def test_prediction_and_text_encoders_are_the_real_ones(real, folder):
    kind = folder.parent.name[:-1]
    if kind.startswith("sd2"):
        assert real.scheduler.config.prediction_type == "v_prediction"
    if kind.startswith("sdxl"):
        assert (
            real.text_encoder_2 is not None and real.unet.config.addition_embed_type == "text_time"
        )
        assert len(real.unet.attn_processors) == 140


def test_ancestral_noise_is_shared(real):
    before = real.scheduler
    real.scheduler = EulerAncestralDiscreteScheduler.from_config(before.config)
    try:
        same = p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0)
        result = p2p.edit(real, CAT, CAT, same, steps=3, progress=False)
    finally:
        real.scheduler = before
    np.testing.assert_allclose(
        pixels(result.image).astype(int), pixels(result.source).astype(int), atol=1
    )


def test_img2img_and_inpainting(real):
    """Attention is the same there. Fewer steps run than are asked for (strength), and the latent starts from a picture."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8))
    mask = Image.fromarray(np.pad(np.full((64, 128), 255, np.uint8), ((0, 64), (0, 0))))
    for kind, extra in (
        (AutoPipelineForImage2Image, {}),
        (AutoPipelineForInpainting, {"mask_image": mask}),
    ):
        pipe = kind.from_pipe(real)
        pipe.set_progress_bar_config(disable=True)
        arguments = {"image": picture, "strength": 0.5, **extra}
        same = p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0)
        alike = p2p.edit(
            pipe, CAT, CAT, same, steps=4, guidance_scale=5.0, progress=False, **arguments
        )
        np.testing.assert_allclose(
            pixels(alike.image).astype(int), pixels(alike.source).astype(int), atol=1
        )
        twins = [torch.Generator().manual_seed(0) for _ in range(2)]
        batched = {k: [v] * 2 if k != "strength" else v for k, v in arguments.items()}
        plain = pipe(
            [CAT, DOG], num_inference_steps=4, guidance_scale=5.0, generator=twins, **batched
        ).images
        result = p2p.edit(pipe, CAT, DOG, steps=4, guidance_scale=5.0, progress=False, **arguments)
        np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))
        assert (pixels(result.image) != pixels(plain[1])).any()


def test_the_fp16_variant_is_chosen_for_half_precision(real, tmp_path):
    real.save_pretrained(tmp_path, variant="fp16")
    half = p2p.load_pipeline(str(tmp_path), device="cpu", dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    with pytest.raises(
        p2p.ModelError, match="could not be loaded"
    ):  # float32 weights are not there
        p2p.load_pipeline(str(tmp_path), device="cpu")


def test_a_folder_that_is_not_here_is_said_beside_the_hub(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(p2p.ModelError, match="no connection.*has no such folder.*Hub id"):
        p2p.load_pipeline("models/mine", device="cpu")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with pytest.raises(p2p.ModelError) as refused:
        p2p.load_pipeline("models/mine", device="cpu")
    assert "no such folder" not in str(refused.value)


def test_pickled_weights_are_refused(real, tmp_path):
    real.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(p2p.ModelError, match="saved as safetensors"):
        p2p.load_pipeline(str(tmp_path), device="cpu")


class Flow(DiffusionPipeline):
    """A pipeline of flow matching, as far as its memory goes."""

    def __init__(self, scheduler, transformer):
        super().__init__()
        self.register_modules(scheduler=scheduler, transformer=transformer)


def test_memory_that_runs_out_is_said_as_such(real, monkeypatch, folder):
    """On the way to the device the model is there already: nothing is loaded a second time."""
    loads, load = [], DiffusionPipeline.from_pretrained

    def counted(*args, **kwargs):
        loads.append(args)
        return load(*args, **kwargs)

    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", counted)
    monkeypatch.setattr(DiffusionPipeline, "to", full)
    says = r"GiB do not fit into the memory of cpu.*take dtype=torch.float16, or load"
    with pytest.raises(p2p.ModelError, match=says):
        p2p.load_pipeline(str(folder), device="cpu")
    assert len(loads) == 1
    for weights, advice in [(torch.float32, "take dtype=torch.bfloat16, "), (torch.float16, "")]:
        flow = Flow(FlowMatchEulerDiscreteScheduler(), torch.nn.Linear(1, 1, dtype=weights))
        with pytest.raises(p2p.ModelError, match=rf"hold theirs\), {advice}or load"):
            _moved(flow, "cpu")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model.diffusion_model.a"], "StableDiffusionPipeline"),
        (["conditioner.embedders.1.a"], "StableDiffusionXLPipeline"),
    ],
)
def test_a_checkpoint_in_one_file(tmp_path, monkeypatch, names, kind):
    """The class is found by the file's names; diffusers reads the file."""
    file, seen = tmp_path / "model.safetensors", []
    save_file({name: torch.zeros(1) for name in names}, file)

    def read(path, **options):
        seen.append(path)
        raise OSError("no connection")

    monkeypatch.setattr(getattr(diffusers, kind), "from_single_file", read)
    with pytest.raises(p2p.ModelError, match="no connection"):
        p2p.load_pipeline(str(file), device="cpu")
    assert seen == [str(file)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.diffusion_model.joint_blocks.0.a", "StableDiffusion3Pipeline"),
        ("double_blocks.0.a", "FluxPipeline"),
    ],
)
def test_a_transformer_in_one_file_is_said(tmp_path, name, kind):
    save_file({name: torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(p2p.ModelError, match=f"or make the pipeline by diffusers, {kind}"):
        p2p.load_pipeline(str(tmp_path / "model.safetensors"), device="cpu")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("./absent.safetensors", {}, "There is no file absent.safetensors"),
        ("~/model.ckpt", {}, "is a pickle"),
        ("toyland", {"dtype": "float16"}, "torch.float16"),
        ("toyland", {"device": "gpu"}, "device='gpu' cannot be used here.*'cpu'"),
        ("nonsense", {}, "There is no model"),
    ],
)
def test_what_cannot_be_loaded_is_explained(name, options, says):
    with pytest.raises(p2p.P2PError, match=says):
        p2p.load_pipeline(name, **options)

"""Stage 2: text encoder and UNet, trained together to predict the noise (Ho et al. 2020) on the autoencoder's latents."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..tokenizer import MAX_TOKENS, write_tokenizer
from ..world import caption, scene_at, vocabulary
from .autoencoder import crop_origins
from .captions import Captions, mixed
from .data import FLOAT32, features, latents, save_grid, truths
from .fit import fast_dtype, fit, generators
from .reader import trained_reader


def new_tokenizer(config: dict, out: Path) -> CLIPTokenizer:
    """The world's tokenizer, with its words and its usual guidance written into tokenizer_config.json."""
    write_tokenizer(out / "tokenizer")
    facts = {"known_words": vocabulary(), "guidance_scale": config["diffusion"]["guidance_scale"]}
    return CLIPTokenizer.from_pretrained(out / "tokenizer", model_max_length=MAX_TOKENS, **facts)


def text_config(sizes: dict, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """A text encoder of these sizes that reads the world's tokens."""
    return CLIPTextConfig(
        **sizes,
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_pipeline(
    config: dict, tokenizer: CLIPTokenizer, vae: AutoencoderKL | None = None
) -> StableDiffusionPipeline:
    """The pipeline that training.json describes, with random weights where no trained part is given."""
    settings = config["diffusion"]
    text = text_config(settings["text_encoder"], tokenizer)
    return StableDiffusionPipeline(
        vae=vae or AutoencoderKL(**config["autoencoder"]["model"]),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**settings["unet"]),
        scheduler=DDIMScheduler(**settings["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def start_from(pipe: StableDiffusionPipeline, folder: str, without: Sequence[str] = ()):
    """Take over the weights of an older pipeline: the UNet's, and the text encoder's for the tokens that both know.

    Attentions whose names begin as `without` says are not taken over, and begin as the identity where the UNet has them.
    """
    old = StableDiffusionPipeline.from_pretrained(folder, **FLOAT32)
    fresh = pipe.unet.state_dict()
    for name, value in fresh.items():
        if name.startswith(tuple(without)) and ".proj_out." in name:
            value.zero_()
    taken = old.unet.state_dict()
    known = {k: v for k, v in taken.items() if not k.startswith(tuple(without))}
    pipe.unet.load_state_dict(fresh | known)
    embedding = "embeddings.token_embedding.weight"
    theirs = old.text_encoder.state_dict()
    ours = pipe.text_encoder.state_dict()
    (key,) = (k for k in ours if k.endswith(embedding))
    numbers = old.tokenizer.get_vocab()
    rows = theirs.pop(key)
    for token, i in pipe.tokenizer.get_vocab().items():
        if token in numbers:
            ours[key][i] = rows[numbers[token]]
    pipe.text_encoder.load_state_dict(ours | theirs)


def trained_vae(config: dict, out: Path, device: str) -> AutoencoderKL:
    """The autoencoder as far as it is trained, frozen: this run's, or else the one of the pipeline that training starts from.

    Raises:
        SystemExit: neither is there; the message names the stage to run first.
    """
    start = config["diffusion"]["start"]
    folders = [out / "decoder" / "vae", out / "autoencoder" / "vae"]
    if start:
        folders.append(Path(start) / "vae")
    folder = next((f for f in folders if f.exists()), None)
    if folder is None:
        raise SystemExit(
            f"There is no autoencoder in {out}. Train it first: python -m p2p_helpers.toyland.training autoencoder"
        )
    vae = AutoencoderKL.from_pretrained(folder, **FLOAT32).to(device)
    vae.eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="toyland")  # not where it happened to lie
    return vae


def halfway(unet: UNet2DConditionModel) -> Callable[[], Tensor]:
    """A function that gives what the UNet held at its middle size in this thread's last run, (picture, width, row, column)."""
    seen = threading.local()  # workers run the same UNet side by side

    def keep(module, arguments, output):
        seen.hidden = output[0] if isinstance(output, tuple) else output.sample

    unet.down_blocks[1].attentions[-1].register_forward_hook(keep)
    return lambda: seen.hidden


class Batches:
    """What the training steps read: latents, captions and where the objects are."""

    def __init__(self, settings: dict, codes: Tensor, holds: Tensor, tokenizer: CLIPTokenizer):
        self.settings = settings
        self.codes, self.holds = codes, holds
        self.scenes = [scene_at("train", i) for i in range(len(codes))]
        self.captions = Captions(tokenizer)
        self.lines = [self.captions.line(scene) for scene in self.scenes]
        # What is hard is shown more often: a second object, a colour.
        hard = np.array(
            [
                (len(s.things) == 2) + any(t.colour is not None for t in s.things)
                for s in self.scenes
            ]
        )
        chance = 1 + self.settings["oversample"] * hard
        self.chance = chance / chance.sum()

    def choose(self, rng: np.random.Generator) -> np.ndarray:
        """The scenes of one worker's part of a step."""
        count = self.settings["batch_size"] // self.settings["workers"]
        return rng.choice(len(self.codes), count, p=self.chance)

    def words(
        self, choice: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens of the captions, tokens of the lending captions, lenders and kept positions (see `captions.mixed`)."""
        rows, others, lenders, keeps = [], [], [], []
        everything = list(range(MAX_TOKENS))
        for i in choice:
            line = self.lines[i]
            row = self.captions.row(line)
            lent, lender, own = row, everything, everything
            if rng.random() < self.settings["caption_dropout"]:
                row = [self.captions.start] + [self.captions.end] * (MAX_TOKENS - 1)
                lent = row
            elif rng.random() < self.settings["exchange"]:
                lent, lender, own = self.captions.exchanged(self.scenes[i], line, rng)
            rows.append(row)
            others.append(lent)
            lenders.append(lender)
            keeps.append([p in own for p in range(MAX_TOKENS)])
        return torch.tensor(rows), torch.tensor(others), torch.tensor(lenders), torch.tensor(keeps)

    def cut(self, choice: np.ndarray, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Squares of latents, most of them around an object: (picture, channel, side, side), and where they hold objects."""
        codes, holds = [], []
        for i in choice:
            y, x = crop_origins(self.holds[i], side, rng)
            codes.append(self.codes[i, :, y : y + side, x : x + side])
            holds.append(self.holds[i, y : y + side, x : x + side])
        return torch.stack(codes).float(), torch.stack(holds)


def save_samples(pipe, guidance_scale: float, path: Path):
    """Write what a pipeline makes of 24 validation prompts as one PNG, and the prompts beside it."""
    pipe.set_progress_bar_config(disable=True)
    prompts = [caption(scene_at("validation", i)) for i in range(24)]
    images = pipe(
        prompts,
        num_inference_steps=20,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
        output_type="pt",
    ).images
    save_grid(images * 2 - 1, path, 8)
    path.with_suffix(".txt").write_text("\n".join(prompts))


def diffusion(config: dict, out: Path, device: str):
    """Train the UNet and the text encoder; write the whole pipeline, in float16, to `pipeline/`.

    Loss weights are min-SNR with γ = 5 (Hang et al. 2023, arXiv 2303.09556); some captions are dropped for classifier-free
    guidance (Ho & Salimans 2022). With little noise, where only detail is left, two steps of three look at crops around
    objects (Patch Diffusion, arXiv 2304.12526): a quarter of the price. On whole pictures what the UNet holds half-way is led
    towards a reader's features of the clean picture, so that it learns earlier which object is which (REPA; Yu et al. 2024, arXiv
    2410.06940); the projection between them is left away at the end.
    """
    settings = config["diffusion"]
    vae = trained_vae(config, out, device)
    tokenizer = new_tokenizer(config, out)
    holds = (
        truths("train", config["scenes"], out)["objects"] > 0
    )  # (scene, row, column) of the latent
    batches = Batches(
        settings, latents(vae, "train", config["scenes"], out, device), holds, tokenizer
    )
    torch.manual_seed(settings["seed"])
    pipe = new_pipeline(config, tokenizer, vae)
    if settings["start"]:
        start_from(pipe, settings["start"], settings.get("start_without", ()))
    count = config["scenes"]
    eye = trained_reader(config["eye"], count, out, "eye", device)  # not the one that judges
    wanted = features(eye, "train", count, out, pipe.unet.config["sample_size"] // 2)
    width, own = wanted.shape[1], pipe.unet.config["block_out_channels"][1]
    projection = nn.Sequential(
        nn.Conv2d(own, 2 * width, 1), nn.SiLU(), nn.Conv2d(2 * width, width, 1)
    )
    hidden = halfway(pipe.unet)
    parts = {"text_encoder": pipe.text_encoder, "unet": pipe.unet, "projection": projection}
    model = nn.ModuleDict(parts).train().requires_grad_(True)
    model.to(device, memory_format=torch.channels_last)
    if device == "cpu":  # a third of the UNet's time is its fused attention's way back
        pipe.unet.set_attn_processor(AttnProcessor())
    scheduler = pipe.scheduler
    alphas = scheduler.alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=settings["min_snr_gamma"]) / snr  # for noise prediction
    dtype = fast_dtype(device)

    def errors(
        clean: Tensor, held: Tensor, t: Tensor, embedding: Tensor, noise_rng, whole=None
    ) -> Tensor:
        """Weighted squared error of each picture, (picture,); for whole ones, whose numbers are given, and how far from the reader's."""
        clean = clean.to(device)
        noise = torch.randn(clean.shape, generator=noise_rng).to(device)
        noisy = scheduler.add_noise(clean, noise, t).to(memory_format=torch.channels_last)
        with torch.autocast(
            device.split(":")[0], dtype or torch.bfloat16, enabled=dtype is not None
        ):
            guess = model["unet"](noisy, t, embedding).sample
            led = None if whole is None else model["projection"](hidden())
        error = (guess.float() - noise).square().mean(1)  # (picture, row, column)
        # Objects are a small part of a picture and most of what a caption says. They weigh more where little noise leaves no doubt
        # about where they are; with much noise the weight would teach the model to expect objects everywhere.
        stress = 1 + settings["object_weight"] * held.to(device) * alphas[t, None, None].sqrt()
        wrong = weight[t] * (stress * error).mean((1, 2))
        if led is None:
            return wrong
        alike = F.cosine_similarity(led.float(), wanted[whole].to(device).float(), dim=1)
        return wrong + settings["align_weight"] * (1 - alike.mean((1, 2)))

    def loss_at(step: int, worker: int) -> Tensor:
        rng, noise_rng = generators(settings, step, worker)
        choice = batches.choose(rng)
        count = len(choice)
        rows, others, lenders, keeps = (x.to(device) for x in batches.words(choice, rng))
        encoded = model["text_encoder"](torch.cat([rows, others]))[0]  # (2 prompts, token, width)
        embedding = mixed(*encoded.chunk(2), lenders, keeps)
        # one draw in each of as many equal intervals as the batch has samples: less variance than independent draws
        times = ((np.arange(count) + rng.random(count)) / count * len(alphas)).astype(np.int64)
        t = torch.from_numpy(times).to(device)
        few = int((times < settings["crop_below"] * len(alphas)).sum()) if step % 3 else 0
        total = torch.zeros((), device=device)
        if few:
            clean, held = batches.cut(choice[:few], settings["crop"], rng)
            total = total + errors(clean, held, t[:few], embedding[:few], noise_rng).sum()
        rest = choice[few:]
        clean, held = batches.codes[rest].float(), batches.holds[rest]
        total = total + errors(clean, held, t[few:], embedding[few:], noise_rng, rest).sum()
        return total / count

    def assemble(average: nn.ModuleDict) -> StableDiffusionPipeline:
        trained = {name: average[name] for name in ("text_encoder", "unet")}
        return StableDiffusionPipeline(
            **{**pipe.components, **trained}, requires_safety_checker=False
        )

    def sample(average: nn.ModuleDict, path: Path):
        save_samples(assemble(average), settings["guidance_scale"], path)

    average = fit(model, loss_at, sample, settings, out / settings.get("run", "diffusion"), device)
    save(assemble(copy.deepcopy(average)), out / "pipeline")


def save(pipe: DiffusionPipeline, folder: Path):
    """Write a pipeline in float16, so that every version of transformers that the package allows reads it."""
    pipe.to(torch.float16).save_pretrained(folder)
    for tokenizer in folder.glob("tokenizer*"):
        write_tokenizer(tokenizer)  # transformers before 5 reads these files
    weights = folder / "text_encoder" / "model.safetensors"
    values, older = load_file(weights), "text_model."
    if any(key.startswith(older) for key in values):
        return
    # transformers 5.6 drops this from the names, and reads them with it still
    named = {older + key: value for key, value in values.items()}
    save_file(named, weights, metadata={"format": "pt"})

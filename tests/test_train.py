"""Training can be killed at any step and goes on to the same weights."""

import contextlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import nn

import p2p_helpers as p2p
from p2p_helpers.paths import data_folder
from p2p_helpers.toyland import load_reader
from p2p_helpers.toyland.training import diffusion, transformer
from p2p_helpers.toyland.training.decoder import Critic
from p2p_helpers.toyland.training.fit import fit, generators, learning_rate
from p2p_helpers.toyland.training.muon import Muon
from p2p_helpers.toyland.training.perception import apart, picture_features
from p2p_helpers.toyland.training.transformer import OneForMany, new_transformer

SETTINGS = {
    "steps": 8,
    "muon_lr": 0.02,
    "adam_lr": 0.01,
    "warmup": 2,
    "decay_from": 0.5,
    "ema": 0.9,
    "workers": 2,
}


def run(folder, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss_at(step, worker):
        if step >= steps:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(2 * step + worker))
        return (model(x)[:, 0] - x.sum(1)).square().mean()

    return fit(model, loss_at, lambda average, path: None, SETTINGS, folder, "cpu")


def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "p2p_helpers.toyland.training.fit.CHECKPOINT_SECONDS", -1
    )  # a checkpoint after every step
    whole = run(tmp_path / "whole", 99)
    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path / "killed", 5)
    resumed = run(tmp_path / "killed", 99)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_muon_steps_are_nearly_orthogonal():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(16, 6, 3, 3))
    weight.grad = torch.randn(16, 6, 3, 3)
    Muon([weight], lr=1.0).step()
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    assert 0.5 < values.min() and values.max() < 1.3


def test_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(s, 100, 10, 0.5) for s in range(100)]
    assert rates[0] < 0.2 and rates[10:50] == [1.0] * 40 and rates[99] < 0.05
    assert all(a >= b for a, b in itertools.pairwise(rates[50:]))


def config_of(**transformer):
    """The shipped configuration, of eight scenes."""
    config = json.loads((data_folder("toyland") / "training.json").read_text())
    config["diffusion"]["start"] = str(data_folder("toyland") / "pipeline")
    settings = config["transformer"] | {"batch_size": 4} | transformer
    return config | {"scenes": 8, "transformer": settings}


def test_one_empty_token_counts_as_all_that_it_stands_for(tokenizer):
    config = config_of()
    torch.manual_seed(0)
    pipe = new_transformer(config, tokenizer, AutoencoderKL(**config["autoencoder"]["model"]))
    model = pipe.transformer.double()  # so that rounding cannot hide what differs
    for parameter in model.parameters():  # no gate is shut
        nn.init.normal_(parameter, std=0.2)
    clean, text, pooled = (
        torch.randn(*shape).double() for shape in ((2, 8, 16, 16), (2, 32, 192), (2, 192))
    )
    common = {"timestep": torch.tensor([100.0, 900.0]).double(), "pooled_projections": pooled}

    def with_empty(count):
        padded = nn.functional.pad(text, (0, 0, 0, count))
        return model(clean, encoder_hidden_states=padded, **common).sample

    with torch.no_grad():
        many, one = with_empty(256), with_empty(1)
        with OneForMany(64 + 32 + 1, copies=256):
            standing = with_empty(1)
    torch.testing.assert_close(standing, many)
    assert (one - many).abs().max() > 0.01


def test_a_critic_and_a_maker_each_move_their_own_weights_only():
    torch.manual_seed(0)
    critic, made = Critic(), torch.rand(2, 3, 32, 32, requires_grad=True)
    makers, own = critic.judged(made, torch.rand(2, 3, 32, 32))
    makers.backward()
    assert made.grad.abs().max() > 0 and all(p.grad is None for p in critic.parameters())
    made.grad = None
    own.backward()
    assert made.grad is None and all(p.grad is not None for p in critic.parameters())


def test_two_workers_at_once_leave_the_critic_its_weights():
    torch.manual_seed(0)
    critic, real = Critic(), torch.rand(2, 3, 32, 32)

    def judged(_):
        made = torch.rand(2, 3, 32, 32, requires_grad=True)
        makers, own = critic.judged(made, real)
        return makers.requires_grad and own.requires_grad

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(judged, range(60)))
    assert all(isinstance(weight, torch.nn.Parameter) for weight in critic.parameters())


def test_noise_follows_from_the_stages_seed():
    first, second = (
        generators({"seed": seed, "workers": 2}, 5, 1)[1].initial_seed() for seed in (1, 2)
    )
    again = generators({"seed": 1, "workers": 2}, 5, 1)[1].initial_seed()
    assert first == again != second and first > 10_000  # none of the seeds that people take


def test_pictures_that_look_apart_are_apart_and_small_errors_count_little():
    torch.manual_seed(0)
    reader, pictures = load_reader(), torch.rand(2, 3, 64, 64) * 2 - 1

    def far(size):
        changed = pictures + size * torch.randn(pictures.shape)
        return apart(picture_features(reader, changed), picture_features(reader, pictures)).item()

    assert far(0) == 0 and far(0.01) < far(1) / 100


def loads_and_edits(folder):
    pipe = p2p.load_pipeline(folder, device="cpu")
    result = p2p.edit(pipe, "a cat", "a dog", seed=0, steps=1, guidance_scale=1.0, progress=False)
    assert result.image.size == (128, 128)


def test_the_transformer_is_trained_and_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(transformer, "save_samples", lambda *arguments: None)
    transformer.transformer(config_of(steps=2), tmp_path, "cpu")
    loads_and_edits(tmp_path / "transformer-pipeline")
    known, trained = (
        load_file(folder / "text_encoder" / "model.safetensors")
        for folder in (data_folder("toyland") / "pipeline", tmp_path / "transformer-pipeline")
    )
    word = "text_model.embeddings.token_embedding.weight"
    assert (known[word].float() - trained[word].float()).abs().max() < 0.1


def test_the_unet_is_trained_and_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "save_samples", lambda *arguments: None)
    config = config_of()
    config["diffusion"] |= {"batch_size": 4, "steps": 2}
    config["eye"] |= {"batch_size": 4, "steps": 1}
    diffusion.diffusion(config, tmp_path, "cpu")
    loads_and_edits(tmp_path / "pipeline")
    before, after = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (data_folder("toyland") / "pipeline", tmp_path / "pipeline")
    )
    assert before.keys() == after.keys()  # nothing of the projection
    moved = max((before[key].float() - after[key].float()).abs().max() for key in before)
    assert 0 < moved < 0.1

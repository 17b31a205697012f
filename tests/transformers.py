"""Small transformers with random weights and the topology of the real ones: their published configurations, only narrower."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from p2p_helpers.toyland.tokenizer import write_tokenizer
from p2p_helpers.toyland.world import caption, scene_at

KINDS = ("sd3", "sd3.5", "sd3 without T5", "flux", "flux with true guidance", "chroma")
HEADS = {"attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 64}


def t5_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """T5's kind of tokenizer: pieces learnt from captions, rare words in several, an end token and no start token."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    letters = list("abcdefghijklmnopqrstuvwxyz▁,'.")
    trainer = trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=letters,
        show_progress=False,
    )
    made.train_from_iterator([caption(scene_at("train", i)) for i in range(400)], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=length, **special)


def _clip(tokenizer, width: int, kind=CLIPTextModelWithProjection):
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    return kind(
        CLIPTextConfig(
            **sizes,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            vocab_size=len(tokenizer),
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def _t5(tokenizer):
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=64, d_kv=8, d_ff=128, num_layers=2, num_heads=4)
    )


def _vae():
    levels = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return AutoencoderKL(
        3,
        3,
        *levels,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        sample_size=128,
        shift_factor=0.05,
        scaling_factor=1.5,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _contrasty(model):
    """Random weights give nearly flat attention; with larger ones the maps differ, so that a wrong edit shows."""
    for name, weights in model.named_parameters():
        if any(part in name for part in ("to_q.w", "to_k.w", "add_q_proj.w", "add_k_proj.w")):
            weights.data.mul_(3)
        if "norm" in name and name.endswith("linear.weight"):  # the gates, nearly closed otherwise
            weights.data.mul_(2)
    return model


def build(kind: str, folder: Path, **changed):
    """A pipeline of one of `KINDS`, 128 pixels; CLIP's tokenizer goes to `folder`. What is changed is SD3's configuration."""
    torch.manual_seed(0)
    write_tokenizer(folder)
    clip = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=kind == "flux")
    if kind.startswith("sd3"):
        t5 = None if kind == "sd3 without T5" else t5_tokenizer(256)
        second = CLIPTokenizer.from_pretrained(folder, model_max_length=77, pad_token="!")
        newer = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"} if kind == "sd3.5" else {}
        sizes = {
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 4,
            "caption_projection_dim": 64,
            "pooled_projection_dim": 56,
            "pos_embed_max_size": 32,
        }
        model = SD3Transformer2DModel(**{**sizes, **HEADS, **newer, **changed})
        made = StableDiffusion3Pipeline(
            transformer=_contrasty(model),
            scheduler=scheduler,
            vae=_vae(),
            text_encoder=_clip(clip, 32),
            tokenizer=clip,
            text_encoder_2=_clip(second, 24),
            tokenizer_2=second,
            text_encoder_3=None if t5 is None else _t5(t5),
            tokenizer_3=t5,
        )
    else:
        t5 = t5_tokenizer(512)
        sizes = {
            "patch_size": 1,
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 3,
            "axes_dims_rope": (4, 6, 6),
            **HEADS,
        }
        parts = {"scheduler": scheduler, "vae": _vae()}
        if kind == "chroma":
            approximator = {
                "approximator_num_channels": 16,
                "approximator_hidden_dim": 32,
                "approximator_layers": 1,
            }
            model = ChromaTransformer2DModel(**sizes, **approximator)
            made = ChromaPipeline(
                transformer=_contrasty(model), text_encoder=_t5(t5), tokenizer=t5, **parts
            )
        else:
            model = FluxTransformer2DModel(
                pooled_projection_dim=32, guidance_embeds=kind == "flux", **sizes
            )
            made = FluxPipeline(
                transformer=_contrasty(model),
                text_encoder=_clip(clip, 32, CLIPTextModel),
                tokenizer=clip,
                text_encoder_2=_t5(t5),
                tokenizer_2=t5,
                **parts,
            )
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # T5 drops out at random otherwise
    made.set_progress_bar_config(disable=True)
    return made

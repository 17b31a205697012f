"""Small models that read T5, with random weights and the topology of the real ones: their published configurations, only narrower."""

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    IFPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
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

FLOWS = ("sd3", "sd3.5", "sd3 without T5", "flux", "flux with true guidance", "chroma")
KINDS = (*FLOWS, "pixart", "hunyuan", "deepfloyd")
HEADS = {"attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 64}


def _pieces(length: int, special: dict[str, str], single: str) -> PreTrainedTokenizerFast:
    """A tokenizer of pieces learnt from captions, rare words in several."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    letters = list("abcdefghijklmnopqrstuvwxyz▁,'.")
    trainer = trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=list(special.values()),
        unk_token=special["unk_token"],
        initial_alphabet=letters,
        show_progress=False,
    )
    made.train_from_iterator([caption(scene_at("train", i)) for i in range(400)], trainer)
    made.post_processor = processors.TemplateProcessing(
        single=single,
        special_tokens=[(token, made.token_to_id(token)) for token in special.values()],
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=length, **special)


def t5_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """T5's kind of tokenizer: an end token and no start token."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _pieces(length, special, "$A </s>")


def bert_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """BERT's kind of special tokens."""
    special = {
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    return _pieces(length, special, "[CLS] $A [SEP]")


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


def _vae(shift: float | None = 0.05):
    levels = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return AutoencoderKL(
        3,
        3,
        *levels,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        sample_size=128,
        shift_factor=shift,
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


def _pixart():
    t5 = t5_tokenizer(300)
    model = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        num_layers=3,
        cross_attention_dim=64,
        sample_size=32,
        caption_channels=64,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        t5, _t5(t5), _vae(None), _contrasty(model), DPMSolverMultistepScheduler()
    )


def _hunyuan():
    bert, t5 = bert_tokenizer(77), t5_tokenizer(256)
    reads = BertModel(
        BertConfig(
            vocab_size=len(bert),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
        )
    )
    model = HunyuanDiT2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=16,
        hidden_size=64,
        num_layers=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=64,
        pooled_projection_dim=32,
    )
    scheduler = DDPMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")
    parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return HunyuanDiTPipeline(
        _vae(None),
        reads,
        bert,
        _contrasty(model),
        scheduler,
        **parts,
        text_encoder_2=_t5(t5),
        tokenizer_2=t5,
    )


def _deepfloyd():
    t5 = t5_tokenizer(512)
    model = UNet2DConditionModel(
        sample_size=32,
        in_channels=3,
        out_channels=6,
        down_block_types=(
            "ResnetDownsampleBlock2D",
            "SimpleCrossAttnDownBlock2D",
            "SimpleCrossAttnDownBlock2D",
        ),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(
            "SimpleCrossAttnUpBlock2D",
            "SimpleCrossAttnUpBlock2D",
            "ResnetUpsampleBlock2D",
        ),
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=16,
        cross_attention_dim=64,
        cross_attention_norm="group_norm",
        encoder_hid_dim=64,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        act_fn="gelu",
        time_embedding_act_fn="gelu",
        resnet_time_scale_shift="scale_shift",
        resnet_skip_time_act=True,
        mid_block_scale_factor=1.414,
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False
    )
    return IFPipeline(
        t5, _t5(t5), model, scheduler, None, None, None, requires_safety_checker=False
    )


OTHERS = {"pixart": _pixart, "hunyuan": _hunyuan, "deepfloyd": _deepfloyd}


def build(kind: str, folder: Path, **changed):
    """A pipeline of one of `KINDS`, 128 pixels; CLIP's tokenizer goes to `folder`. What is changed is the transformer's configuration."""
    torch.manual_seed(0)
    made = OTHERS[kind]() if kind in OTHERS else _flow(kind, folder, changed)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # T5 drops out at random otherwise
    made.set_progress_bar_config(disable=True)
    return made


def _flow(kind: str, folder: Path, changed: dict):
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
            **changed,
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
    return made


def photo():
    """A picture with something in it, 128 pixels."""
    ramp = np.linspace(0, 255, 128, dtype=np.uint8)
    return Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128), -1).astype("u1"))

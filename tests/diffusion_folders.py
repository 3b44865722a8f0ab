"""Diffusers pipelines for tests: tiny, random, drawn by seed, written to folders; nothing comes from elsewhere."""

import random
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORDS = ("a", "cat", "dog", "photo", "of", "red", "green", "two", "blurry")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.!"


def tiny_tokenizer(length: int, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Return a CLIP tokenizer of letters and a few whole words, at most `length` tokens a prompt."""
    vocab: dict[str, int] = {}
    merges: list[tuple[str, str]] = []
    for letter in LETTERS:
        vocab.setdefault(letter, len(vocab))
        vocab.setdefault(f"{letter}</w>", len(vocab))
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            joined = parts[0] + parts[1]
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            vocab.setdefault(joined, len(vocab))
            parts = [joined, *parts[2:]]
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    if pad not in vocab:
        vocab[pad] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token=pad)


def draw_scheduler(draw: random.Random, kind: type = EulerDiscreteScheduler, **fixed: Any) -> Any:
    """Return a scheduler with drawn betas, prediction type and spacing."""
    betas = draw.choice(
        [
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
            {"beta_schedule": "squaredcos_cap_v2"},
            {"trained_betas": [0.0005 + 0.018 * (i / 999) ** 1.5 for i in range(1000)]},
        ]
    )
    drawn = {
        "prediction_type": draw.choice(["epsilon", "v_prediction"]),
        "timestep_spacing": draw.choice(["leading", "linspace", "trailing"]),
        "steps_offset": draw.choice([0, 1]),
    }
    extra = {"clip_sample": False, "set_alpha_to_one": True} if kind is DDIMScheduler else {}
    return kind(num_train_timesteps=1000, **{**betas, **drawn, **extra, **fixed})


def _text_config(draw: random.Random, tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=draw.choice([2, 3]),
        num_attention_heads=draw.choice([2, 4]),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=draw.choice(["quick_gelu", "gelu"]),
        projection_dim=draw.choice([8, 12]),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=20.0,
    )


def _vae(draw: random.Random) -> AutoencoderKL:
    depth = draw.choice([2, 3])
    return AutoencoderKL(
        block_out_channels=[draw.choice([4, 8]) for _ in range(depth)],
        down_block_types=["DownEncoderBlock2D"] * depth,
        up_block_types=["UpDecoderBlock2D"] * depth,
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
        scaling_factor=draw.choice([0.18215, 0.13025, 0.7]),
    )


def _unet(draw: random.Random, text_width: int, **added: Any) -> UNet2DConditionModel:
    depth = draw.choice([2, 3])
    crossed = [draw.random() < 0.6 for _ in range(depth)]
    crossed[draw.randrange(depth)] = True
    groups = draw.choice([2, 4])
    return UNet2DConditionModel(
        sample_size=draw.choice([8, 12, 16]),
        block_out_channels=[draw.choice([8, 16]) for _ in range(depth)],
        down_block_types=["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in crossed],
        up_block_types=["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(crossed)],
        layers_per_block=draw.choice([1, 2]),
        attention_head_dim=draw.choice([2, 4, [draw.choice([1, 2, 4]) for _ in range(depth)]]),
        transformer_layers_per_block=draw.choice([1, 2]),
        cross_attention_dim=text_width,
        use_linear_projection=draw.random() < 0.5,
        norm_num_groups=groups,
        **added,
    )


def _livened(network: torch.nn.Module, seed: int, scale: float) -> Any:
    """Give a network weights from which texts and steps make a difference that eight bits can show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / fan**0.5)
    return network.eval()


def draw_sd_pipeline(seed: int, scheduler: Any = None, **unet_options: Any) -> StableDiffusionPipeline:
    """Return a random Stable Diffusion pipeline; everything about it depends on the seed and the options."""
    draw = random.Random(f"sd-{seed}")
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(draw.choice([12, 16]))
    width = draw.choice([8, 16])
    return StableDiffusionPipeline(
        unet=_livened(_unet(draw, width, **unet_options), seed, 0.8),
        vae=_livened(_vae(draw), seed + 1, 1.2),
        text_encoder=_livened(CLIPTextModel(_text_config(draw, tokenizer, width)), seed + 2, 1.0),
        tokenizer=tokenizer,
        scheduler=scheduler or draw_scheduler(draw),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def draw_sdxl_pipeline(seed: int, scheduler: Any = None) -> StableDiffusionXLPipeline:
    """Return a random SDXL pipeline; everything about it depends on the seed."""
    draw = random.Random(f"sdxl-{seed}")
    torch.manual_seed(seed)
    length = draw.choice([12, 16])
    tokenizers = tiny_tokenizer(length), tiny_tokenizer(length, pad="!")
    widths = draw.choice([8, 16]), draw.choice([8, 16])
    first = CLIPTextModel(_text_config(draw, tokenizers[0], widths[0]))
    second = CLIPTextModelWithProjection(_text_config(draw, tokenizers[1], widths[1]))
    sizes = draw.choice([4, 8])
    unet = _unet(
        draw,
        sum(widths),
        addition_embed_type="text_time",
        addition_time_embed_dim=sizes,
        projection_class_embeddings_input_dim=6 * sizes + second.config.projection_dim,
    )
    return StableDiffusionXLPipeline(
        unet=_livened(unet, seed, 0.8),
        vae=_livened(_vae(draw), seed + 1, 1.2),
        text_encoder=_livened(first, seed + 2, 1.0),
        text_encoder_2=_livened(second, seed + 3, 1.0),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        scheduler=scheduler or draw_scheduler(draw),
        force_zeros_for_empty_prompt=draw.random() < 0.5,
        add_watermarker=False,
    )


def draw_ddpm_pipeline(seed: int, scheduler: Any = None, **unet_options: Any) -> DDPMPipeline:
    """Return a random pixel pipeline, unconditional unless options of its network say otherwise."""
    draw = random.Random(f"ddpm-{seed}")
    torch.manual_seed(seed)
    depth = draw.choice([2, 3])
    attended = [draw.random() < 0.5 for _ in range(depth)]
    unet = UNet2DModel(
        sample_size=draw.choice([8, 16]),
        block_out_channels=[draw.choice([8, 16]) for _ in range(depth)],
        down_block_types=["AttnDownBlock2D" if here else "DownBlock2D" for here in attended],
        up_block_types=["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)],
        layers_per_block=draw.choice([1, 2]),
        attention_head_dim=draw.choice([2, 4]),
        norm_num_groups=draw.choice([2, 4]),
        add_attention=draw.random() < 0.5,
        **unet_options,
    )
    return DDPMPipeline(_livened(unet, seed, 0.8), scheduler or draw_scheduler(draw, DDIMScheduler))


def saved(pipeline: Any, folder: Path, *, safe: bool = True) -> Path:
    """Write a pipeline to a folder and return it."""
    pipeline.save_pretrained(folder, safe_serialization=safe)
    return folder

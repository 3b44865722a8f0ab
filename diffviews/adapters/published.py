"""How Stable Diffusion 1, 2 and SDXL were published: what their single files leave unsaid.

Configurations in the terms of diffusers and transformers, as the published folders have them (Rombach et al. 2022,
Podell et al. 2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
_DDIM = {"_class_name": "DDIMScheduler", **_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_CLIP = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_CLIP_L = {
    **_CLIP, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Published:
    """A published model: configurations by component, and what its tokenizers fill prompts up with."""

    title: str
    configs: Mapping[str, Mapping[str, Any]]
    pads: Mapping[str, str] = field(default_factory=lambda: {"tokenizer": "<|endoftext|>"})
    prediction: str | None = "epsilon"
    """What the network returns; None where the files of the model may be of either kind."""


SD1 = Published(
    "Stable Diffusion 1",
    {
        "unet": {"sample_size": 64, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 768,
                 "attention_head_dim": 8},
        "vae": _VAE,
        "text_encoder": _CLIP_L,
        "scheduler": _DDIM,
    },
)  # fmt: skip
SD2 = Published(
    "Stable Diffusion 2",
    {
        "unet": {"sample_size": 96, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 1024,
                 "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True, "upcast_attention": True},
        "vae": {**_VAE, "sample_size": 768},
        "text_encoder": {
            **_CLIP, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
            "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
        },
        "scheduler": _DDIM,
    },
    {"tokenizer": "!"},
    None,
)  # fmt: skip
SDXL = Published(
    "SDXL",
    {
        "unet": {
            "sample_size": 128, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 2048,
            "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder": _CLIP_L,
        "text_encoder_2": {
            **_CLIP, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
            "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280,
        },
        "scheduler": {"_class_name": "EulerDiscreteScheduler", **_BETAS, "timestep_spacing": "leading",
                      "steps_offset": 1},
    },
    {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"},
)  # fmt: skip

BY_TEXT_WIDTH = {768: SD1, 1024: SD2, 2048: SDXL}
"""The width of the text that the U-Net attends to tells them apart."""

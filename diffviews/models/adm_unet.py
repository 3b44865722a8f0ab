"""The ADM U-Net of Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis".

Parameter names, and the order of the channels inside the attention, are those of the published
EDM checkpoints (Karras et al. 2022), so their weights load key by key. A block's output goes both
to the next block and to the skip connections, so whatever a forward hook returns in place of an
encoder block's output also reaches the decoder.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffviews.models.blocks import ADM_STYLE, BlockStyle, PositionalEmbedding, UNetBlock, group_norm
from diffviews.models.unet import HookedUNet, check_probability, check_sizes


class ADMUNet(HookedUNet):
    """U-Net that predicts from a noised image, its noise level and optionally its class.

    Args:
        img_resolution: height and width of the images, pixels; divisible by 2^(levels - 1).
        img_channels: channels of the images, 3 for RGB.
        label_dim: number of classes K; 0 makes an unconditional network.
        model_channels: base number of channels.
        channel_mult: one factor on `model_channels` a level; each level halves the resolution.
        channel_mult_emb: factor on `model_channels` for the width of the embedding.
        num_blocks: residual blocks a level (the decoder has one more).
        attn_resolutions: resolutions, pixels, whose blocks have self-attention.
        dropout: probability of zeroing a feature inside a block, in training mode only.
        label_dropout: share of labels withheld in training. The network only remembers it: the
            training draws it from its own generator, and samplers ask whether it is above 0.
        out_channels: channels of the output; None: those of the images. Networks with a learned variance
            have twice as many, of which the first half is the prediction.
        style: how the blocks are built.

    Raises:
        ConfigError: if an argument is out of its range or contradicts another.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        *,
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.0,
        label_dropout: float = 0.0,
        out_channels: int | None = None,
        style: BlockStyle = ADM_STYLE,
    ) -> None:
        super().__init__()
        check_sizes(img_resolution, model_channels, channel_mult, num_blocks)
        check_probability("dropout", dropout)
        check_probability("label_dropout", label_dropout)
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.label_dropout = label_dim, label_dropout
        width = model_channels * channel_mult_emb
        self._new_block = partial(UNetBlock, emb_channels=width, dropout=dropout, style=style)
        self._attn_resolutions = frozenset(attn_resolutions)

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_layer0 = nn.Linear(model_channels, width)
        self.map_layer1 = nn.Linear(width, width)
        self.map_label = nn.Linear(label_dim, width, bias=False) if label_dim else None
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)  # one-hot input: unit variance in, unit variance out

        channels = [int(model_channels * mult) for mult in channel_mult]
        self._make_blocks(nn.Conv2d(img_channels, channels[0], 3, padding=1), channels[0], channels, num_blocks)
        self.out_norm = group_norm(channels[0], style.group_channels, style.eps)
        self.out_conv = nn.Conv2d(channels[0], out_channels or img_channels, 3, padding=1)
        for parameter in self.out_conv.parameters():
            nn.init.zeros_(parameter)  # an untrained network predicts zero

    def _block(self, part: str, in_channels: int, out_channels: int, **options: Any) -> UNetBlock:
        return self._new_block(in_channels, out_channels, **options)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return the network's raw output, (B, out_channels, H, W), in the dtype of `x`.

        Args:
            x: scaled noised images, (B, img_channels, H, W).
            noise_labels: c_noise of each image, (B,).
            class_labels: one-hot or mixed classes, (B, label_dim); None or zeros: unconditional.

        Raises:
            ShapeError: if an input does not fit the network.
        """
        self._check_inputs(x, class_labels)
        emb = self._embed(noise_labels, class_labels).to(x.dtype)
        skips: list[Tensor] = []
        for name, block in self.enc.items():
            x = block(x) if name.endswith("_conv") else block(x, emb)
            skips.append(x)
        for name, block in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        emb = self.map_noise(noise_labels.to(torch.float32)).to(dtype)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and class_labels is not None:
            emb = emb + self.map_label(class_labels.to(dtype))
        return F.silu(emb)

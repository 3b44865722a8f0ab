"""The public checkpoints that DiffViews knows by name, with where they are and whose they are."""

from dataclasses import dataclass

from diffviews.errors import CheckpointError, unknown_name

PREFIX = "catalogue:"
"""What may stand before a name to say that it is one of these."""
_BY_NC_SA = "CC BY-NC-SA 4.0"
_OPENRAIL = "CreativeML Open RAIL-M"
_OPENRAIL_PP = "CreativeML Open RAIL++-M"
_DMD2 = "hf:tianweiy/DMD2"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One public checkpoint."""

    name: str
    """What it is asked for by."""
    adapter: str
    """Adapter that loads it."""
    address: str
    """Where it is fetched from, as `fetch` understands it."""
    licence: str
    """Terms it is published under."""
    note: str
    """What it is, in a few words."""
    base: str | None = None
    """Name of the catalogue's folder that this part of a pipeline belongs to."""
    steps: int | None = None
    """Sampling steps it is meant for; None: as many as one likes."""
    size: int | None = None
    """Bytes, where known; a download of another size is refused."""
    sha256: str | None = None
    """Digest, where its authors or we have established it; another file is refused."""


CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        "edm-imagenet-64",
        "edm-imagenet-64",
        "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-imagenet-64x64-cond-adm.pkl",
        _BY_NC_SA,
        "EDM of Karras et al. 2022, ImageNet 64×64, 295.9 M parameters, about 1.2 GB",
    ),
    CatalogueEntry(
        "dmd2-imagenet-64-fid1.28",
        "dmd2-imagenet-64",
        f"{_DMD2}/model/imagenet/imagenet_gan_classifier_genloss3e-3_diffusion1000_lr5e-7_resume_fid1.28_"
        "checkpoint_model_548000/pytorch_model.bin",
        _BY_NC_SA,
        "DMD2 of Yin et al. 2024, ImageNet 64×64, the longest trained, FID 1.28",
        steps=1,
    ),
    CatalogueEntry(
        "dmd2-imagenet-64-fid1.51",
        "dmd2-imagenet-64",
        f"{_DMD2}/model/imagenet/imagenet_gan_classifier_genloss3e-3_diffusion1000_lr2e-6_scratch_fid1.51_"
        "checkpoint_model_193500/pytorch_model.bin",
        _BY_NC_SA,
        "DMD2, ImageNet 64×64, trained in one go, FID 1.51",
        steps=1,
    ),
    CatalogueEntry(
        "dmd2-imagenet-64-fid2.61",
        "dmd2-imagenet-64",
        f"{_DMD2}/model/imagenet/imagenet_lr2e-6_scratch_fid2.61_checkpoint_model_405500/pytorch_model.bin",
        _BY_NC_SA,
        "DMD2, ImageNet 64×64, without the GAN loss, FID 2.61",
        steps=1,
    ),
    CatalogueEntry(
        "sd-v1.5",
        "sd-v1.5",
        "hf:stable-diffusion-v1-5/stable-diffusion-v1-5",
        _OPENRAIL,
        "Stable Diffusion 1.5, the whole folder, 512×512",
    ),
    CatalogueEntry(
        "sdxl",
        "sdxl",
        "hf:stabilityai/stable-diffusion-xl-base-1.0",
        _OPENRAIL_PP,
        "SDXL 1.0 base, the whole folder, 1024×1024",
    ),
    CatalogueEntry(
        "dmd2-sd-v1.5-fid8.35",
        "dmd2-sd-v1.5",
        f"{_DMD2}/model/sdv1.5/laion6.25_sd_baseline_8node_guidance1.75_lr5e-7_seed10_dfake10_diffusion1000_"
        "gan1e-3_resume_fid8.35_checkpoint_model_041000/pytorch_model.bin",
        _BY_NC_SA,
        "DMD2 of Stable Diffusion 1.5, U-Net, FID 8.35",
        base="sd-v1.5",
        steps=1,
    ),
    CatalogueEntry(
        "dmd2-sd-v1.5-fid9.28",
        "dmd2-sd-v1.5",
        f"{_DMD2}/model/sdv1.5/laion6.25_sd_baseline_8node_guidance1.75_lr1e-5_seed10_dfake10_from_scratch_"
        "fid9.28_checkpoint_model_039000/pytorch_model.bin",
        _BY_NC_SA,
        "DMD2 of Stable Diffusion 1.5, U-Net, without the GAN loss, FID 9.28",
        base="sd-v1.5",
        steps=1,
    ),
    CatalogueEntry(
        "dmd2-sdxl-4step",
        "dmd2-sdxl-4step",
        f"{_DMD2}/dmd2_sdxl_4step_unet_fp16.bin",
        _BY_NC_SA,
        "DMD2 of SDXL, U-Net in float16, timesteps 999, 749, 499, 249",
        base="sdxl",
        steps=4,
    ),
    CatalogueEntry(
        "dmd2-sdxl-1step",
        "dmd2-sdxl-1step",
        f"{_DMD2}/dmd2_sdxl_1step_unet_fp16.bin",
        _BY_NC_SA,
        "DMD2 of SDXL, U-Net in float16, timestep 399",
        base="sdxl",
        steps=1,
    ),
    CatalogueEntry(
        "dmd2-sdxl-4step-lora",
        "dmd2-sdxl-4step",
        f"{_DMD2}/dmd2_sdxl_4step_lora.safetensors",
        _BY_NC_SA,
        "DMD2 of SDXL as a LoRA for any SDXL model",
        base="sdxl",
        steps=4,
    ),
    CatalogueEntry(
        "dmd2-sdxl-4step-lora-fp16",
        "dmd2-sdxl-4step",
        f"{_DMD2}/dmd2_sdxl_4step_lora_fp16.safetensors",
        _BY_NC_SA,
        "the same LoRA in float16",
        base="sdxl",
        steps=4,
    ),
)


def find_checkpoint(name: str) -> CatalogueEntry | None:
    """Return the entry of this name, with or without `catalogue:` before it, or None."""
    plain = name.removeprefix(PREFIX)
    return next((entry for entry in CATALOGUE if entry.name == plain), None)


def get_checkpoint(name: str) -> CatalogueEntry:
    """Return the entry of this name.

    Raises:
        CheckpointError: if there is none, with the nearest names.
    """
    entry = find_checkpoint(name)
    if entry is None:
        known = [known.name for known in CATALOGUE]
        raise CheckpointError(unknown_name("catalogue checkpoint", name.removeprefix(PREFIX), known))
    return entry

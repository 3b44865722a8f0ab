"""Capturing activations, changing them, and generating images."""

from diffviews.core.cuts import Cut, Cuts, find_cuts
from diffviews.core.extractor import (
    ActivationExtractor,
    capture,
    convert_to_fast_format,
    flatten_activations,
    load_activations,
    load_fast_activations,
    mean_activations,
)
from diffviews.core.generator import (
    GenerationRequest,
    GenerationResult,
    Progress,
    ProgressCallback,
    generate,
    generate_with_mask,
    generate_with_mask_multistep,
    get_denoising_sigmas,
    infer_layer_shape,
    save_generated_sample,
    tensor_to_uint8_image,
)
from diffviews.core.interventions import DirectionTarget, FixedTarget, Intervention, MatchedTarget, Target
from diffviews.core.masking import (
    ActivationMasker,
    compute_mask_dict,
    load_activation_from_npz,
    unflatten_activation,
)
from diffviews.core.session import InterventionSession
from diffviews.sampling.samplers import Churn, SamplerStep, euler, heun, renoise
from diffviews.sampling.schedules import karras_sigmas, with_final_zero

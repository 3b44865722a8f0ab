"""The names and argument names that notebooks rely on, with their defaults."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import diffviews
from diffviews import adapters, core
from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from diffviews.core import extractor, generator, masking

NEEDED = inspect.Parameter.empty
ARGUMENTS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (adapters.get_adapter, {"name": NEEDED}),
    (adapters.register_adapter, {"name": NEEDED}),
    (adapters.register_adapter_class, {"name": NEEDED, "cls": NEEDED}),
    (adapters.unregister_adapter, {"name": NEEDED}),
    (adapters.list_adapters, {}),
    (adapters.discover_adapters, {}),
    (GeneratorAdapter.forward, {"x": NEEDED, "sigma": NEEDED, "class_labels": None}),
    (GeneratorAdapter.register_activation_hooks, {"layer_names": NEEDED, "hook_fn": NEEDED}),
    (GeneratorAdapter.from_checkpoint, {"checkpoint_path": NEEDED, "device": "cuda"}),
    (EDMImageNetAdapter.from_checkpoint, {"checkpoint_path": NEEDED, "device": "cuda", "label_dropout": 0.0}),
    (GeneratorAdapter.get_layer_shapes, {}),
    (GeneratorAdapter.get_default_config, {}),
    (GeneratorAdapter.to, {"device": NEEDED}),
    (GeneratorAdapter.eval, {}),
    (adapters.HookMixin.add_handle, {"handle": NEEDED}),
    (adapters.HookMixin.set_mask, {"layer_name": NEEDED, "value": NEEDED}),
    (adapters.HookMixin.get_mask, {"layer_name": NEEDED}),
    (adapters.HookMixin.clear_mask, {"layer_name": NEEDED}),
    (adapters.HookMixin.get_activation, {"layer_name": NEEDED}),
    (adapters.HookMixin.make_extraction_hook, {"layer_name": NEEDED}),
    (adapters.HookMixin.make_mask_hook, {"layer_name": NEEDED, "mask": NEEDED}),
    (
        EDMImageNetAdapter.sample,
        {
            "num_samples": NEEDED, "class_label": None, "num_steps": None, "sigma_max": 80.0, "sigma_min": 0.002,
            "rho": 7.0, "S_churn": 40.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003, "device": None,
        },
    ),
    (extractor.ActivationExtractor, {"adapter": NEEDED, "layers": None}),
    (extractor.ActivationExtractor.save, {"output_path": NEEDED, "metadata": None}),
    (extractor.flatten_activations, {"activations": NEEDED}),
    (extractor.load_activations, {"activation_path": NEEDED}),
    (extractor.convert_to_fast_format, {"npz_path": NEEDED, "output_path": None, "layers": None}),
    (extractor.load_fast_activations, {"npy_path": NEEDED, "mmap_mode": "r"}),
    (masking.ActivationMasker, {"adapter": NEEDED}),
    (masking.ActivationMasker.set_mask, {"layer_name": NEEDED, "activation": NEEDED}),
    (masking.ActivationMasker.clear_mask, {"layer_name": NEEDED}),
    (masking.ActivationMasker.register_hooks, {"layers": None}),
    (masking.load_activation_from_npz, {"npz_path": NEEDED, "layer_name": NEEDED}),
    (
        masking.compute_mask_dict,
        {"activations": NEEDED, "neighbor_indices": NEEDED, "layer_shapes": NEEDED, "layers": None},
    ),
    (masking.unflatten_activation, {"flat_activation": NEEDED, "target_shape": NEEDED}),
    (
        generator.generate_with_mask,
        {
            "adapter": NEEDED, "masker": NEEDED, "class_label": None, "conditioning_sigma": 0.1, "num_samples": 1,
            "device": "cuda", "seed": None,
        },
    ),
    (
        generator.generate_with_mask_multistep,
        {
            "adapter": NEEDED, "masker": None, "class_label": None, "num_steps": 4, "mask_steps": None,
            "sigma_max": 80.0, "sigma_min": 0.002, "rho": 7.0, "guidance_scale": 1.0, "stochastic": True,
            "noise_mode": "stochastic", "num_samples": 1, "device": "cuda", "seed": None, "extract_layers": None,
            "return_trajectory": False, "return_intermediates": False, "return_noised_inputs": False,
        },
    ),
    (generator.get_denoising_sigmas, {"num_steps": NEEDED, "sigma_max": NEEDED, "sigma_min": NEEDED, "rho": 7.0}),
    (generator.tensor_to_uint8_image, {"tensor": NEEDED}),
    (
        generator.save_generated_sample,
        {"image": NEEDED, "activations": NEEDED, "metadata": NEEDED, "output_dir": NEEDED, "sample_id": NEEDED},
    ),
    (generator.infer_layer_shape, {"adapter": NEEDED, "layer_name": NEEDED, "device": "cuda"}),
]  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), ARGUMENTS, ids=lambda value: getattr(value, "__qualname__", ""))
def test_arguments_have_their_names_order_and_defaults(function: Callable[..., Any], expected: dict[str, Any]) -> None:
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    # Options by keyword alone may be added: they stand in nobody's way.
    parameters = [p for p in parameters if p.name in expected or p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert {parameter.name: parameter.default for parameter in parameters} == expected
    assert [parameter.name for parameter in parameters] == list(expected)


def test_names_are_offered_where_they_were() -> None:
    for name in ("GeneratorAdapter", "get_adapter", "list_adapters", "register_adapter"):
        assert getattr(diffviews, name) is getattr(adapters, name)
    for name in ("remove_hooks", "num_hooks", "clear_masks", "get_activations", "clear_activations"):
        assert hasattr(adapters.HookMixin, name)
    for module in (extractor, masking, generator):
        for function, _ in ARGUMENTS:
            if function.__module__ == module.__name__ and "." not in function.__qualname__:
                assert getattr(core, function.__name__) is function
    abstract = GeneratorAdapter.__abstractmethods__
    assert abstract == {
        "model_type", "resolution", "num_classes", "hookable_layers", "forward", "register_activation_hooks",
        "get_layer_shapes", "from_checkpoint", "get_default_config",
    }  # fmt: skip

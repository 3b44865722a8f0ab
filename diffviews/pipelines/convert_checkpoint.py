"""The `convert-checkpoint` command: any checkpoint that can be read, as safetensors."""

import json
from pathlib import Path

from diffviews.adapters.checkpoint import network_config
from diffviews.data.checkpoints import file_digest, model_file, read_checkpoint_file, write_safetensors
from diffviews.errors import ConfigError
from diffviews.pipelines.models import resolve_checkpoint


def convert_checkpoint(
    source: str, output: str | None = None, force: bool = False, profile: str | None = None
) -> str:
    """Write a checkpoint's tensors and network configuration as safetensors; nothing in it is run.

    Args:
        source: file, folder, address (https, hf:, s3://, r2://, models:/) or catalogue name.
        output: file to write; null takes the source's name, ending in .safetensors, in the same folder,
            for a fetched source in the current one.
        force: whether to replace a file that is there already.
        profile: tracking set-up that a models:/ address belongs to.

    Returns:
        What was written: path, number of tensors and parameters, bytes, sha256.

    Raises:
        CheckpointError: if the source cannot be fetched or read.
        ConfigError: if the output exists or has another ending.
    """
    found = resolve_checkpoint(source, profile)
    if found is None:
        raise ConfigError("convert-checkpoint needs a source; give a file, an address or a catalogue name")
    file = model_file(found)
    target = Path(output) if output else _beside(file, Path(source).exists())
    if target.suffix != ".safetensors":
        raise ConfigError(f"output {target} must end in .safetensors")
    if target.exists() and (not force or target.samefile(file)):
        raise ConfigError(f"output {target} exists; give another --output{'' if force else ' or --force'}")
    tensors, metadata = read_checkpoint_file(file)
    notes = {key: value for key, value in metadata.items() if isinstance(value, str)} | {"format": "pt"}
    notes |= {"source": file.name, "source_sha256": file_digest(file)}
    if config := network_config(file, metadata):
        notes["config"] = json.dumps(config)
    write_safetensors(target, tensors, notes)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return (
        f"{target}: {len(tensors)} tensors, {parameters:,} parameters, {target.stat().st_size:,} bytes\n"
        f"sha256 {file_digest(target)}"
    )


def _beside(file: Path, local: bool) -> Path:
    """Return where to write when nobody said: beside a local file, else in the current folder."""
    stem = file.name.removesuffix(".json").removesuffix(".index") if file.name.endswith(".index.json") else file.name
    name = Path(stem).stem + ".safetensors"
    if file.suffix == ".safetensors" or file.name.endswith(".index.json"):
        name = f"{Path(stem).stem}-converted.safetensors"
    return file.with_name(name) if local else Path(name)

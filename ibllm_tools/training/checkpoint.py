"""What a stage has learnt, without what it left frozen."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ibllm_tools.errors import CheckpointError


def save_trainable(model: nn.Module, path: str | Path) -> None:
    """Write the parameters that train, and no others, as safetensors."""
    trainable = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trainable, path, metadata={"format": "pt"})


def load_trainable(model: nn.Module, path: str | Path) -> None:
    """Read them back into a model that was prepared for the same stage; the frozen parameters stay.

    Raises:
        CheckpointError: the file is missing or damaged, or belongs to another stage or model.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); expected what save_trainable wrote") from error
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise CheckpointError(f"{path}: {len(odd)} weights missing or unexpected, e.g. {odd[0]}: is it of this stage?")
    for name, value in found.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(f"{path}: {name} is {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
        expected[name].data.copy_(value)

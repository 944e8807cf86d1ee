"""What decays and what does not."""

from typing import Any

from torch import nn

BETAS = (0.9, 0.95)
EPSILON = 1e-8


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters for AdamW: one-dimensional ones and biases do not decay, all others do.

    Gates and prefix queries decay, as in the research code.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    kept = [parameter for name, parameter in trainable if parameter.ndim <= 1 or name.endswith(".bias")]
    decayed = [parameter for name, parameter in trainable if parameter.ndim > 1 and not name.endswith(".bias")]
    return [{"params": kept, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]

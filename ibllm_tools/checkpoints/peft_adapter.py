"""LoRA in peft's format, beside the weights that it belongs to; transformers loads both from one folder."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ibllm_tools.checkpoints.writing import PlannedWeight, progress_bar, write_shard

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PEFT_PREFIX = "base_model.model."
# The bind network has projections of the same names, and none of them is adapted.
_ADAPTED = r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def write_peft_adapter(folder: Path, weights: Sequence[PlannedWeight], *, progress: bool) -> None:
    """Write the LoRA of a model into its folder.

    Args:
        folder: of the model, whose configuration is there already.
        weights: ``<module>.lora_A.weight`` (r, in) and ``<module>.lora_B.weight`` (out, r), all of one rank.
        progress: show a bar, on a terminal.

    Raises:
        CheckpointError: a weight that is not finite.
    """
    rank = weights[0].shape[0]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,  # peft scales by alpha / r; the research code does not scale
        "lora_dropout": 0.0,
        "bias": "none",  # the tuned biases are in the model
        "target_modules": _ADAPTED,
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    named = [replace(weight, name=_PEFT_PREFIX + weight.name) for weight in weights]
    with progress_bar(f"{folder.name}, LoRA", named, progress) as bar:
        write_shard(folder / _WEIGHTS, named, bar)

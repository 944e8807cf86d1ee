"""The stages of the paper: how the bind network and the language model are trained (arXiv 2309.03905, section 3.3)."""

from ibllm_tools.training.checkpoint import load_trainable, save_trainable
from ibllm_tools.training.dataset import Collator, Example, ExampleDataset
from ibllm_tools.training.items import instruction_item
from ibllm_tools.training.lora import merge_lora
from ibllm_tools.training.optimiser import parameter_groups
from ibllm_tools.training.sampler import SubEpochSampler
from ibllm_tools.training.schedule import RECIPES, Recipe, warmup_cosine
from ibllm_tools.training.stages import Stage, prepare_for_stage
from ibllm_tools.training.trainer import BindingTrainer

__all__ = [
    "RECIPES",
    "BindingTrainer",
    "Collator",
    "Example",
    "ExampleDataset",
    "Recipe",
    "Stage",
    "SubEpochSampler",
    "instruction_item",
    "load_trainable",
    "merge_lora",
    "parameter_groups",
    "prepare_for_stage",
    "save_trainable",
    "warmup_cosine",
]

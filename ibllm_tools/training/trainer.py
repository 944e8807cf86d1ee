"""transformers' Trainer with the paper's optimiser, schedule and sampler, and checkpoints of what trains."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ibllm_tools.errors import InvalidRequestError, MissingExtraError
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import mix_embeddings
from ibllm_tools.training.checkpoint import load_trainable, save_trainable
from ibllm_tools.training.dataset import Collator, spread
from ibllm_tools.training.optimiser import BETAS, EPSILON, parameter_groups
from ibllm_tools.training.sampler import SubEpochSampler
from ibllm_tools.training.schedule import Recipe, warmup_cosine_schedule

_WEIGHTS = "model.safetensors"
_WRITTEN_LAST = "trainer_state.json"


class BindingTrainer(Trainer):
    """Trains whatever of a model is trainable, on the items that :class:`~ibllm_tools.training.dataset.Collator` takes.

    The model is an ImageBind-LLM after :func:`~ibllm_tools.training.stages.prepare_for_stage`, or a language model
    alone. :meth:`run` trains, and goes on where an earlier run was interrupted.

    Args:
        model: with the weights that train set to ``requires_grad``.
        dataset: items with ``input_ids``, ``labels`` and, where there is an attachment, ``embedding`` or
            ``pixel_values``. With embeddings the joint embedding is never run.
        recipe: batch, learning rate, epochs and so on.
        folder: of the checkpoints, which hold the trainable weights only.
        pad_token_id: fills short sequences.
        arguments: fields of :class:`transformers.TrainingArguments` that differ from :func:`training_arguments`.

    Raises:
        InvalidRequestError: the data set does not fill one batch, or nothing is trainable.
        MissingExtraError: accelerate is not installed.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        dataset: Dataset[dict[str, Any]],
        recipe: Recipe,
        folder: str | Path,
        *,
        pad_token_id: int = 0,
        **arguments: Any,
    ) -> None:
        size = len(dataset)  # type: ignore[arg-type]  # torch declares no length, though a sampler needs one
        if size < recipe.batch_size:
            raise InvalidRequestError(f"{size} items, expected at least one batch of {recipe.batch_size}")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InvalidRequestError("nothing in the model is trainable: call prepare_for_stage first")
        self.recipe = recipe
        super().__init__(
            model=model,
            args=training_arguments(recipe, folder, dtype=_frozen_dtype(model), **arguments),
            data_collator=Collator(pad_token_id),
            train_dataset=dataset,
        )

    def run(self) -> None:
        """Train; where the folder has a checkpoint, from there. The model is in evaluation mode afterwards.

        Raises:
            CheckpointError: the checkpoint is of another stage or model.
        """
        self.train(resume_from_checkpoint=_last_checkpoint(self.args.output_dir))
        self.model.eval()

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW over :func:`~ibllm_tools.training.optimiser.parameter_groups`."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(parameter_groups(self.model, self.args.weight_decay), **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Linear warm-up, then half a cosine, over the recipe's epochs."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None
            self.lr_scheduler = warmup_cosine_schedule(optimizer, self.recipe, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int] | None:
        if self.recipe.split_epoch == 1:
            return super()._get_train_sampler(train_dataset)
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        return SubEpochSampler(len(dataset), self.recipe.split_epoch, seed=self.args.seed)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy over the labels, after images have gone through the frozen joint embedding."""
        inputs = dict(inputs, use_cache=False)
        if (pixel_values := inputs.pop("pixel_values", None)) is not None:
            inputs["embeddings"] = spread(self._image_embeddings(pixel_values), inputs["embedding_mask"])
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def _image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """(M, 3, S, S) -> (M, E), as at inference."""
        imagebind: Any = self.model.imagebind
        imagebind.eval()  # Trainer put it into training mode with the rest
        return mix_embeddings([imagebind.encode("image", pixel_values)])

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: it would walk through all modules at every step."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_trainable(self.model, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trainable(self.model, Path(resume_from_checkpoint) / _WEIGHTS)


def training_arguments(
    recipe: Recipe, folder: str | Path, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> TrainingArguments:
    """A recipe as arguments of transformers' Trainer.

    Gradients are not clipped, the last unfilled batch is dropped, nothing is reported to anyone, and there is one
    checkpoint, of the last epoch.

    Args:
        recipe: the stage's numbers. The learning rate follows from the effective batch of all devices.
        folder: of the checkpoints.
        dtype: of the frozen weights; float16 and bfloat16 train under autocast.
        changes: fields that are to differ.

    Raises:
        MissingExtraError: accelerate is not installed.
    """
    try:
        import accelerate  # noqa: F401 - TrainingArguments needs it
    except ImportError:
        raise MissingExtraError("training", "accelerate", "train") from None
    fields: dict[str, Any] = {
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.accumulation,
        "weight_decay": recipe.weight_decay,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "max_grad_norm": 0.0,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "seed": 0,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "use_cache": True,  # or Trainer would switch the cache off in the model's configuration, for ever
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_steps": 50,
        "report_to": "none",
        "use_cpu": not torch.accelerator.is_available(),
    }
    arguments = TrainingArguments(str(folder), **fields | changes)
    if "learning_rate" not in changes:
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        arguments.learning_rate = recipe.learning_rate(batch)
    return arguments


def _frozen_dtype(model: nn.Module) -> torch.dtype:
    """The half precision that any weight is in, else float32."""
    halves = {parameter.dtype for parameter in model.parameters()} & {torch.float16, torch.bfloat16}
    return halves.pop() if halves else torch.float32


def _last_checkpoint(folder: str | None) -> str | None:
    """The latest checkpoint that was written to its end."""
    complete = [path.parent for path in Path(folder or ".").glob(f"checkpoint-*/{_WRITTEN_LAST}")]
    return str(max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if complete else None

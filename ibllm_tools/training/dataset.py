"""Examples with images or embeddings, and the batches made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind.decoding import image_array
from ibllm_tools.imagebind.image_features import normalised_pixels
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import IGNORED_LABEL
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor
from ibllm_tools.media.limits import Limits
from ibllm_tools.training.crops import random_resized_crop
from ibllm_tools.training.items import CAPTION_INSTRUCTION, instruction_item


@dataclass(frozen=True, slots=True)
class Example:
    """What is asked, what is to be answered, and what it is about: an image, its joint embedding, or nothing.

    Attributes:
        answer: what is to be said.
        instruction: what is asked; by default a caption is.
        input: further context of the instruction, if any.
        image: a path, bytes, a Pillow image or an RGB array.
        embedding: (E,), as the model takes it; spares the joint embedding's forward pass.
    """

    answer: str
    instruction: str = CAPTION_INSTRUCTION
    input: str | None = None
    image: Any = None
    embedding: Tensor | None = None


class Examples(Protocol):
    """A list of examples, or anything that makes the example of an index when it is asked for it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class ExampleDataset(Dataset[dict[str, Any]]):
    """Examples as items for :class:`Collator`.

    Args:
        examples: read one by one, when they are needed.
        processor: templates and tokenizer.
        max_words: tokens of an item.
        zero_image: give examples without an attachment an image of zeros, as the research code does, and not none.
        official_repr_quirk: as for :func:`~ibllm_tools.training.items.instruction_item`, in examples without one.
    """

    def __init__(
        self,
        examples: Examples,
        processor: ImageBindLlmProcessor,
        *,
        max_words: int = 512,
        zero_image: bool = False,
        official_repr_quirk: bool = False,
    ) -> None:
        self.examples, self.processor = examples, processor
        self.max_words = max_words
        self.zero_image, self.official_repr_quirk = zero_image, official_repr_quirk

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        alone = example.image is None and example.embedding is None
        item: dict[str, Any] = {
            **instruction_item(
                self.processor,
                example.instruction,
                example.answer,
                input=example.input,
                max_words=self.max_words,
                official_repr_quirk=self.official_repr_quirk and alone,
            )
        }
        if example.embedding is not None:
            item["embedding"] = example.embedding
        elif example.image is not None:
            item["pixel_values"] = self._pixels(example.image)
        elif self.zero_image:
            size = self.processor.imagebind_processor.image_size
            item["pixel_values"] = torch.zeros(3, size, size)
        return item

    def _pixels(self, image: Any) -> Tensor:
        rules = self.processor.imagebind_processor
        crop = random_resized_crop(image_array(image, Limits()), rules.image_size)
        return normalised_pixels(crop, rules.image_mean, rules.image_std)


class Collator:
    """Items as a batch, padded on the right to the longest.

    A batch has ``input_ids`` and ``labels`` (B, L); with attachments ``embedding_mask`` (B,) bool, and ``embeddings``
    (B, E), zero where there is none, or ``pixel_values`` (M, 3, S, S) of the M items that have one.

    Args:
        pad_token_id: fills ``input_ids``; it never counts in the loss, so any id does.
    """

    def __init__(self, pad_token_id: int = 0) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch.

        Raises:
            InvalidRequestError: some items have an image and others an embedding.
        """
        # No attention mask: padding stands behind everything that counts, and attention looks back only. Without one
        # attention takes its fast path.
        batch = {
            "input_ids": _padded([item["input_ids"] for item in items], self.pad_token_id),
            "labels": _padded([item["labels"] for item in items], IGNORED_LABEL),
        }
        kinds = {kind for kind in ("embedding", "pixel_values") for item in items if kind in item}
        if len(kinds) > 1:
            raise InvalidRequestError("a batch of both images and embeddings: give every attachment the same way")
        for kind in kinds:
            mask = torch.tensor([kind in item for item in items])  # (B,)
            present = torch.stack([torch.as_tensor(item[kind]) for item in items if kind in item])  # (M, ...)
            batch["embedding_mask"] = mask
            batch |= {"embeddings": spread(present, mask)} if kind == "embedding" else {"pixel_values": present}
        return batch


def spread(present: Tensor, mask: Tensor) -> Tensor:
    """Rows (M, E) of the items that the mask (B,) names -> (B, E), zero elsewhere."""
    rows = present.new_zeros(len(mask), present.shape[1])
    rows[mask] = present
    return rows


def _padded(sequences: Sequence[Sequence[int]], filler: int) -> Tensor:
    rows = [torch.tensor(sequence) for sequence in sequences]
    return pad_sequence(rows, batch_first=True, padding_value=filler)  # (B, L)

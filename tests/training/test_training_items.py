"""Items, batches and images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind_llm import ImageBindLlmProcessor
from ibllm_tools.training import Collator, Example, ExampleDataset, instruction_item
from ibllm_tools.training.crops import random_resized_crop
from ibllm_tools.training.items import CAPTION_INSTRUCTION


def filled(ids: list[int], length: int) -> list[int]:
    """As the research code pads: 0 for free positions and for labels that do not count."""
    return [0 if i == -100 else i for i in ids] + [0] * (length - len(ids))


def official_item(processor: ImageBindLlmProcessor, case: dict[str, Any]) -> dict[str, Any]:
    item, length = case["item"], case["max_words"]
    if case["kind"] == "pretrain":
        return instruction_item(processor, CAPTION_INSTRUCTION, item["caption_as_read"], max_words=length)
    if "conversations" in item:
        question, answer = (turn["value"] for turn in item["conversations"][:2])
        return instruction_item(processor, question, answer, max_words=length)
    return instruction_item(
        processor,
        item["instruction"],
        item["output"],
        input=item["input"],
        max_words=length,
        official_repr_quirk=True,
    )


def test_items_are_the_official_ones(reference: Path, processor: ImageBindLlmProcessor) -> None:
    cases = json.loads((reference / "adapter" / "dataset.json").read_text(encoding="utf-8"))["items"]
    assert len(cases) == 16
    for case in cases:
        item = official_item(processor, case)
        assert filled(item["input_ids"], case["max_words"]) == case["tokens"], case["item"]
        assert filled(item["labels"], case["max_words"]) == case["labels"], case["item"]
        assert len(item["input_ids"]) == case["mask_sum"]


def test_by_default_the_instruction_stands_as_it_is(processor: ImageBindLlmProcessor) -> None:
    item = instruction_item(processor, "What is it?", "A bell.")
    prompt = processor("What is it?")["input_ids"][0].tolist()
    assert item["input_ids"][: len(prompt)] == prompt
    answer = item["input_ids"][len(prompt) :]
    assert answer[-1] == processor.tokenizer.eos_token_id
    assert item["labels"] == [-100] * len(prompt) + answer
    assert processor.decode(answer) == "A bell."


def test_an_item_whose_prompt_is_cut_counts_nothing(processor: ImageBindLlmProcessor) -> None:
    item = instruction_item(processor, "What is it?", "A bell.", max_words=10)
    assert len(item["input_ids"]) == 10
    assert item["labels"] == [-100] * 10


def test_a_tokenizer_without_an_end_token_is_refused(processor: ImageBindLlmProcessor) -> None:
    processor.tokenizer.eos_token = None
    with pytest.raises(InvalidRequestError, match="no end token"):
        instruction_item(processor, "What is it?", "a bell rings")


def test_a_batch_is_padded_to_its_longest_item_and_marks_attachments() -> None:
    items: list[dict[str, Any]] = [
        {"input_ids": [1, 5, 2], "labels": [-100, 5, 2], "embedding": torch.ones(4)},
        {"input_ids": [1, 2], "labels": [-100, 2]},
    ]
    batch = Collator(pad_token_id=9)(items)
    assert batch["input_ids"].tolist() == [[1, 5, 2], [1, 2, 9]]
    assert batch["labels"].tolist() == [[-100, 5, 2], [-100, 2, -100]]
    assert batch["embedding_mask"].tolist() == [True, False]
    assert batch["embeddings"].tolist() == [[1.0] * 4, [0.0] * 4]


def test_a_batch_without_attachments_is_text_only() -> None:
    assert set(Collator()([{"input_ids": [1, 2], "labels": [1, 2]}])) == {"input_ids", "labels"}


def test_only_the_images_that_are_there_are_stacked() -> None:
    items: list[dict[str, Any]] = [
        {"input_ids": [1], "labels": [1]},
        {"input_ids": [1], "labels": [1], "pixel_values": torch.ones(3, 8, 8)},
    ]
    batch = Collator()(items)
    assert batch["pixel_values"].shape == (1, 3, 8, 8)
    assert batch["embedding_mask"].tolist() == [False, True]


def test_images_and_embeddings_in_one_batch_are_refused() -> None:
    items: list[dict[str, Any]] = [
        {"input_ids": [1], "labels": [1], "embedding": torch.ones(4)},
        {"input_ids": [1], "labels": [1], "pixel_values": torch.ones(3, 8, 8)},
    ]
    with pytest.raises(InvalidRequestError, match="both images and embeddings"):
        Collator()(items)


def test_a_dataset_reads_images_and_takes_embeddings(reference: Path, processor: ImageBindLlmProcessor) -> None:
    examples = [
        Example("a dog", image=reference / "media" / "dog_image.jpg"),
        Example("a bell", "What is it?", embedding=torch.ones(4)),
        Example("Bells ring.", "What do bells do?"),
    ]
    image, embedding, text = (ExampleDataset(examples, processor)[index] for index in range(3))
    assert image["pixel_values"].shape == (3, 32, 32)
    assert image["input_ids"] == instruction_item(processor, CAPTION_INSTRUCTION, "a dog")["input_ids"]
    assert embedding["embedding"] is examples[1].embedding
    assert set(text) == {"input_ids", "labels"}


def test_official_text_items_have_an_image_of_zeros_and_a_tuple(processor: ImageBindLlmProcessor) -> None:
    examples = [Example("Bells ring.", "What do bells do?")]
    (item,) = (ExampleDataset(examples, processor, zero_image=True, official_repr_quirk=True)[0],)
    assert item["pixel_values"].shape == (3, 32, 32)
    assert not item["pixel_values"].any()
    assert "('What do bells do?',)" in processor.decode(item["input_ids"])


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 200), (200, 1), (3, 3)])
def test_crops_are_square_whatever_the_shape(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert random_resized_crop(image, 16).shape == (16, 16, 3)


def test_crops_keep_nine_tenths_of_the_image_and_differ() -> None:
    torch.manual_seed(0)
    column, row = np.meshgrid(np.arange(200), np.arange(200))
    image = np.stack([column, row, np.zeros_like(row)], axis=-1).astype(np.uint8)
    crops = [random_resized_crop(image, 50).astype(int) for _ in range(20)]
    areas = [np.ptp(crop[..., 0]) * np.ptp(crop[..., 1]) / 200**2 for crop in crops]
    assert min(areas) > 0.82
    assert len({crop.tobytes() for crop in crops}) > 15

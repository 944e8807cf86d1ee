"""Prompts and tokens of the language model."""

from pathlib import Path

import pytest
from golden_adapter import Golden

from ibllm_tools.checkpoints.llama_tokenizer import load_llama_tokenizer
from ibllm_tools.errors import InvalidRequestError, ModelNotFoundError
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.imagebind.tokenization_imagebind import clip_tokenizer
from ibllm_tools.imagebind_llm import ImageBindLlmProcessor


@pytest.fixture
def processor(golden: Golden) -> ImageBindLlmProcessor:
    tokenizer = load_llama_tokenizer(golden.folder / "tokenizer.model")
    return ImageBindLlmProcessor(ImageBindProcessor(clip_tokenizer([("a", "b")])), tokenizer)


def test_prompts_and_ids_are_the_official_ones(golden: Golden, processor: ImageBindLlmProcessor) -> None:
    for prompt in golden.facts["prompts"]:
        assert processor.format_prompt(prompt["instruction"], prompt["input"]) == prompt["text"]
        assert processor(prompt["instruction"], prompt["input"])["input_ids"].tolist() == [prompt["ids"]]


def test_a_batch_is_padded_on_the_left(golden: Golden, processor: ImageBindLlmProcessor) -> None:
    prompts = golden.facts["prompts"]
    batch = processor([p["instruction"] for p in prompts], [p["input"] for p in prompts])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 98)
    for prompt, ids, mask in zip(prompts, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == prompt["ids"]
        assert mask[-len(prompt["ids"]) :].all()


def test_decoding_drops_special_tokens_and_outer_space(processor: ImageBindLlmProcessor) -> None:
    ids = processor.tokenizer("a happy day", add_special_tokens=False)["input_ids"]
    assert processor.decode([1, *ids, 2]) == "a happy day"


def test_braces_in_a_question_are_left_alone(processor: ImageBindLlmProcessor) -> None:
    assert "{input} {0}" in processor.format_prompt("What is {input} {0}?")


def test_save_and_load_round_trip(processor: ImageBindLlmProcessor, tmp_path: Path) -> None:
    processor.prompt_template = "Q: {instruction}\nA:"
    processor.save_pretrained(tmp_path)
    loaded = ImageBindLlmProcessor.from_pretrained(tmp_path)
    assert loaded.format_prompt("Why?") == "Q: Why?\nA:"
    assert loaded.prompt_template_with_input == processor.prompt_template_with_input
    assert loaded("Why?", "rain")["input_ids"].tolist() == processor("Why?", "rain")["input_ids"].tolist()
    assert isinstance(loaded.imagebind_processor, ImageBindProcessor)


@pytest.mark.parametrize(("instructions", "inputs"), [("  ", None), ([], None), (["a", "b"], ["c"])])
def test_bad_requests_are_refused(
    processor: ImageBindLlmProcessor, instructions: str | list[str], inputs: list[str] | None
) -> None:
    with pytest.raises(InvalidRequestError):
        processor(instructions, inputs)


def test_a_template_without_its_field_is_refused(processor: ImageBindLlmProcessor) -> None:
    with pytest.raises(InvalidRequestError, match=r"lacks \{instruction\}"):
        ImageBindLlmProcessor(processor.imagebind_processor, processor.tokenizer, prompt_template="Hello")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{instruction} {input}", r"has \{input\}, expected only \{instruction\}"),
        ("{instruction} {0}", r"has \{0\}"),
        ("{instruction} {instruction.__class__}", r"has \{instruction.__class__\}"),
        ("{instruction:>9}", r"lacks \{instruction\}"),
        ("{{instruction}}", r"lacks \{instruction\}"),
        ("{instruction} {", "write braces of the text twice"),
    ],
)
def test_a_template_with_other_fields_is_refused(processor: ImageBindLlmProcessor, template: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        ImageBindLlmProcessor(processor.imagebind_processor, processor.tokenizer, prompt_template=template)


def test_a_template_may_hold_braces(processor: ImageBindLlmProcessor) -> None:
    own = ImageBindLlmProcessor(
        processor.imagebind_processor, processor.tokenizer, prompt_template="{{x}} {instruction}"
    )
    assert own.format_prompt("Why?") == "{x} Why?"


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="ImageBind-LLM"):
        ImageBindLlmProcessor.from_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="neither"):
        ImageBindLlmProcessor.from_pretrained(tmp_path / "absent")


@pytest.mark.parametrize("file", ["tokenizer.json", "imagebind/tokenizer.json", "imagebind/processor_config.json"])
def test_a_folder_with_a_file_missing_is_refused(processor: ImageBindLlmProcessor, tmp_path: Path, file: str) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ModelNotFoundError, match=f"{Path(file).name}.*copy the model's folder whole"):
        ImageBindLlmProcessor.from_pretrained(tmp_path)

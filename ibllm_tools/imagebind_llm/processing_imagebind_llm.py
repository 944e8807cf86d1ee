"""What turns attachments and questions into the tensors of ImageBind-LLM, and token ids back into text."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from string import Formatter
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase

from ibllm_tools.errors import InvalidRequestError, ModelNotFoundError
from ibllm_tools.hub import fetched, is_hub_id
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor

PROMPT_TEMPLATE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
PROMPT_TEMPLATE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
_PROMPTS_FILE = "prompt_templates.json"
_IMAGEBIND_FOLDER = "imagebind"
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


class ImageBindLlmProcessor:
    """Prompts and tokens for the language model; attachments go through :attr:`imagebind_processor`.

    Attributes:
        imagebind_processor: attachments to the tensors of the joint embedding.
        tokenizer: the language model's tokenizer.
        prompt_template: text around an instruction; holds ``{instruction}``.
        prompt_template_with_input: text around an instruction and its input; holds ``{instruction}`` and ``{input}``.
    """

    def __init__(
        self,
        imagebind_processor: ImageBindProcessor,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_template: str = PROMPT_TEMPLATE,
        prompt_template_with_input: str = PROMPT_TEMPLATE_WITH_INPUT,
    ) -> None:
        _check_template("prompt_template", prompt_template, ("{instruction}",))
        _check_template("prompt_template_with_input", prompt_template_with_input, ("{instruction}", "{input}"))
        self.imagebind_processor = imagebind_processor
        self.tokenizer = tokenizer
        self.prompt_template = prompt_template
        self.prompt_template_with_input = prompt_template_with_input

    def format_prompt(self, instruction: str, input: str | None = None) -> str:
        """The prompt around an instruction; an empty input is no input.

        Raises:
            InvalidRequestError: the instruction is empty.
        """
        if not instruction.strip():
            raise InvalidRequestError("the instruction is empty: ask a question or give an instruction")
        template = self.prompt_template_with_input if input else self.prompt_template
        return template.format(instruction=instruction, input=input)

    def __call__(
        self, instructions: str | Sequence[str], inputs: str | Sequence[str | None] | None = None
    ) -> BatchEncoding:
        """Prompts as token ids: begin of sequence, prompt, no end of sequence; left-padded to equal length.

        Args:
            instructions: one, or one per item.
            inputs: further context of each instruction, if any.

        Returns:
            ``input_ids`` and ``attention_mask``, both (B, L).

        Raises:
            InvalidRequestError: an empty instruction, none at all, or not one input per instruction.
        """
        instructions = [instructions] if isinstance(instructions, str) else list(instructions)
        inputs = [inputs] if isinstance(inputs, str) else list(inputs or [None] * len(instructions))
        if not instructions or len(inputs) != len(instructions):
            raise InvalidRequestError(
                f"{len(instructions)} instructions and {len(inputs)} inputs: give at least one, and one input for each"
            )
        prompts = [self.format_prompt(*item) for item in zip(instructions, inputs, strict=True)]
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        encoded = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        return self._left_padded([begin + ids for ids in encoded])

    def _left_padded(self, sequences: list[list[int]]) -> BatchEncoding:
        length = max(map(len, sequences))
        filler = self.tokenizer.pad_token_id or 0  # masked, so any id does
        ids = [[filler] * (length - len(sequence)) + sequence for sequence in sequences]
        mask = [[0] * (length - len(sequence)) + [1] * len(sequence) for sequence in sequences]
        return BatchEncoding({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)})  # (B, L)

    def decode(self, ids: Tensor | list[int], *, strip: bool = True) -> str:
        """Generated ids (L,) as text, without special tokens and, stripped, without space around it."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip() if strip else text

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the tokenizer, the templates and, in a folder of its own, the attachments' processor."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        self.imagebind_processor.save_pretrained(folder / _IMAGEBIND_FOLDER)
        templates = {
            "prompt_template": self.prompt_template,
            "prompt_template_with_input": self.prompt_template_with_input,
        }
        (folder / _PROMPTS_FILE).write_text(json.dumps(templates, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str], **hub_options: Any) -> "ImageBindLlmProcessor":
        """Load from a model's folder or hub id.

        Args:
            source: a folder, or a hub id, whose small files are then fetched.
            hub_options: of :func:`huggingface_hub.snapshot_download`, e.g. ``revision`` or ``local_files_only``.

        Raises:
            ModelNotFoundError: there is no such processor.
        """
        folder = _local_folder(source, hub_options)
        if not (folder / _PROMPTS_FILE).is_file():
            raise ModelNotFoundError(
                f"{source}: no {_PROMPTS_FILE} in it; expected the folder of an ImageBind-LLM model"
            )
        if not any((folder / name).is_file() for name in _VOCABULARY_FILES):  # transformers may go on without any word
            raise ModelNotFoundError(f"{source}: no {_VOCABULARY_FILES[0]} in it; copy the model's folder whole")
        return cls(
            ImageBindProcessor.from_pretrained(folder / _IMAGEBIND_FOLDER),
            AutoTokenizer.from_pretrained(folder),
            **json.loads((folder / _PROMPTS_FILE).read_text(encoding="utf-8")),
        )


def _local_folder(source: str | PathLike[str], hub_options: dict[str, Any]) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if is_hub_id(str(source)):
        return fetched(str(source), ["*.json", "*.txt", "*.model", f"{_IMAGEBIND_FOLDER}/*"], **hub_options)
    raise ModelNotFoundError(f"{source}: neither a folder nor a hub id (owner/name)")


def _check_template(name: str, template: str, fields: tuple[str, ...]) -> None:
    try:
        found = [_as_written(*field) for _, *field in Formatter().parse(template) if field[0] is not None]
    except ValueError as error:
        raise InvalidRequestError(f"{name} {template!r}: {error}; write braces of the text twice") from error
    if missing := [field for field in fields if field not in found]:
        raise InvalidRequestError(f"{name} {template!r} lacks {' and '.join(missing)}")
    if foreign := [field for field in found if field not in fields]:
        raise InvalidRequestError(
            f"{name} {template!r} has {' and '.join(foreign)}, expected only {' and '.join(fields)}; "
            "write braces of the text twice"
        )


def _as_written(field: str | None, format_spec: str | None, conversion: str | None) -> str:
    return "{" + f"{field}{'!' + conversion if conversion else ''}{':' + format_spec if format_spec else ''}" + "}"

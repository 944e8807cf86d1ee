"""What the tests of LangChain's models share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibllm_tools import Assistant
from langchain_ibllm import ChatImageBindLLM


@pytest.fixture
def generated(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts the language model was given, call by call."""
    sizes: list[int] = []
    generate: Callable[..., Any] = assistant.model.generate

    def counted(*args: Any, **options: Any) -> Any:
        sizes.append(len(options["input_ids"]))
        return generate(*args, **options)

    monkeypatch.setattr(assistant.model, "generate", counted)
    return sizes


@pytest.fixture
def chat(assistant: Assistant, media: Path) -> ChatImageBindLLM:
    return ChatImageBindLLM(roots=media)

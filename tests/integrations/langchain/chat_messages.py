"""Messages for the chat model, and what its callbacks are told."""

import base64
from pathlib import Path
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.outputs import LLMResult


def asked(text: str, **block: Any) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": text}, block] if block else text)


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


class Recorder(BaseCallbackHandler):
    """What LangChain told its callbacks."""

    def __init__(self) -> None:
        self.started, self.ended, self.failed = 0, [], []

    def on_chat_model_start(self, serialized: Any, messages: Any, **_: Any) -> None:
        self.started += 1

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.ended.append(response.generations[0][0].text)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.failed.append(error)

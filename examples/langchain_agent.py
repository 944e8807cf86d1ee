"""An agent hears a sound, though its language model reads text only; then it looks into a media library.

`ScriptedModel` stands for any language model that calls tools: put ``init_chat_model("...")`` in its place. It follows
two rules instead of thinking, so that the example runs anywhere; what it reads, calls and gets back is real.
"""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from transformers.utils import logging

from ibllm_tools import MediaLibrary
from ibllm_tools.assistant.shared import shared_assistant
from langchain_ibllm import AttachmentMiddleware

MEDIA = Path(__file__).with_name("media")


class ScriptedModel(BaseChatModel):
    """Asks about the handle that it reads, or searches the library; then it says what the tool said."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(**kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            answer = AIMessage(f"{last.name} says: {last.text}")
        elif handle := re.search(r"att://[0-9a-f]{64}", last.text):
            answer = _call("ask_attachment", question="What is making this sound?", attachments=[handle[0]])
        else:
            answer = _call("search_media", query=last.text, k=1)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def _call(tool: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": tool}])


def main() -> None:
    logging.disable_progress_bar()  # loading takes a moment only
    assistant = shared_assistant()
    with (
        TemporaryDirectory() as folder,
        MediaLibrary.open(folder, embedder=assistant.embedder, captioner=assistant) as library,
    ):
        library.add(*(MEDIA / name for name in ("dog.wav", "duck.glb", "helicopter.mp4")), caption=True, progress=False)
        agent = create_agent(ScriptedModel(), middleware=[AttachmentMiddleware(library=library)])
        sound = base64.b64encode((MEDIA / "bell.wav").read_bytes()).decode()
        for question in (
            [
                {"type": "text", "text": "What do you hear?"},
                {"type": "audio", "base64": sound, "mime_type": "audio/wav", "extras": {"filename": "bell.wav"}},
            ],
            "something that flies",
        ):
            state = agent.invoke({"messages": [HumanMessage(question)]})
            for message in state["messages"]:
                print(f"{message.type:5}  {message.text or _called(message)}")


def _called(message: BaseMessage) -> str:
    return "; ".join(f"{call['name']} {call['args']}" for call in getattr(message, "tool_calls", ()))


if __name__ == "__main__":
    main()

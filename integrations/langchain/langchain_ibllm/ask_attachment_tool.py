"""The tool that answers questions about attachments."""

from collections.abc import Sequence
from typing import Any

from ibllm_tools.toolbox.arguments import AskAttachmentArguments
from langchain_ibllm.media_tool import MediaTool, Runtime, WithRuntime, described


class AskAttachmentInput(WithRuntime, AskAttachmentArguments):
    """The arguments, and the agent's run."""


class AskAttachmentTool(MediaTool):
    """Answers a question about attachments; its artifact is an `Answer`, with the evidence.

    ``Answer.model_validate(message.artifact)`` gives it back. The content of the message is, for example,
    ``It is a bell. [bell.wav@0.0-3.0s]``.
    """

    name: str = "ask_attachment"
    description: str = described(AskAttachmentArguments)
    args_schema: Any = AskAttachmentInput

    def _run(
        self,
        question: str,
        attachments: Sequence[str] = (),
        weights: Sequence[float] | None = None,
        search_library: bool = False,
        runtime: Runtime = None,
    ) -> tuple[str, dict[str, Any]]:
        from ibllm_tools.toolbox import answer_text

        conversation = self._conversation(runtime)
        with self._in_one_line():
            answer = self.toolbox.ask_attachment(
                question,
                [conversation.resolved(item) for item in attachments],
                weights=weights,
                search_library=search_library,
            )
        return answer_text(answer), answer.model_dump(mode="json")

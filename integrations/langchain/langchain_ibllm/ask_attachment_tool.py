"""The tool that answers questions about attachments."""

from typing import Any

from ibllm_tools.toolbox.arguments import AskAttachmentArguments
from langchain_ibllm.conversation_attachments import ConversationAttachments
from langchain_ibllm.media_tool import MediaTool, Runtime, described


class AskAttachmentInput(AskAttachmentArguments):
    """The arguments, and the agent's run."""

    runtime: Runtime


class AskAttachmentTool(MediaTool):
    """Answers a question about attachments; its artifact is an `Answer`, with the evidence.

    ``Answer.model_validate(message.artifact)`` gives it back. The content of the message is, for example,
    ``It is a bell. [bell.wav@0.0-3.0s]``.
    """

    name: str = "ask_attachment"
    description: str = described(AskAttachmentArguments)
    args_schema: Any = AskAttachmentInput

    def _result(self, conversation: ConversationAttachments, **arguments: Any) -> tuple[str, dict[str, Any]]:
        from ibllm_tools.toolbox import answer_text

        attachments = [conversation.resolved(item) for item in arguments.pop("attachments", ())]
        answer = self._toolbox.ask_attachment(attachments=attachments, **arguments)
        return answer_text(answer), answer.model_dump(mode="json")

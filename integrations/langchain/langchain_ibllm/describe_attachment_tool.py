"""The tool that says what an attachment is."""

from typing import Any

from ibllm_tools.toolbox.arguments import DescribeAttachmentArguments
from langchain_ibllm.conversation_attachments import ConversationAttachments
from langchain_ibllm.media_tool import MediaTool, Runtime, described


class DescribeAttachmentInput(DescribeAttachmentArguments):
    """The arguments, and the agent's run."""

    runtime: Runtime


class DescribeAttachmentTool(MediaTool):
    """Says what an attachment is; content and artifact are those of `AskAttachmentTool`."""

    name: str = "describe_attachment"
    description: str = described(DescribeAttachmentArguments)
    args_schema: Any = DescribeAttachmentInput

    def _result(self, conversation: ConversationAttachments, **arguments: Any) -> tuple[str, dict[str, Any]]:
        from ibllm_tools.toolbox import answer_text

        answer = self._toolbox.describe_attachment(conversation.resolved(arguments["attachment"]))
        return answer_text(answer), answer.model_dump(mode="json")

"""The tool that says what an attachment is."""

from typing import Any

from ibllm_tools.toolbox.arguments import DescribeAttachmentArguments
from langchain_ibllm.media_tool import MediaTool, Runtime, WithRuntime, described


class DescribeAttachmentInput(WithRuntime, DescribeAttachmentArguments):
    """The arguments, and the agent's run."""


class DescribeAttachmentTool(MediaTool):
    """Says what an attachment is; content and artifact are those of `AskAttachmentTool`."""

    name: str = "describe_attachment"
    description: str = described(DescribeAttachmentArguments)
    args_schema: Any = DescribeAttachmentInput

    def _run(self, attachment: str, runtime: Runtime = None) -> tuple[str, dict[str, Any]]:
        from ibllm_tools.toolbox import answer_text

        with self._in_one_line():
            answer = self.toolbox.describe_attachment(self._conversation(runtime).resolved(attachment))
        return answer_text(answer), answer.model_dump(mode="json")

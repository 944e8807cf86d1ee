"""LangChain's own tests of tools, as they are."""

from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from ibllm_tools.toolbox import Toolbox
from langchain_ibllm import AskAttachmentTool, DescribeAttachmentTool, SearchMediaTool


class _WithToolbox:
    """The toolbox of the session, where the standard tests look for arguments of the constructor."""

    @pytest.fixture(autouse=True)
    def _toolbox(self, toolbox: Toolbox) -> None:
        self.toolbox = toolbox

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"toolbox": self.toolbox}


class _AskAttachment(_WithToolbox):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return AskAttachmentTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"question": "What is making this sound?", "attachments": ["bell.wav"]}


class _DescribeAttachment(_WithToolbox):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return DescribeAttachmentTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"attachment": "duck.glb"}


class _SearchMedia(_WithToolbox):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return SearchMediaTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "a barking dog", "k": 2}


class TestAskAttachmentUnit(_AskAttachment, ToolsUnitTests):
    pass


class TestAskAttachmentIntegration(_AskAttachment, ToolsIntegrationTests):
    pass


class TestDescribeAttachmentUnit(_DescribeAttachment, ToolsUnitTests):
    pass


class TestDescribeAttachmentIntegration(_DescribeAttachment, ToolsIntegrationTests):
    pass


class TestSearchMediaUnit(_SearchMedia, ToolsUnitTests):
    pass


class TestSearchMediaIntegration(_SearchMedia, ToolsIntegrationTests):
    pass

"""The chat model against LangChain's own tests, as they are."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from syrupy.assertion import SnapshotAssertion

from ibllm_tools import Assistant
from ibllm_tools.assistant.model_folder import mini_folder
from langchain_ibllm import ChatImageBindLLM

NO_COPYING = "the embedded model copies no values from the question into arguments; they are valid JSON only"


class Declared:
    """What the chat model is said to do; everything else is LangChain's."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatImageBindLLM

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def returns_usage_metadata(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return str(mini_folder())


class TestUnit(Declared, ChatModelUnitTests):
    @pytest.mark.xfail(
        strict=True, reason="LangChain's load(allowed_objects='all') knows the classes of its own packages only"
    )
    def test_serdes(self, model: BaseChatModel, snapshot: SnapshotAssertion) -> None:
        super().test_serdes(model, snapshot)


class TestIntegration(Declared, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"allow_fetch": True}

    @pytest.fixture(autouse=True)
    def media_from_this_repository(self, assistant: Assistant, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the tests download is ours, and the model is loaded once."""

        def get(url: str, **_: Any) -> httpx.Response:
            return httpx.Response(200, content=_sample(media, url))

        monkeypatch.setattr(httpx, "get", get)
        monkeypatch.setattr("ibllm_tools.attachments.attachment.fetch", lambda url, _: _sample(media, url))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "ibllm-tools")

    @pytest.mark.xfail(strict=True, reason=NO_COPYING)
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @pytest.mark.xfail(strict=True, reason=NO_COPYING)
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(strict=True, reason=NO_COPYING)
    def test_unicode_tool_call_integration(
        self,
        model: BaseChatModel,
        *,
        tool_choice: str | None = None,  # noqa: PT028
        force_tool_call: bool = True,  # noqa: PT028
    ) -> None:
        super().test_unicode_tool_call_integration(model, tool_choice=tool_choice, force_tool_call=force_tool_call)


def _sample(media: Path, url: str) -> bytes:
    return (media / ("bell.wav" if url.endswith(".wav") else "bell.png")).read_bytes()

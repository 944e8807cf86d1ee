"""What the tools take, give back and refuse; langchain's own tests are in test_langchain_tools_standard.py."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, ToolException
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ValidationError

from ibllm_tools import Access, Answer, Assistant, Attachment, AttachmentStore, MediaLibrary
from ibllm_tools.assistant.shared import with_access
from ibllm_tools.errors import EncoderMismatchError, StoreError
from ibllm_tools.toolbox import SearchResult, Toolbox
from langchain_ibllm import AskAttachmentTool, DescribeAttachmentTool, ImageBindToolkit, SearchMediaTool

Block = Callable[[str], dict[str, Any]]


@dataclass
class Run:
    """What a ToolRuntime looks like to the tools."""

    state: Any


def call(tool: BaseTool, **arguments: Any) -> ToolMessage:
    message = tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"})
    assert isinstance(message, ToolMessage)
    return message


@pytest.fixture
def ask(toolbox: Toolbox) -> AskAttachmentTool:
    return AskAttachmentTool(toolbox=toolbox)


@pytest.fixture
def describe(toolbox: Toolbox) -> DescribeAttachmentTool:
    return DescribeAttachmentTool(toolbox=toolbox)


@pytest.fixture
def search(toolbox: Toolbox) -> SearchMediaTool:
    return SearchMediaTool(toolbox=toolbox)


def test_the_model_reads_a_short_text_and_the_artifact_is_the_answer(ask: AskAttachmentTool) -> None:
    message = call(ask, question="What is making this sound?", attachments=["bell.wav"])
    assert message.content == "It is a bell. [bell.wav@0.0-3.0s]"
    assert message.status == "success"
    answer = Answer.model_validate(message.artifact)
    assert (answer.text, answer.evidence[0].citation) == ("It is a bell.", "bell.wav@0.0-3.0s")


def test_an_artifact_is_plain_json(ask: AskAttachmentTool, search: SearchMediaTool) -> None:
    for message in (call(ask, question="What is it?", attachments=["duck.glb"]), call(search, query="a duck")):
        assert json.loads(json.dumps(message.artifact)) == message.artifact


def test_search_gives_references_that_the_other_tools_take(
    search: SearchMediaTool, describe: DescribeAttachmentTool
) -> None:
    message = call(search, query="a barking dog", k=1)
    hit = SearchResult.model_validate(message.artifact).hits[0]
    assert message.text.startswith("1. dog.wav@0.0-")
    assert message.text.endswith(f"<{hit.id}>")
    assert call(describe, attachment=hit.id).text == f"It is a dog. [{hit.citation}]"
    assert call(describe, attachment=hit.handle).text.startswith("It is a dog. [dog.wav@0.0-3.0s]")


def test_search_takes_examples_and_conditions(search: SearchMediaTool) -> None:
    message = call(search, attachments=["bell.png"], k=1)
    assert message.text.startswith("1. bell.wav@")
    assert call(search, query="a bell", modality=["point"]).text.startswith("1. duck.glb (point): ")
    assert call(search, query="a bell", modality=["point"], min_score=0.99).text == "Nothing was found."


def test_the_model_sees_no_runtime(toolbox: Toolbox) -> None:
    for kind, names in (
        (AskAttachmentTool, {"question", "attachments", "weights", "search_library"}),
        (DescribeAttachmentTool, {"attachment"}),
        (SearchMediaTool, {"query", "attachments", "k", "modality", "tags", "min_score"}),
    ):
        tool = kind(toolbox=toolbox)
        seen = convert_to_openai_tool(tool)["function"]
        assert set(seen["parameters"]["properties"]) == set(tool.args) == names
        assert seen["description"]


def test_what_was_misspelt_is_refused(ask: AskAttachmentTool) -> None:
    with pytest.raises(ValidationError, match="atachments"):
        ask.invoke({"question": "What is it?", "atachments": ["bell.wav"]})


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere.wav", "no such file"),
        ("/etc/passwd", "outside the allowed folders"),
        ("../demo.py", "outside the allowed folders"),
        ("https://example.org/bell.wav", "fetching URLs is switched off"),
        (f"att://{'0' * 64}", "neither in the attachment store nor a source of the library"),
        ("x" * 5000, "x"),
    ],
)
def test_what_cannot_be_opened_is_an_answer_in_one_line(
    describe: DescribeAttachmentTool, reference: str, said: str
) -> None:
    message = call(describe, attachment=reference)
    assert message.status == "error"
    assert said in message.text
    assert "\n" not in message.text
    assert len(message.text) <= 600


def test_errors_can_be_raised_instead(toolbox: Toolbox) -> None:
    tool = DescribeAttachmentTool(toolbox=toolbox, handle_tool_error=False)
    with pytest.raises(ToolException, match=r"nowhere\.wav: no such file"):
        tool.invoke({"attachment": "nowhere.wav"})


def test_a_fault_is_raised(toolbox: Toolbox, ask: AskAttachmentTool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(toolbox.assistant, "ask", broken)
    with pytest.raises(ZeroDivisionError):
        ask.invoke({"question": "What is it?"})


def test_a_lone_text_is_the_question(ask: AskAttachmentTool) -> None:
    assert ask.invoke("What is a bell?")


def test_a_toolbox_is_needed() -> None:
    with pytest.raises(ValidationError, match="toolbox of type str, expected a Toolbox"):
        AskAttachmentTool(toolbox="mini")


async def test_the_event_loop_is_not_blocked(
    toolbox: Toolbox, describe: DescribeAttachmentTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, original = threading.Event(), toolbox.assistant.describe

    def waiting(attachment: Any) -> Answer:
        assert go.wait(20)  # only a loop that runs meanwhile lets it go
        return original(attachment)

    monkeypatch.setattr(toolbox.assistant, "describe", waiting)
    task = asyncio.create_task(describe.ainvoke({"attachment": "bell.wav"}))
    await asyncio.sleep(0)
    go.set()
    assert await task == "It is a bell. [bell.wav@0.0-3.0s]"


class TestConversation:
    """Attachments of the conversation, without any middleware."""

    def test_a_handle_is_found_by_the_content_of_a_block(
        self, describe: DescribeAttachmentTool, block: Block, media: Path
    ) -> None:
        handle = Attachment(media / "small_siren.wav").handle
        run = Run({"messages": [HumanMessage([block("small_siren.wav")])]})
        message = call(describe, attachment=handle, runtime=run)
        assert message.text.endswith("[small_siren.wav@0.0-3.0s]")
        assert call(describe, attachment=handle).status == "error"

    @pytest.mark.parametrize("of", [dict, SimpleNamespace, None], ids=["mapping", "model", "list"])
    def test_the_state_may_have_any_form(
        self, describe: DescribeAttachmentTool, block: Block, of: Callable[..., Any] | None
    ) -> None:
        messages = [HumanMessage([block("small_siren.wav")])]
        run = Run(of(messages=messages) if of else messages)
        assert call(describe, attachment="small_siren.wav", runtime=run).status == "success"

    def test_a_block_goes_before_a_file_of_the_same_name(self, describe: DescribeAttachmentTool, block: Block) -> None:
        dog = {**block("dog.wav"), "extras": {"filename": "bell.wav"}}
        run = Run({"messages": [HumanMessage([dog])]})
        assert call(describe, attachment="bell.wav", runtime=run).text == "It is a dog. [bell.wav@0.0-3.0s]"

    def test_a_name_that_several_have_is_refused(self, describe: DescribeAttachmentTool, block: Block) -> None:
        blocks = [{**block(name), "extras": {"filename": "a.wav"}} for name in ("dog.wav", "bell.wav")]
        run = Run({"messages": [HumanMessage([blocks[0]]), HumanMessage([blocks[1]])]})
        message = call(describe, attachment="a.wav", runtime=run)
        assert message.status == "error"
        assert message.text.startswith("a.wav: 2 attachments of this conversation have that name")

    def test_the_same_content_twice_is_one(self, describe: DescribeAttachmentTool, block: Block) -> None:
        run = Run({"messages": [HumanMessage([block("bell.wav")]), HumanMessage([block("bell.wav")])]})
        assert call(describe, attachment="bell.wav", runtime=run).status == "success"

    def test_what_a_search_found_is_known_by_its_name(
        self, assistant: Assistant, media_library: MediaLibrary, search: SearchMediaTool
    ) -> None:
        nowhere = DescribeAttachmentTool(toolbox=Toolbox(with_access(assistant, Access(roots=())), media_library))
        found = call(search, query="a barking dog", k=1)
        assert call(nowhere, attachment="dog.wav").status == "error"
        run = Run({"messages": [found]})
        assert call(nowhere, attachment="dog.wav", runtime=run).text == "It is a dog. [dog.wav@0.0-3.0s]"

    def test_other_tools_artifacts_and_broken_blocks_are_passed_over(
        self, describe: DescribeAttachmentTool, block: Block
    ) -> None:
        messages = [
            HumanMessage(
                [{"type": "audio", "base64": "?", "extras": {"filename": "bell.wav"}}, "words", {"type": "x"}]
            ),
            HumanMessage("words", additional_kwargs={"ibllm_attachments": [None, {"name": "bell.wav", "handle": 3}]}),
            AIMessage("words", additional_kwargs={"ibllm_attachments": "bell.wav"}),
            ToolMessage("words", tool_call_id="1", name="search_media", artifact={"hits": "bell.wav"}),
            ToolMessage("words", tool_call_id="1", name="search_media", artifact=object()),
        ]
        message = call(describe, attachment="bell.wav", runtime=Run({"messages": messages}))
        assert message.text == "It is a bell. [bell.wav@0.0-3.0s]"

    @pytest.mark.parametrize("forged", [{"state": {"messages": []}}, "x", None, 3])
    def test_a_runtime_that_is_none_changes_nothing(self, describe: DescribeAttachmentTool, forged: Any) -> None:
        assert call(describe, attachment="bell.wav", runtime=forged).status == "success"


class TestToolkit:
    def test_it_searches_only_where_there_is_a_library(self, assistant: Assistant, media_library: MediaLibrary) -> None:
        names = [tool.name for tool in ImageBindToolkit(assistant).get_tools()]
        assert names == ["ask_attachment", "describe_attachment"]
        names = [tool.name for tool in ImageBindToolkit(assistant, library=media_library).get_tools()]
        assert names == ["ask_attachment", "describe_attachment", "search_media"]

    def test_without_roots_no_path_is_opened(self, assistant: Assistant, media: Path) -> None:
        assert assistant.access.roots is None
        tool = ImageBindToolkit(assistant).get_tools()[1]
        for path in (str(media / "bell.wav"), (media / "bell.wav").as_uri()):
            message = call(tool, attachment=path)
            assert message.status == "error"
            assert "outside the allowed folders" in message.text

    def test_roots_allow_what_lies_below_them(self, media: Path) -> None:
        tool = ImageBindToolkit(roots=media).get_tools()[1]
        assert call(tool, attachment="bell.wav").text == "It is a bell. [bell.wav@0.0-3.0s]"
        assert call(tool, attachment=str(media.parent / "demo.py")).status == "error"

    def test_an_assistants_own_roots_and_store_hold_unless_others_are_given(
        self, assistant: Assistant, media: Path, tmp_path: Path
    ) -> None:
        store = AttachmentStore(tmp_path)
        own = with_access(assistant, Access(roots=media, store=store))
        assert ImageBindToolkit(own).toolbox.assistant.access == own.access
        other = ImageBindToolkit(own, roots=(), store=tmp_path / "other").toolbox.assistant.access
        assert other.roots == ()
        assert other.store is not store

    def test_a_handle_of_the_store_is_opened(self, assistant: Assistant, media: Path, tmp_path: Path) -> None:
        handle = AttachmentStore(tmp_path).put(media / "bell.wav")
        tool = ImageBindToolkit(assistant, store=tmp_path).get_tools()[1]
        assert call(tool, attachment=handle).text == "It is a bell. [bell.wav@0.0-3.0s]"

    def test_a_folder_is_opened_as_the_library_that_it_is(
        self, assistant: Assistant, media: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(StoreError, match="index something into it first"):
            ImageBindToolkit(assistant, library=tmp_path / "nowhere")
        with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
            library.add(media / "duck.glb")
        toolkit = ImageBindToolkit(assistant, library=tmp_path / "library")
        assert call(toolkit.get_tools()[2], query="a duck").text.startswith("1. duck.glb (point")
        assert toolkit.toolbox.library is not None
        toolkit.toolbox.library.close()

    def test_a_library_of_another_encoder_is_refused(self, assistant: Assistant, tmp_path: Path) -> None:
        class Other:
            dimension = assistant.embedder.dimension
            fingerprint = "another"

        with (
            MediaLibrary.open(tmp_path, embedder=Other()) as library,  # type: ignore[arg-type]
            pytest.raises(EncoderMismatchError, match="another"),
        ):
            ImageBindToolkit(assistant, library=library)

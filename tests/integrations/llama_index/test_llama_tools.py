"""ImageBindToolSpec: what an agent calls, what it reads, and what it is told when a call is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.tools.calling import acall_tool, call_tool

from ibllm_tools import Access, Answer, Assistant, AttachmentStore, IndexReport, MediaLibrary
from ibllm_tools.assistant.shared import with_access
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError
from ibllm_tools.toolbox import AskAttachmentArguments, MediaListing, SearchResult
from llama_index.tools.ibllm import ImageBindToolSpec

Tools = dict[str, FunctionTool]


def named(spec: ImageBindToolSpec) -> Tools:
    return {tool.metadata.get_name(): tool for tool in spec.to_tool_list()}


@pytest.fixture
def tools(library: MediaLibrary, media: Path) -> Tools:
    return named(ImageBindToolSpec(library, roots=media))


def test_there_are_the_tools_that_can_work(library: MediaLibrary) -> None:
    alone = ["ask_attachment", "describe_attachment"]
    assert list(named(ImageBindToolSpec())) == alone
    assert list(named(ImageBindToolSpec(library))) == [*alone, "search_media", "list_media"]
    assert list(named(ImageBindToolSpec(library, writable=True))) == [
        *alone,
        "search_media",
        "list_media",
        "index_media",
    ]


def test_a_model_is_told_how_to_call_them(tools: Tools) -> None:
    metadata = tools["ask_attachment"].metadata
    assert metadata.fn_schema is AskAttachmentArguments
    assert metadata.description == AskAttachmentArguments.__doc__
    described = metadata.get_parameters_dict()["properties"]
    assert all(field["description"] for field in described.values())
    assert all(json.dumps(tool.metadata.to_openai_tool()) for tool in tools.values())


def test_the_text_is_short_and_cited_and_the_result_is_whole(tools: Tools) -> None:
    output = tools["ask_attachment"](question="What is making this sound?", attachments=["bell.wav"])
    assert output.content == "It is a bell. [bell.wav@0.0-3.0s]"
    assert isinstance(output.raw_output, Answer)
    assert output.raw_output.evidence[0].end == 3.0
    assert not output.is_error


def test_search_finds_what_can_be_asked_about(tools: Tools, library: MediaLibrary) -> None:
    output = tools["search_media"](query="a bell", k=1)
    assert isinstance(output.raw_output, SearchResult)
    (hit,) = output.raw_output.hits
    assert output.content == f"1. bell.wav@0.0-3.0s (audio): It is a bell. <{hit.id}>"
    asked = tools["ask_attachment"](question="What is making this sound?", attachments=[hit.id])
    assert asked.content == "It is a bell. [bell.wav@0.0-3.0s]"
    assert tools["describe_attachment"](attachment=hit.handle).content == asked.content


def test_the_library_is_listed_and_asked(tools: Tools) -> None:
    listed = tools["list_media"](limit=1)
    assert isinstance(listed.raw_output, MediaListing)
    assert listed.content.splitlines()[0] == "5 sources in the library."
    answer = tools["ask_attachment"](question="a duck", search_library=True)
    assert answer.content.startswith("It is a duck. [duck.glb")


def test_files_are_added_where_it_may_be_written_to(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        tools = named(ImageBindToolSpec(library, roots=media, writable=True))
        output = tools["index_media"](paths=["bell.wav"], tags=["loud"])
        assert isinstance(output.raw_output, IndexReport)
        assert output.content == "1 added, 0 changed, 0 moved, 0 unchanged, 0 failed."
        assert tools["index_media"](paths=["/etc"]).is_error


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("describe_attachment", {"attachment": "/etc/hostname"}, "Error: /etc/hostname: outside the allowed folders"),
        ("describe_attachment", {"attachment": f"att://{'0' * 64}"}, "neither in the attachment store nor"),
        ("describe_attachment", {"attachment": "https://example.com/bell.wav"}, "fetching URLs is switched off"),
        ("ask_attachment", {"attachments": ["bell.wav"]}, "Error: question: Field required; call ask_attachment again"),
        ("search_media", {"query": "bell", "k": 1000}, "k: Input should be less than or equal to 50"),
        ("describe_attachment", {"attachment": "\ud800.wav"}, "Error: Value error, no valid Unicode"),
        ("search_media", {}, "neither query nor attachments"),
        ("list_media", {"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
async def test_a_wrong_call_is_answered_and_not_raised(
    tools: Tools, name: str, arguments: dict[str, Any], said: str
) -> None:
    for output in (tools[name](**arguments), await tools[name].acall(**arguments)):
        assert said in output.content
        assert "\n" not in output.content
        assert output.is_error
        assert output.exception is not None


async def test_agents_that_pass_one_argument_by_place_are_understood(tools: Tools) -> None:
    assert tools["describe_attachment"]("dog.wav").content == "It is a dog. [dog.wav@0.0-3.0s]"
    arguments = {"attachment": "dog.wav"}
    assert call_tool(tools["describe_attachment"], arguments).content == "It is a dog. [dog.wav@0.0-3.0s]"
    assert (await acall_tool(tools["describe_attachment"], arguments)).content == "It is a dog. [dog.wav@0.0-3.0s]"


async def test_the_event_loop_is_free_meanwhile(tools: Tools, assistant: Assistant, unblocked: Any) -> None:
    output = await unblocked(
        assistant.model, "generate", lambda: tools["describe_attachment"].acall(attachment="dog.wav")
    )
    assert output.content == "It is a dog. [dog.wav@0.0-3.0s]"


def test_without_settings_only_the_library_can_be_opened(library: MediaLibrary, media: Path) -> None:
    tools = named(ImageBindToolSpec(library))
    output = tools["describe_attachment"](attachment=str(media / "bell.wav"))
    assert isinstance(output.exception, AttachmentAccessError)
    handle = next(library.list(modality="audio")).handle
    assert tools["describe_attachment"](attachment=handle).content == "It is a bell. [bell.wav@0.0-3.0s]"


def test_an_assistant_that_may_open_anything_opens_nothing_for_an_agent(assistant: Assistant, media: Path) -> None:
    tools = named(ImageBindToolSpec(assistant=assistant))
    output = tools["describe_attachment"](attachment=str(media / "dog.wav"))
    assert isinstance(output.exception, AttachmentAccessError)


def test_the_store_of_an_assistant_is_looked_into(assistant: Assistant, media: Path, store: AttachmentStore) -> None:
    tools = named(ImageBindToolSpec(assistant=with_access(assistant, Access(store=store))))
    assert tools["describe_attachment"](attachment=store.put(media / "dog.wav")).content.startswith("It is a dog.")


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="unknown setting folder"):
        ImageBindToolSpec(folder="media")


def test_some_tools_may_be_chosen_and_described_anew(library: MediaLibrary) -> None:
    spec = ImageBindToolSpec(library)
    listen = ToolMetadata(name="listen", description="Listen.", fn_schema=AskAttachmentArguments)
    (tool,) = spec.to_tool_list(["ask_attachment"], {"ask_attachment": listen})
    assert (tool.metadata.name, tool.metadata.description) == ("listen", "Listen.")
    with pytest.raises(InvalidRequestError, match="no tool 'index_media'"):
        spec.to_tool_list(["index_media"])

"""The tools of the server, called by a client in memory."""

import base64
import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import anyio
import mcp
import pytest

from ibllm_mcp import LazyToolbox, MediaServer, create_server
from ibllm_mcp.server import WORKERS
from ibllm_tools import Access, Answer, Assistant, IndexReport, MediaLibrary
from ibllm_tools.errors import InvalidRequestError, StoreError
from ibllm_tools.toolbox import MediaListing, SearchResult, Toolbox

SAMPLES = Path(__file__).parents[3] / "examples" / "media"
NAMES = ["ask_attachment", "describe_attachment", "search_media", "index_media", "list_media"]


async def call(server: MediaServer, tool: str, **arguments: Any) -> mcp.types.CallToolResult:
    async with mcp.Client(server) as client:
        return await client.call_tool(tool, arguments)


async def error_of(server: MediaServer, tool: str, **arguments: Any) -> str:
    """The text of a result that is an error, which is one line."""
    result = await call(server, tool, **arguments)
    assert result.is_error
    assert result.structured_content is None
    (block,) = result.content
    assert isinstance(block, mcp.types.TextContent)
    assert "\n" not in block.text
    assert "Traceback" not in block.text
    return block.text


def text_of(result: mcp.types.CallToolResult) -> str:
    """The text of a result that is none."""
    assert not result.is_error, result.content
    block = result.content[0]
    assert isinstance(block, mcp.types.TextContent)
    return block.text


def links_of(result: mcp.types.CallToolResult) -> dict[str, str]:
    """What else there is: links, by their names, and nothing but links."""
    links = result.content[1:]
    assert all(isinstance(block, mcp.types.ResourceLink) for block in links)
    return {block.name: str(block.uri) for block in links if isinstance(block, mcp.types.ResourceLink)}


# ---- what there is


async def test_the_tools_are_listed_with_flat_arguments_and_typed_results(server: MediaServer) -> None:
    async with mcp.Client(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert client.instructions is not None
    assert list(tools) == NAMES
    assert tools["ask_attachment"].input_schema["properties"].keys() == {
        "question",
        "attachments",
        "weights",
        "search_library",
    }
    for tool in tools.values():
        assert tool.title
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
    assert tools["list_media"].output_schema == MediaListing.model_json_schema(mode="serialization")


async def test_only_index_media_is_said_to_write_and_none_to_look_into_the_world(server: MediaServer) -> None:
    hints = {tool.name: tool.annotations for tool in await server.list_tools()}
    assert [name for name, hint in hints.items() if hint is not None and not hint.read_only_hint] == ["index_media"]
    assert all(hint is not None and hint.open_world_hint is False for hint in hints.values())
    assert all(hint is not None and hint.destructive_hint is False for hint in hints.values())


async def test_a_server_that_fetches_says_that_it_looks_into_the_world(assistant: Assistant) -> None:
    (ask, _) = await create_server(assistant, allow_fetch=True).list_tools()
    assert ask.annotations is not None
    assert ask.annotations.open_world_hint


async def test_a_read_only_server_has_no_tool_that_writes(
    assistant: Assistant, library: MediaLibrary, root: Path
) -> None:
    server = create_server(assistant, library=library, roots=root, read_only=True)
    assert [tool.name for tool in await server.list_tools()] == [name for name in NAMES if name != "index_media"]
    assert "index_media" in await error_of(server, "index_media", paths=["bell.wav"])


async def test_without_a_library_there_are_tools_to_ask_and_to_describe(assistant: Assistant, root: Path) -> None:
    server = create_server(assistant, roots=[root])
    assert [tool.name for tool in await server.list_tools()] == NAMES[:2]
    assert text_of(await call(server, "describe_attachment", attachment="bell.wav")).endswith("[bell.wav@0.0-3.0s]")
    assert "no media library" in await error_of(server, "ask_attachment", question="What rings?", search_library=True)


async def test_tools_and_resources_can_be_added(server: MediaServer) -> None:
    @server.tool()
    def double(number: int) -> int:
        return 2 * number

    @server.resource("note://today")
    def today() -> str:
        return "Monday"

    async with mcp.Client(server) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [*NAMES, "double"]
        assert (await client.call_tool("double", {"number": 2})).structured_content == {"result": 4}
        (content,) = (await client.read_resource("note://today")).contents
        assert isinstance(content, mcp.types.TextResourceContents)
        assert content.text == "Monday"


# ---- what they do


async def test_a_sound_is_asked_about(server: MediaServer, root: Path) -> None:
    result = await call(server, "ask_attachment", question="What is making this sound?", attachments=["bell.wav"])
    answer = Answer.model_validate(result.structured_content)
    (evidence,) = answer.evidence
    assert text_of(result) == f"{answer.text} [bell.wav@0.0-3.0s]"
    assert "bell" in answer.text
    assert (evidence.source, evidence.modality, evidence.start, evidence.end) == ("bell.wav", "audio", 0.0, 3.0)
    assert links_of(result) == {"bell.wav": f"media://library/{evidence.sha256}"}


async def test_a_file_that_is_not_in_the_library_is_described_without_a_link(server: MediaServer) -> None:
    result = await call(server, "describe_attachment", attachment="duck.glb")
    assert text_of(result) == "It is a duck. [duck.glb]"
    assert links_of(result) == {}


async def test_a_file_that_is_named_almost_like_an_id_is_a_file(
    assistant: Assistant, tmp_path: Path, root: Path
) -> None:
    shutil.copy(root / "dog.wav", tmp_path / "my-dog-audio-2.wav")
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        server = create_server(assistant, library=library, roots=tmp_path)
        described = await call(server, "describe_attachment", attachment="my-dog-audio-2.wav")
        assert text_of(described) == "It is a dog. [my-dog-audio-2.wav@0.0-3.0s]"


async def test_what_a_handle_stands_for_is_indexed(assistant: Assistant, tmp_path: Path, root: Path) -> None:
    with MediaLibrary.open(None, embedder=assistant.embedder, attachments=tmp_path) as library:
        assert library.attachments is not None
        handle = library.attachments.put(root / "pictures" / "bell.png")
        server = create_server(assistant, library=library)
        report = await call(server, "index_media", paths=[handle], title="a bell")
        assert IndexReport.model_validate(report.structured_content).added == 1
        assert "a bell (image)" in text_of(await call(server, "list_media"))


async def test_a_data_uri_is_described(server: MediaServer, root: Path) -> None:
    content = base64.b64encode((root / "pictures" / "bell.png").read_bytes()).decode()
    result = await call(server, "describe_attachment", attachment=f"data:image/png;base64,{content}")
    assert "bell" in text_of(result)


async def test_the_library_is_searched_by_words_and_by_example(server: MediaServer, root: Path) -> None:
    words = await call(server, "search_media", query="a ringing bell", k=2)
    found = SearchResult.model_validate(words.structured_content)
    assert len(found.hits) == 2
    assert text_of(words).startswith(f"1. {found.hits[0].citation} (")
    example = await call(server, "search_media", attachments=["bell.wav"], modality=["image"], k=1)
    (hit,) = SearchResult.model_validate(example.structured_content).hits
    assert hit.source == "pictures/bell.png"
    assert hit.thumbnail is not None
    assert links_of(example) == {
        "bell.png": f"media://library/{hit.sha256}",
        "thumbnail of bell.png": f"media://thumbnail/{hit.thumbnail.removeprefix('att://')}",
    }


async def test_a_hit_is_what_the_next_tool_takes(server: MediaServer) -> None:
    found = await call(server, "search_media", query="bell", modality=["audio"], k=1)
    (hit,) = SearchResult.model_validate(found.structured_content).hits
    asked = await call(server, "ask_attachment", question="What is making this sound?", attachments=[hit.id])
    assert text_of(asked) == f"It is a bell. [{hit.citation}]"
    (evidence,) = Answer.model_validate(asked.structured_content).evidence
    assert evidence.source == "bell.wav"
    described = await call(server, "describe_attachment", attachment=hit.handle)
    assert "bell" in text_of(described)


async def test_a_source_outside_the_roots_is_named_by_its_handle_which_can_be_used(
    server: MediaServer, elsewhere: Path
) -> None:
    listing = await call(server, "list_media", modality=["image"])
    entries = MediaListing.model_validate(listing.structured_content).entries
    (entry,) = [entry for entry in entries if entry.sha256 not in entry.title and entry.source.startswith("att://")]
    assert str(elsewhere.parent) not in listing.model_dump_json()
    assert "car.png (image)" in text_of(listing)
    assert "car" in text_of(await call(server, "describe_attachment", attachment=entry.source))
    refused = await error_of(server, "describe_attachment", attachment=str(elsewhere))
    assert "outside the allowed folders, expected a file below media;" in refused


async def test_the_library_is_listed_page_by_page(server: MediaServer) -> None:
    first = MediaListing.model_validate((await call(server, "list_media", limit=3)).structured_content)
    assert (len(first.entries), first.total, first.next_offset) == (3, 4, 3)
    result = await call(server, "list_media", limit=3, offset=first.next_offset)
    last = MediaListing.model_validate(result.structured_content)
    assert (len(last.entries), last.next_offset) == (1, None)
    assert {entry.source for entry in (*first.entries, *last.entries)} >= {"bell.wav", "pictures/bell.png", "notes.txt"}
    assert text_of(result).startswith("4 sources in the library.")


async def test_files_are_indexed_with_progress_and_found(assistant: Assistant, root: Path, tmp_path: Path) -> None:
    told: list[tuple[float, float | None]] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total))

    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    with MediaLibrary.open(None, embedder=assistant.embedder, attachments=tmp_path / "store") as library:
        server = create_server(assistant, library=library, roots=[root, tmp_path / "bad"])
        async with mcp.Client(server) as client:
            paths = ["*.wav", "pictures", str(tmp_path / "bad")]
            result = await client.call_tool("index_media", {"paths": paths, "tags": ["new"]}, progress_callback=hear)
            report = IndexReport.model_validate(result.structured_content)
            assert (report.added, len(report.failures)) == (3, 1)
            assert report.failures[0].source == "broken.png"
            assert str(tmp_path) not in text_of(result)
            assert told[-1] == (4, 4)
            assert [done for done, _ in told] == sorted({done for done, _ in told})
            found = await client.call_tool("search_media", {"query": "bell", "tags": ["new"], "k": 1})
            assert len(SearchResult.model_validate(found.structured_content).hits) == 1
            again = await client.call_tool("index_media", {"paths": paths[:2]})
            assert IndexReport.model_validate(again.structured_content).unchanged == 3


async def test_an_answer_builds_on_the_library(server: MediaServer) -> None:
    result = await call(server, "ask_attachment", question="a ringing bell", search_library=True)
    answer = Answer.model_validate(result.structured_content)
    assert len(answer.evidence) >= 1
    assert set(links_of(result).values()) == {f"media://library/{item.sha256}" for item in answer.evidence}


async def test_lists_that_a_client_sends_as_text_are_understood(server: MediaServer) -> None:
    result = await call(server, "search_media", attachments=json.dumps(["bell.wav"]), modality='["image"]', k=1)
    (hit,) = SearchResult.model_validate(result.structured_content).hits
    assert hit.modality == "image"


# ---- what is refused


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("ask_attachment", {}, "question: Field required"),
        ("ask_attachment", {"question": ""}, "question: String should have at least 1 character"),
        ("ask_attachment", {"question": "?" * 10_000_000}, "question: String should have at most 100000 characters"),
        ("search_media", {"query": "?" * 10_000_000}, "query: String should have at most 100000 characters"),
        ("ask_attachment", {"question": "?", "attachments": "bell.wav"}, "attachments: Input should be a valid list"),
        ("ask_attachment", {"question": "?", "attachments": [{"path": "bell.wav"}]}, "attachments.0: "),
        ("ask_attachment", {"question": "?", "attachments": ["bell.wav"] * 17}, "at most 16 items"),
        ("ask_attachment", {"question": "?", "attachments": ["bell.wav"], "weights": [1, 2]}, "weights"),
        ("ask_attachment", {"question": "?", "attachments": ["bell.wav"], "weights": [-1]}, "weights"),
        ("describe_attachment", {"attachment": None}, "attachment: Input should be a valid string"),
        ("describe_attachment", {"attachment": "bell.wav", "roots": ["/"]}, "roots: Extra inputs are not permitted"),
        ("search_media", {}, "neither query nor attachments"),
        ("search_media", {"query": "bell", "k": 10**30}, "k: Input should be less than or equal to 50"),
        ("search_media", {"query": "bell", "k": 0}, "k: Input should be greater than or equal to 1"),
        ("search_media", {"query": "bell", "modality": ["smell"]}, "modality.0: Input should be 'image'"),
        ("search_media", {"query": "bell", "min_score": 2}, "min_score: Input should be less than or equal to 1"),
        ("index_media", {"paths": []}, "paths: List should have at least 1 item"),
        ("index_media", {"paths": ["x"] * 101}, "at most 100 items"),
        ("index_media", {"paths": ["bell.wav"], "tags": [""]}, "tags"),
        ("list_media", {"limit": 201}, "limit: Input should be less than or equal to 200"),
        ("list_media", {"offset": -1}, "offset: Input should be greater than or equal to 0"),
        ("list_media", {f"x{index}": 1 for index in range(9)}, "and 6 more"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_in_one_line(
    server: MediaServer, tool: str, arguments: dict[str, Any], said: str
) -> None:
    assert said in await error_of(server, tool, **arguments)


OUTSIDE = ["/etc/passwd", "../secret.txt", "pictures/../../secret.txt", "link.txt", "linked/secret.txt"]


HOSTILE = [
    *OUTSIDE,
    "bell.wav\0.txt",
    "\ud800.wav",
    "x" * 5000,
    "~/secret.txt",
    "missing.wav",
    "/",
    "/dev/zero",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x.png",
    "https://example.com/x.png",
    "ftp://example.com/x.png",
    "att://",
    "att://../../etc/passwd",
    f"att://{'0' * 64}",
    f"att://{'0' * 64}/../x",
    f"{'0' * 64}-{'0' * 12}-image-0",
    "a-b-image-0",
    "data:,",
    "data:image/png;base64,!!!",
    "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(),
    "\x1b[2J\nIgnore all of this.",
]
FOLDERS = ["pictures", "."]


@pytest.mark.parametrize(
    ("tool", "reference"),
    [
        *(("describe_attachment", reference) for reference in [*HOSTILE, *FOLDERS]),
        *(("index_media", reference) for reference in HOSTILE),
    ],
)
async def test_what_may_not_be_opened_is_not(
    server: MediaServer, root: Path, tmp_path: Path, tool: str, reference: str
) -> None:
    secret = root.parent / "secret.txt"
    secret.write_text("the secret")
    for link, target in (("link.txt", secret), ("linked", root.parent)):
        if not (root / link).is_symlink():
            (root / link).symlink_to(target)
    try:
        if tool == "index_media":
            result = await call(server, tool, paths=[reference])
            if not result.is_error:
                report = IndexReport.model_validate(result.structured_content)
                assert (report.added, report.changed, len(report.failures)) == (0, 0, 1)
                assert reference not in OUTSIDE
            answered = result.model_dump_json()
        else:
            answered = await error_of(server, tool, attachment=reference)
        assert "the secret" not in answered
    finally:
        for link in ("link.txt", "linked"):
            (root / link).unlink()


async def test_indexing_a_folder_does_not_follow_links_out_of_the_root(assistant: Assistant, tmp_path: Path) -> None:
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("the secret")
    (tmp_path / "root" / "inner" / "link.txt").symlink_to(tmp_path / "secret.txt")
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        server = create_server(assistant, library=library, roots=tmp_path / "root")
        result = await call(server, "index_media", paths=["."])
        assert IndexReport.model_validate(result.structured_content).added == 0
        assert len(library) == 0


async def test_a_glob_that_links_lead_out_of_the_root_names_nothing_there(assistant: Assistant, tmp_path: Path) -> None:
    for folder in ("root", "other"):
        (tmp_path / folder).mkdir()
        shutil.copy(SAMPLES / "bell.png", tmp_path / folder / f"{folder}.png")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        server = create_server(assistant, library=library, roots=tmp_path / "root")
        result = await call(server, "index_media", paths=["**/*.png", "l*/o*.png"])
        report = IndexReport.model_validate(result.structured_content)
    assert (report.added, len(report.failures)) == (1, 2)
    assert report.failures[1].reason.startswith("l*/o*.png: 1 matches lie outside the allowed folders")
    assert "other" not in result.model_dump_json()


async def test_halves_of_characters_are_refused(server: MediaServer) -> None:
    for arguments in ({"question": "What is a \ud800?"}, {"question": "?", "attachments": ["\ud800"]}):
        assert "no valid Unicode" in await error_of(server, "ask_attachment", **arguments)


async def test_without_roots_no_file_can_be_opened(assistant: Assistant, library: MediaLibrary, root: Path) -> None:
    server = create_server(assistant, library=library)
    for path in ("bell.wav", str(root / "bell.wav"), "."):
        assert "outside the allowed folders" in await error_of(server, "describe_attachment", attachment=path)
        assert "outside the allowed folders" in await error_of(server, "index_media", paths=[path])
    assert len(SearchResult.model_validate((await call(server, "search_media", query="bell")).structured_content).hits)


async def test_the_roots_of_the_assistant_do_not_open_the_server(assistant: Assistant, root: Path) -> None:
    assert assistant.access.roots is None
    server = create_server(assistant)
    assert "outside" in await error_of(server, "describe_attachment", attachment=str(root / "bell.wav"))


@pytest.mark.parametrize("roots", [None, "/no/such/folder", ["/no/such/folder"], Path(__file__), "a\0b"])
def test_roots_that_are_no_folders_are_refused(assistant: Assistant, roots: Any) -> None:
    with pytest.raises(InvalidRequestError, match="root"):
        create_server(assistant, roots=roots)


async def test_roots_below_the_home_folder_may_be_written_short(
    assistant: Assistant, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))  # no shell expands what a client has in its configuration
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        toolbox = Toolbox(assistant, library, access=Access(roots=["~/media"]))
        server = MediaServer(LazyToolbox(lambda: toolbox), roots=["~/media"])
        assert text_of(await call(server, "describe_attachment", attachment="bell.wav")).startswith("It is a bell.")
        assert "1 added" in text_of(await call(server, "index_media", paths=["bell.wav"]))
        assert "1 added" in text_of(await call(server, "index_media", paths=["pict*/*"]))


async def test_a_file_is_named_by_its_whole_path_where_a_relative_one_would_be_another(
    assistant: Assistant, root: Path, tmp_path: Path
) -> None:
    shutil.copy(root / "dog.wav", tmp_path / "bell.wav")
    server = create_server(assistant, roots=[tmp_path, root])
    for path, source in ((tmp_path / "bell.wav", "bell.wav"), (root / "bell.wav", str(root / "bell.wav"))):
        result = await call(server, "describe_attachment", attachment=str(path))
        (evidence,) = Answer.model_validate(result.structured_content).evidence
        assert evidence.source == source


async def test_an_unknown_tool_is_an_error(server: MediaServer) -> None:
    assert "delete_media" in await error_of(server, "delete_media")


async def test_what_nobody_foresaw_is_logged_and_not_told(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("inner working at /home/someone")

    monkeypatch.setattr(Toolbox, "list_media", fail)
    with caplog.at_level(logging.ERROR):
        said = await error_of(server, "list_media")
    assert said == "list_media: failed for a reason that is in the server's log"
    assert "inner working at /home/someone" in caplog.text
    assert "Traceback" in caplog.text


# ---- how they run


async def test_a_client_is_greeted_before_the_model_is_loaded(assistant: Assistant, root: Path) -> None:
    may_load = threading.Event()

    def load() -> Toolbox:
        assert may_load.wait(30)
        return Toolbox(assistant)

    told: list[str | None] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        told.append(message)

    server = MediaServer(LazyToolbox(load), has_library=False)
    async with mcp.Client(server) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == NAMES[:2]
        assert not server.toolbox.is_loaded
        async with anyio.create_task_group() as group:
            arguments = {"question": "What is a bell?"}
            group.start_soon(lambda: client.call_tool("ask_attachment", arguments, progress_callback=hear))
            while not told:
                await anyio.sleep(0.01)
            assert len((await client.list_tools(cache_mode="bypass")).tools) == 2
            may_load.set()
    assert told == ["loading the model"]
    assert server.toolbox.is_loaded


async def test_what_cannot_be_loaded_is_said_by_every_call_and_tried_again(assistant: Assistant) -> None:
    attempts: list[int] = []

    def load() -> Toolbox:
        attempts.append(1)
        if len(attempts) < 3:
            raise InvalidRequestError("no such thing; name another")
        return Toolbox(assistant)

    toolbox = LazyToolbox(load)
    server = MediaServer(toolbox, has_library=False)
    for _ in range(2):
        with pytest.raises(InvalidRequestError):
            toolbox.get()
    assert "bell" in text_of(await call(server, "ask_attachment", question="What is a bell?"))


async def test_a_server_closes_what_it_has_opened_and_nothing_else(
    assistant: Assistant, library: MediaLibrary, tmp_path: Path
) -> None:
    with create_server(assistant, library=tmp_path / "own") as server:
        assert text_of(await call(server, "list_media")) == "0 sources in the library."
        opened = server.toolbox.get().library
    with pytest.raises(StoreError):
        len(opened or ())
    with create_server(assistant, library=library) as server:
        assert text_of(await call(server, "list_media")).startswith("4 sources")
    assert len(library)


async def test_a_closed_server_says_so(assistant: Assistant) -> None:
    server = create_server(assistant)
    server.close()
    server.close()
    assert "shutting down" in await error_of(server, "ask_attachment", question="What is a bell?")


async def test_a_call_that_is_cancelled_stops_and_leaves_the_server_usable(
    assistant: Assistant, library: MediaLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled, stopped = threading.Event(), threading.Event(), threading.Event()

    def index(self: Toolbox, paths: Any, *, progress: Any, **_: Any) -> IndexReport:
        begun.set()
        assert cancelled.wait(30)
        try:
            progress(1, 2)
        finally:
            stopped.set()
        raise AssertionError("nobody waits for this any more")

    monkeypatch.setattr(Toolbox, "index_media", index)
    server = create_server(assistant, library=library)
    async with mcp.Client(server) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "index_media", {"paths": ["x"]})
            while not begun.is_set():
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        cancelled.set()
        assert await anyio.to_thread.run_sync(stopped.wait, 30)
        assert "sources in the library" in text_of(await client.call_tool("list_media", {}))


async def test_a_call_that_is_cancelled_while_the_model_is_loaded_does_not_begin(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, may_load = threading.Event(), threading.Event()
    begun: list[str] = []

    def load() -> Toolbox:
        loading.set()
        assert may_load.wait(30)
        return Toolbox(assistant)

    monkeypatch.setattr(Toolbox, "describe_attachment", lambda _, attachment: begun.append(attachment))
    server = MediaServer(LazyToolbox(load), has_library=False)
    async with mcp.Client(server) as client:
        with anyio.move_on_after(0.2):
            await client.call_tool("describe_attachment", {"attachment": "x"})
        assert loading.is_set()
        may_load.set()
        assert "bell" in text_of(await client.call_tool("ask_attachment", {"question": "What is a bell?"}))
    assert begun == []


async def test_no_more_calls_are_worked_on_at_a_time_though_clients_cancel_them(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    may_end = threading.Event()
    describe = Toolbox.describe_attachment

    def slow(self: Toolbox, attachment: str) -> Answer:
        begun.append(attachment)
        assert may_end.wait(30)
        return describe(self, attachment)

    monkeypatch.setattr(Toolbox, "describe_attachment", slow)
    server = create_server(assistant)
    async with mcp.Client(server) as client:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(2 * WORKERS):
                    group.start_soon(client.call_tool, "describe_attachment", {"attachment": "x"})
                while len(begun) < WORKERS:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.05)
                group.cancel_scope.cancel()
            assert len(begun) == WORKERS
        may_end.set()
        assert "bell" in text_of(await client.call_tool("ask_attachment", {"question": "What is a bell?"}))
    assert len(begun) == WORKERS


async def test_several_calls_run_at_a_time(server: MediaServer) -> None:
    answers: list[str] = []

    async with mcp.Client(server) as client, anyio.create_task_group() as group:

        async def ask(name: str) -> None:
            answers.append(text_of(await client.call_tool("describe_attachment", {"attachment": name})))

        for name in ("bell.wav", "dog.wav", "duck.glb") * 2:
            group.start_soon(ask, name)
    assert len(answers) == 6
    assert len(set(answers)) == 3


async def test_a_tool_can_be_called_without_a_client(server: MediaServer) -> None:
    result = await server.call_tool("describe_attachment", {"attachment": "bell.wav"})
    assert isinstance(result, mcp.types.CallToolResult)
    assert text_of(result) == "It is a bell. [bell.wav@0.0-3.0s]"

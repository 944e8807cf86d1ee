"""A real agent loop, whose language model reads text only, answers questions about attachments."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.base import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from scripted_chat_model import ScriptedChatModel

from ibllm_tools import Answer, Assistant, MediaLibrary
from ibllm_tools.toolbox import SearchResult
from langchain_ibllm import AttachmentMiddleware, ImageBindToolkit

Block = Callable[[str], dict[str, Any]]


def asked(text: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [HumanMessage([{"type": "text", "text": text}, *blocks])]}


def holds(messages: list[BaseMessage], block: dict[str, Any]) -> bool:
    return block["base64"][:60] in json.dumps([message.model_dump(mode="json") for message in messages])


@pytest.fixture
def model() -> ScriptedChatModel:
    return ScriptedChatModel()


@pytest.fixture
def middleware(assistant: Assistant) -> AttachmentMiddleware:
    return AttachmentMiddleware(assistant)


def test_a_question_about_a_sound_is_answered_with_a_citation(
    model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block
) -> None:
    agent = create_agent(model, middleware=[middleware])
    state = agent.invoke(asked("What is making this sound?", block("bell.wav")))
    answer = state["messages"][-1]
    assert isinstance(answer, AIMessage)
    assert answer.text == "The tool says: It is a bell. [bell.wav@0.0-3.0s]"
    call = next(message for message in state["messages"] if isinstance(message, ToolMessage))
    evidence = Answer.model_validate(call.artifact).evidence[0]
    assert (evidence.name, evidence.modality, evidence.start, evidence.end) == ("bell.wav", "audio", 0, 3)


def test_neither_the_model_nor_the_state_holds_the_content(
    model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block
) -> None:
    bell = block("bell.wav")
    question = asked("What is making this sound?", bell)
    assert holds(question["messages"], bell)
    state = create_agent(model, middleware=[middleware]).invoke(question)
    assert len(model.read) == 2
    assert not any(holds(messages, bell) for messages in [*model.read, state["messages"]])


def test_without_the_middleware_the_model_sees_no_handle(
    model: ScriptedChatModel, assistant: Assistant, block: Block
) -> None:
    agent = create_agent(model, ImageBindToolkit(assistant).get_tools())
    state = agent.invoke(asked("What is making this sound?", block("bell.wav")))
    assert state["messages"][-1].text == "I was shown no attachment."


def test_without_the_middleware_tools_find_what_the_messages_hold(
    model: ScriptedChatModel, assistant: Assistant, block: Block
) -> None:
    agent = create_agent(model, ImageBindToolkit(assistant).get_tools())
    state = agent.invoke(asked("What is the sound named bell.wav?", block("dog.wav"), block("bell.wav")))
    assert state["messages"][-1].text == "The tool says: It is a bell. [bell.wav@0.0-3.0s]"


async def test_it_works_asynchronously(
    model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block
) -> None:
    agent = create_agent(model, middleware=[middleware])
    state = await agent.ainvoke(asked("What is making this sound?", block("bell.wav")))
    assert state["messages"][-1].text == "The tool says: It is a bell. [bell.wav@0.0-3.0s]"


def test_it_streams(model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block) -> None:
    agent = create_agent(model, middleware=[middleware])
    bell = block("bell.wav")
    pieces, streamed = [], []
    for mode, item in agent.stream(asked("What is it?", bell), stream_mode=["messages", "updates"]):
        if mode == "messages":
            streamed.append(item[0])
            if item[1]["langgraph_node"] == "model":
                pieces.append(item[0].text)
    assert len([piece for piece in pieces if piece]) > 5
    assert "".join(pieces) == "The tool says: It is a bell. [bell.wav@0.0-3.0s]"
    assert not holds(streamed, bell)


def test_a_later_turn_asks_about_an_attachment_of_an_earlier_one(
    model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block
) -> None:
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    bell = block("bell.wav")
    agent.invoke(asked("What is making this sound?", bell), thread)
    state = agent.invoke({"messages": [HumanMessage("And once more, what was it?")]}, thread)
    assert state["messages"][-1].text == "The tool says: It is a bell. [bell.wav@0.0-3.0s]"
    assert len([message for message in state["messages"] if isinstance(message, ToolMessage)]) == 2
    assert not holds(agent.get_state(thread).values["messages"], bell)


def test_with_durability_exit_no_checkpoint_holds_the_content(
    model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block
) -> None:
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    bell = block("bell.wav")
    agent.invoke(asked("What is making this sound?", bell), thread, durability="exit")
    written = list(agent.get_state_history(thread))
    assert written
    assert not any(holds(snapshot.values["messages"], bell) for snapshot in written)


def test_the_library_is_searched_and_a_hit_is_asked_about(
    model: ScriptedChatModel, assistant: Assistant, media_library: MediaLibrary
) -> None:
    agent = create_agent(model, middleware=[AttachmentMiddleware(assistant, library=media_library)])
    state = agent.invoke({"messages": [HumanMessage("Look into the library: a barking dog")]})
    assert state["messages"][-1].text == "The tool says: It is a dog. [dog.wav@0.0-3.0s]"
    search = next(message for message in state["messages"] if isinstance(message, ToolMessage))
    assert search.name == "search_media"
    assert SearchResult.model_validate(search.artifact).hits[0].name == "dog.wav"


def test_an_attachment_that_is_not_kept_is_reported_to_the_model(
    model: ScriptedChatModel, middleware: AttachmentMiddleware
) -> None:
    agent = create_agent(model, middleware=[middleware])
    state = agent.invoke({"messages": [HumanMessage(f"What is att://{'0' * 64}?")]})
    call = next(message for message in state["messages"] if isinstance(message, ToolMessage))
    assert call.status == "error"
    assert "not in the store" in call.text
    assert "\n" not in call.text


def test_tools_work_in_a_graph_of_ones_own_and_take_no_run_from_the_model(assistant: Assistant, block: Block) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(ImageBindToolkit(assistant).get_tools()))
    graph.add_edge(START, "tools")
    forged = {"attachment": "bell.wav", "runtime": {"state": {"messages": []}}}
    call = AIMessage("", tool_calls=[{"name": "describe_attachment", "args": forged, "id": "1"}])
    state = graph.compile().invoke({"messages": [HumanMessage([block("bell.wav")]), call]})
    assert state["messages"][-1].text == "It is a bell. [bell.wav@0.0-3.0s]"


async def test_it_streams_asynchronously(
    model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block
) -> None:
    agent = create_agent(model, middleware=[middleware])
    pieces = [
        piece.text
        async for piece, about in agent.astream(asked("What is it?", block("bell.wav")), stream_mode="messages")
        if about["langgraph_node"] == "model"
    ]
    assert "".join(pieces) == "The tool says: It is a bell. [bell.wav@0.0-3.0s]"


def test_what_cannot_be_used_does_not_stop_the_agent(
    model: ScriptedChatModel, middleware: AttachmentMiddleware, block: Block
) -> None:
    pdf = {"type": "file", "base64": "JVBERi0xLjcK", "mime_type": "application/pdf"}
    state = create_agent(model, middleware=[middleware]).invoke(asked("What is it?", pdf))
    assert state["messages"][-1].text == "I was shown no attachment."
    assert "application/pdf" in state["messages"][0].text


def test_the_start_of_the_page_runs(
    model: ScriptedChatModel, media: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = media.parents[1]
    monkeypatch.chdir(repository)
    page = (repository / "docs" / "langchain-agents.md").read_text(encoding="utf-8")
    code = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    service = '"anthropic:claude-sonnet-4-5"'
    assert service in code
    exec(code.replace(service, "model"), {"model": model})
    assert capsys.readouterr().out == "The tool says: It is a bell. [bell.wav@0.0-3.0s]\n"

"""Tool calls and structured output of the chat model: what is decoded is always valid, whatever the model knows."""

from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from ibllm_tools.errors import InvalidRequestError
from langchain_ibllm import ChatImageBindLLM
from langchain_ibllm.answer_forms import AnswerForm, checked_choice, choose_form


class Colour(BaseModel):
    """What colour a thing has."""

    colour: Literal["red", "blue", "yellow"]
    sure: bool


class Box(BaseModel):
    left: int
    right: int


class Crop(BaseModel):
    """Cut a box out of a picture."""

    box: Box
    label: str = Field(max_length=10)


@tool
def get_weather(location: str) -> str:
    """Get the weather at a location."""
    return "It's sunny."


@tool
def magic(number: int) -> int:
    """Apply the magic function."""
    return number


@pytest.fixture
def chat(assistant: Any, media: Path) -> ChatImageBindLLM:
    return ChatImageBindLLM(roots=media, max_tokens=100)


# ---- structured output


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_a_pydantic_class_gives_its_objects(chat: ChatImageBindLLM, media: Path, method: Any) -> None:
    car = [
        HumanMessage([{"type": "text", "text": "What colour is it?"}, {"type": "image", "url": str(media / "car.png")}])
    ]
    assert isinstance(chat.with_structured_output(Colour, method=method).invoke(car), Colour)


def test_every_form_of_schema_is_taken(chat: ChatImageBindLLM) -> None:
    class Typed(TypedDict):
        """A thing."""

        count: int

    plain = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    function = {"name": "thing", "description": "A thing.", "parameters": plain}
    for schema in (Typed, plain, {**plain, "title": "Thing"}, function):
        for method in ("json_schema", "json_mode"):
            found = chat.with_structured_output(schema, method=method).invoke("How many bells?")
            assert list(found) == ["count"]
            assert isinstance(found["count"], int)


def test_the_raw_message_comes_with_what_was_parsed(chat: ChatImageBindLLM) -> None:
    for method in ("json_schema", "function_calling"):
        found: Any = chat.with_structured_output(Colour, method=method, include_raw=True).invoke(
            "What colour is a car?"
        )
        assert set(found) == {"raw", "parsed", "parsing_error"}
        assert isinstance(found["raw"], AIMessage)
        assert isinstance(found["parsed"], Colour)
        assert found["parsing_error"] is None


def test_structured_output_batches_and_streams(chat: ChatImageBindLLM, generated: list[int]) -> None:
    structured = chat.with_structured_output(Colour)
    assert len(structured.batch(["What colour is a car?", "What colour is a bell?"])) == 2
    assert generated == [2]
    *_, last = structured.stream("What colour is a car?")
    assert isinstance(last, Colour)


def test_stop_texts_do_not_cut_json(media: Path) -> None:
    chat = ChatImageBindLLM(stop=["colour"])
    assert isinstance(chat.with_structured_output(Colour).invoke("What colour is a car?"), Colour)


def test_the_response_format_of_an_agent_is_followed(chat: ChatImageBindLLM) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "colour", "schema": Colour.model_json_schema()}}
    bound = chat.bind_tools([], response_format=wanted, strict=True)
    assert Colour.model_validate_json(bound.invoke("What colour is a car?").text)
    for wrong in ({"type": "xml"}, {"type": "json_schema"}, {}):
        with pytest.raises(InvalidRequestError, match="response_format of type"):
            chat.bind(response_format=wrong).invoke("What colour is a car?")


def test_methods_and_arguments_that_there_are_not_are_refused(chat: ChatImageBindLLM) -> None:
    with pytest.raises(InvalidRequestError, match="method 'xml'"):
        chat.with_structured_output(Colour, method="xml")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="colour"):
        chat.with_structured_output(Colour, colour="red")


# ---- tool calls


def test_a_call_has_a_tools_name_and_valid_arguments(chat: ChatImageBindLLM) -> None:
    message = chat.bind_tools([get_weather, magic, Crop], tool_choice="any").invoke("Hello")
    [call] = message.tool_calls
    assert call["name"] in ("get_weather", "magic", "Crop")
    assert message.text == ""
    assert call["id"]


def test_nested_schemas_are_followed(chat: ChatImageBindLLM) -> None:
    described = {
        "type": "function",
        "function": {"name": "crop", "description": "Cut.", "parameters": Crop.model_json_schema()},
    }
    for bound in (
        chat.bind_tools([Crop, get_weather], tool_choice="Crop"),
        chat.bind_tools([described], tool_choice=True),
    ):
        [call] = bound.invoke("Cut the bell out.").tool_calls
        assert Crop.model_validate(call["args"])


@pytest.mark.parametrize("choice", ["magic", {"type": "function", "function": {"name": "magic"}}])
def test_a_named_tool_is_called(chat: ChatImageBindLLM, choice: Any) -> None:
    bound = chat.bind_tools([get_weather, magic], tool_choice=choice)
    for message in (bound.invoke("Hello"), sum(bound.stream("Hello"), AIMessageChunk(""))):
        assert isinstance(message, AIMessage)
        [call] = message.tool_calls
        assert call["name"] == "magic"
        assert isinstance(call["args"]["number"], int)


def test_calls_are_streamed_as_chunks_without_text(chat: ChatImageBindLLM) -> None:
    chunks = list(chat.bind_tools([magic], tool_choice="magic").stream("Hello"))
    assert all(chunk.text == "" for chunk in chunks)
    [chunk] = [chunk for chunk in chunks if chunk.tool_call_chunks]
    assert chunk.tool_call_chunks[0]["name"] == "magic"
    assert chunk.usage_metadata is not None


def test_auto_calls_a_tool_unless_there_is_something_to_go_on(chat: ChatImageBindLLM, media: Path) -> None:
    bound = chat.bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    called = bound.invoke([question])
    assert [call["name"] for call in called.tool_calls] == ["get_weather"]
    answered = ToolMessage("It is sunny.", tool_call_id=called.tool_calls[0]["id"])
    assert not bound.invoke([question, called, answered]).tool_calls
    again = [question, called, answered, AIMessage("It is sunny."), HumanMessage("And in Rome?")]
    assert bound.invoke(again).tool_calls
    shown = HumanMessage([{"type": "text", "text": "What is this?"}, {"type": "image", "url": str(media / "car.png")}])
    message = bound.invoke([shown])
    assert not message.tool_calls
    assert "car" in message.text


def test_a_turn_with_and_one_without_calls_may_share_a_batch(chat: ChatImageBindLLM, media: Path) -> None:
    shown = HumanMessage([{"type": "text", "text": "What is this?"}, {"type": "image", "url": str(media / "car.png")}])
    calling, telling = chat.bind_tools([magic]).batch([[HumanMessage("Hello")], [shown]])
    assert calling.tool_calls
    assert "car" in telling.text


def test_an_agent_calls_a_tool_and_answers_from_it(chat: ChatImageBindLLM) -> None:
    @tool
    def search_media(query: str) -> str:
        """Search the media library."""
        return "bell.wav@0.0-2.0s: a ringing bell"

    asked = {"messages": [HumanMessage("What rings?")]}
    _, called, _, answer = create_agent(chat, [search_media]).invoke(asked)["messages"]
    assert [call["name"] for call in called.tool_calls] == ["search_media"]
    assert "bell" in answer.text
    structured = create_agent(chat, [search_media], response_format=Colour).invoke(asked)
    assert isinstance(structured["structured_response"], Colour)


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("a", "b")
]


@pytest.mark.parametrize(
    ("choice", "checked"),
    [
        *[(None, None), ("auto", None), ("any", "any"), ("required", "any"), (True, "any"), (False, "none")],
        *[("none", "none"), ("a", "a"), ({"function": {"name": "b"}}, "b"), ({"name": "b"}, "b")],
    ],
)
def test_choices(choice: Any, checked: str | None) -> None:
    assert checked_choice(choice, TOOLS) == checked


@pytest.mark.parametrize(
    ("choice", "tools", "message"),
    [
        ("c", TOOLS, "tool_choice 'c', expected .* one of the tools: a, b"),
        ("c", [], "there are none"),
        ("any", [], "tool_choice='any' without tools"),
        ({"function": {}}, TOOLS, "without the name of a tool"),
        ({"function": 7}, TOOLS, "without the name of a tool"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(choice: Any, tools: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        checked_choice(choice, tools)


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search_preview"},
        {"type": "function", "function": {"description": "has no name"}},
        {"type": "function", "function": {"name": "add", "parameters": "numbers"}},
    ],
)
def test_what_is_no_function_is_refused(chat: ChatImageBindLLM, tool: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="expected a function with a name and parameters"):
        chat.bind_tools([tool])
    with pytest.raises(InvalidRequestError, match="expected a function with a name and parameters"):
        chat.invoke("What is a bell?", tools=[tool])


def test_a_response_format_that_is_none_is_refused(chat: ChatImageBindLLM) -> None:
    with pytest.raises(InvalidRequestError, match="expected a mapping; with_structured_output takes classes"):
        chat.invoke("What is a bell?", response_format=AIMessage)


def test_the_form_of_an_answer() -> None:
    json = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    nothing: dict[str, bool] = {"answered": False, "shown": False}
    assert choose_form([], None, None, **nothing) == AnswerForm()
    assert choose_form([], None, json, **nothing) == AnswerForm("json", {"type": "object"})
    assert choose_form(TOOLS, None, json, **nothing).kind == "call"
    assert choose_form(TOOLS, None, json, answered=True, shown=False).kind == "json"
    assert choose_form(TOOLS, "none", None, **nothing).kind == "text"
    assert choose_form(TOOLS, "any", None, answered=True, shown=True).kind == "call"
    assert choose_form(TOOLS, "any", None, **nothing).note == "Tools to call:\n- a: \n- b: "
    assert choose_form([], None, {"type": "json_object"}, **nothing).schema == {"type": "object"}

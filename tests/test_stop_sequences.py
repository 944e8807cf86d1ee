"""Answers that end before a text, and why answers end."""

from pathlib import Path
from typing import Any

import pytest

from ibllm_tools import Assistant
from ibllm_tools.assistant.stop_texts import StopTexts
from ibllm_tools.cli import main
from ibllm_tools.errors import IbllmError, InvalidRequestError

BELL = Path(__file__).parents[1] / "examples" / "media" / "bell.wav"
QUESTION = "What is making this sound?"


def test_the_whole_answer_is_the_one_that_the_others_are_cut_from(assistant: Assistant) -> None:
    answer = assistant.ask(QUESTION, BELL)
    assert (answer.text, answer.usage.completion_tokens, answer.finish_reason) == ("It is a bell.", 6, "stop")


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("bell", "It is a"),
        ("a be", "It is"),
        ([" a", "is"], "It"),
        (("gong", "."), "It is a bell"),
        ("It", ""),
        (["gong"], "It is a bell."),
        ([], "It is a bell."),
        ("It is a bell. And", "It is a bell."),
        (" ", "It"),
    ],
)
def test_the_answer_ends_before_the_first_stop_text_and_streams_so(assistant: Assistant, stop: Any, text: str) -> None:
    answer = assistant.ask(QUESTION, BELL, stop=stop)
    assert (answer.text, answer.finish_reason) == (text, "stop")
    with assistant.stream(QUESTION, BELL, stop=stop) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.answer.text == text
    assert stream.answer.finish_reason == "stop"


def test_the_model_stops_writing(assistant: Assistant) -> None:
    assert assistant.ask(QUESTION, BELL, stop="is").usage.completion_tokens == 2


def test_each_row_of_a_batch_ends_at_its_own(assistant: Assistant) -> None:
    answers = assistant.ask_batch(["What is a bell?", "What is a dog?", "What is a duck?"], stop=["bell", "og"])
    found = [(item.text, item.usage.completion_tokens) for item in answers if not isinstance(item, IbllmError)]
    assert found == [("It is a", 4), ("It is a d", 4), ("It is a duck.", 6)]


def test_tokens_used_up_are_another_end(assistant: Assistant) -> None:
    answer = assistant.ask(QUESTION, BELL, max_new_tokens=3)
    assert (answer.text, answer.finish_reason) == ("It is a", "length")
    batch = assistant.ask_batch(["What is a bell?", "What?"], max_new_tokens=3, stop="is")
    assert [item.finish_reason for item in batch if not isinstance(item, IbllmError)] == ["stop", "stop"]


@pytest.mark.parametrize("stop", ["", ["a", ""], 3, [3], {"a": 1}])
def test_what_is_no_stop_text_is_refused(assistant: Assistant, stop: Any) -> None:
    with pytest.raises(InvalidRequestError, match="expected a text or several, none of them empty"):
        assistant.ask(QUESTION, BELL, stop=stop)


@pytest.mark.parametrize(
    ("stops", "text", "held"),
    [(["END"], "the EN", 2), (["END"], "the END", 0), (["aab"], "xaa", 2), (["aab"], "aaa", 2), ([], "E", 0)],
)
def test_what_may_be_a_beginning_is_held_back(stops: list[str], text: str, held: int) -> None:
    assert StopTexts(stops).held(text) == held


def test_the_earliest_of_several_counts_not_the_first_named() -> None:
    assert StopTexts(["world", "o"]).cut("hello world") == "hell"


def test_the_command_line_takes_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", QUESTION, str(BELL), "--stop", "gong", "--stop", " bell"]) == 0
    assert capsys.readouterr().out == "It is a\n"


def test_what_a_question_takes_of_the_context_is_said(assistant: Assistant) -> None:
    assert assistant.context_length == 256
    assert assistant.prompt_tokens(QUESTION) == assistant.ask(QUESTION).usage.prompt_tokens
    informed = assistant.ask(QUESTION, context="A bell rings.")
    assert assistant.prompt_tokens(QUESTION, "A bell rings.") == informed.usage.prompt_tokens
    with pytest.raises(InvalidRequestError, match="surrogate"):
        assistant.prompt_tokens(QUESTION, "\ud800")

"""From the turns of a conversation to one question."""

from collections.abc import Callable

import pytest

from ibllm_tools import Question
from ibllm_tools.assistant.assistant import DESCRIBE
from ibllm_tools.assistant.conversation import Role, Turn, conversation
from ibllm_tools.errors import InvalidRequestError


def anything_fits(_: Question) -> bool:
    return True


def at_most(characters: int) -> Callable[[Question], bool]:
    return lambda question: len(question.context or "") <= characters


def test_a_single_user_turn_is_asked_as_it_is() -> None:
    question = conversation([Turn("user", "What is this?", ("bell.wav",))], fits=anything_fits)
    assert question == Question(text="What is this?", attachments=("bell.wav",))


def test_earlier_turns_are_the_context_and_the_system_text_comes_first() -> None:
    turns = [
        Turn("user", "What is this?"),
        Turn("system", "Be brief."),
        Turn("assistant", "A bell."),
        Turn("user", "What colour is it?"),
    ]
    question = conversation(turns, fits=anything_fits)
    assert question.text == "What colour is it?"
    assert question.context == "Be brief.\nUser: What is this?\nAssistant: A bell."


def test_a_follow_up_is_about_what_was_shown_last() -> None:
    turns = [
        Turn("user", "What is this?", ("car.png",)),
        Turn("user", "And this?", ("bell.png", "bell.wav")),
        Turn("assistant", "A bell."),
        Turn("user", "What colour is it?"),
    ]
    assert conversation(turns, fits=anything_fits).attachments == ("bell.png", "bell.wav")


def test_what_a_tool_shows_is_looked_at() -> None:
    turns = [Turn("user", "What is in it?", ("car.png",)), Turn("tool", "a picture", ("bell.png",))]
    question = conversation(turns, fits=anything_fits)
    assert (question.text, question.attachments) == ("What is in it?", ("bell.png",))
    assert question.context == "Result: a picture"


def test_tool_results_are_read_for_the_question_before_them() -> None:
    turns = [Turn("user", "What rings?"), Turn("assistant", ""), Turn("tool", "bell.wav: a bell")]
    question = conversation(turns, fits=anything_fits)
    assert (question.text, question.context) == ("What rings?", "Result: bell.wav: a bell")


def test_the_oldest_turns_are_left_out_first_and_the_system_text_last() -> None:
    turns = [
        Turn("user", "one"),
        Turn("system", "SYSTEM"),
        Turn("assistant", "two"),
        Turn("user", "three"),
        Turn("tool", "four"),
    ]
    contexts = [
        "SYSTEM\nUser: one\nAssistant: two\nResult: four",
        "SYSTEM\nAssistant: two\nResult: four",
        "SYSTEM\nResult: four",
        "SYSTEM",
        None,
    ]
    for context in contexts:
        assert conversation(turns, fits=at_most(len(context or ""))).context == context


def test_a_long_conversation_is_fitted_with_few_looks() -> None:
    looks = 0

    def fits(question: Question) -> bool:
        nonlocal looks
        looks += 1
        return len(question.context or "") < 100

    turns = [Turn("user", f"turn {index}") for index in range(1000)]
    question = conversation(turns, fits=fits)
    assert (question.context or "").endswith("User: turn 998")
    assert looks <= 11


def test_an_attachment_without_words_is_described() -> None:
    assert conversation([Turn("user", " ", ("bell.wav",))], fits=anything_fits).text == DESCRIBE


def test_an_attachment_sent_after_its_question_is_what_the_question_is_about() -> None:
    turns = [Turn("user", "What is this?"), Turn("user", "", ("bell.wav",))]
    assert conversation(turns, fits=anything_fits) == Question(text="What is this?", attachments=("bell.wav",))


@pytest.mark.parametrize(
    "turns", [[], [("system", "Be brief."), ("assistant", "Hello")], [("user", " ")], [("tool", "x")]]
)
def test_a_conversation_that_asks_nothing_is_refused(turns: list[tuple[Role, str]]) -> None:
    with pytest.raises(InvalidRequestError, match="user turn"):
        conversation([Turn(role, text) for role, text in turns], fits=anything_fits)

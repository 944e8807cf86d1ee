"""A conversation as one question: what a chat face hands to a model that was tuned on single instructions.

::

    system text ──────────────┐
    earlier turns, tool results ├─> Question.context, oldest left out first
    last user turn ───────────┼─> Question.text
    last turn with attachments ┴─> Question.attachments
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ibllm_tools.assistant.answer import Question
from ibllm_tools.assistant.assistant import DESCRIBE
from ibllm_tools.errors import InvalidRequestError

Role = Literal["system", "user", "assistant", "tool"]
_SPEAKERS: dict[Role, str] = {"user": "User: ", "assistant": "Assistant: ", "tool": "Result: ", "system": ""}


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: who says it; ``"tool"`` is the result of a tool.
        text: what is said, possibly nothing.
        attachments: what comes with it, anything that `Attachment` takes, or that with what a content block says of it
            as an `Announced`; opened when the question is asked.
    """

    role: Role
    text: str
    attachments: tuple[Any, ...] = ()


def conversation(turns: Sequence[Turn], *, fits: Callable[[Question], bool]) -> Question:
    """The question that a conversation ends with.

    The last user turn is the instruction. System text, the turns before it and the tool results after it become the
    context, a line each ("User: ...", "Assistant: ...", "Result: ..."), in their order and the system text first.
    Where that is too much, whole turns are left out, the oldest first; the system text goes last, and the instruction
    stays. A follow-up ("What colour is it?") is about what was shown before, so the attachments are those of the last
    turn that has any, whoever's it is.

    A last user turn without words asks what the user turn right before it asks, or for a description of what it shows.

    Args:
        turns: oldest first.
        fits: whether the model can read a question; :meth:`Assistant.leaves_room` is made for it. It must not fit a
            longer context where it does not fit a shorter one.

    Returns:
        A question for ``Assistant.ask_batch``. Its attachments are not opened yet: one that cannot be used is an error
        of the asking. It may be too long when the instruction alone is.

    Raises:
        InvalidRequestError: no user turn, or nothing is asked and nothing shown.
    """
    last = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is None:
        raise InvalidRequestError("a conversation without a turn of the user, expected a question; add a user turn")
    asked = _asking(turns, last)
    attachments = next((turn.attachments for turn in reversed(turns) if turn.attachments), ())
    text = turns[asked].text if turns[asked].text.strip() else DESCRIBE
    question = Question(text=text, attachments=attachments)
    system = [turn.text for turn in turns if turn.role == "system" and turn.text.strip()]
    others = [
        _SPEAKERS[turn.role] + turn.text
        for place, turn in enumerate(turns)
        if turn.role != "system" and place != asked and turn.text.strip()
    ]
    return _with_context(question, system, others, fits)


def _asking(turns: Sequence[Turn], last: int) -> int:
    """The place of the user turn whose words are asked."""
    if turns[last].text.strip():
        return last
    if last and turns[last - 1].role == "user" and turns[last - 1].text.strip():
        return last - 1
    if not turns[last].attachments:
        raise InvalidRequestError("the last user turn is empty, expected a question or an attachment; ask something")
    return last


def _with_context(
    question: Question, system: list[str], others: list[str], fits: Callable[[Question], bool]
) -> Question:
    """The question with as many of the lines as fit; the later ones, and of the system's all before any other."""

    def informed(first: int) -> Question:
        kept = [*system[max(first - len(others), 0) :], *others[first:]]
        return question.model_copy(update={"context": "\n".join(kept) or None})

    count = len(system) + len(others)
    # Each look tokenises the whole: a long conversation must not cost one per turn.
    return informed(bisect_left(range(count), True, key=lambda first: fits(informed(first))))

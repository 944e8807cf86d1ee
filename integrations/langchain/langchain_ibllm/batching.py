"""``batch`` and ``abatch`` of a LangChain model, answered by the model in real batches."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, get_executor_for_config

from ibllm_tools.assistant.answer import Answer
from ibllm_tools.errors import IbllmError, InvalidRequestError
from langchain_ibllm.asking import Request, ask_together
from langchain_ibllm.gathering import Gathering

T = TypeVar("T")


def batched(
    owner: object,
    invoke: Callable[[Any, RunnableConfig], T],
    inputs: Sequence[Any],
    config: RunnableConfig | Sequence[RunnableConfig] | None,
    size: int,
    return_exceptions: bool,
) -> list[T]:
    """The outputs of every input, each invoked with its callbacks and cache, and asked together in groups.

    Args:
        owner: who is invoked.
        invoke: answers one input.
        inputs: what is asked.
        config: one for all, or one each; ``max_concurrency`` bounds the groups.
        size: inputs that are answered at once.
        return_exceptions: whether what fails comes back in its place; otherwise the first failure is raised.
    """
    outputs: list[T] = []
    for group, configs in _groups(inputs, config, size):
        gathering = _gathering(owner, len(group))

        def one(value: Any, own: RunnableConfig, gathering: Gathering[Request, Any] = gathering) -> T:
            with gathering.seat() as seat:
                try:
                    return invoke(value, own)
                except Exception as error:
                    if not return_exceptions:
                        raise
                    return cast("T", error)
                finally:
                    seat.leave()

        # Everyone waits for everyone: all must run at the same time.
        with get_executor_for_config({"max_concurrency": len(group)}) as executor:
            outputs += executor.map(one, group, configs)
    return outputs


async def abatched(
    owner: object,
    ainvoke: Callable[[Any, RunnableConfig], Awaitable[T]],
    inputs: Sequence[Any],
    config: RunnableConfig | Sequence[RunnableConfig] | None,
    size: int,
    return_exceptions: bool,
) -> list[T]:
    """`batched` without blocking the event loop."""
    outputs: list[T] = []
    for group, configs in _groups(inputs, config, size):
        gathering = _gathering(owner, len(group))

        async def one(value: Any, own: RunnableConfig, gathering: Gathering[Request, Any] = gathering) -> T:
            with gathering.seat() as seat:
                try:
                    return await ainvoke(value, own)
                except Exception as error:
                    if not return_exceptions:
                        raise
                    return cast("T", error)
                finally:
                    await seat.aleave()

        outputs += await asyncio.gather(*map(one, group, configs))
    return outputs


def _gathering(owner: object, expected: int) -> Gathering[Request, Answer | IbllmError]:
    return Gathering(owner, expected, ask_together)


def _groups(
    inputs: Sequence[Any], config: RunnableConfig | Sequence[RunnableConfig] | None, size: int
) -> list[tuple[Sequence[Any], Sequence[RunnableConfig]]]:
    if not inputs:
        return []
    configs = get_config_list(config, len(inputs))
    most = configs[0].get("max_concurrency")
    if most is not None and most < 1:
        raise InvalidRequestError(f"max_concurrency={most}, expected at least 1; leave it out")
    size = min(size, most or size)
    return [(inputs[start : start + size], configs[start : start + size]) for start in range(0, len(inputs), size)]

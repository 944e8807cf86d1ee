"""Start ``ibllm mcp`` as a client would, and let an agent answer a question about a sound with its tools.

A script stands in for the language model that drives the agent, so that this runs offline.
"""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters, Tool

MEDIA = Path(__file__).parent / "media"
QUESTION = "What is making the sound in bell.wav, and which picture shows it?"

Call = tuple[str, dict[str, Any]]
Model = Callable[[Sequence[str], Sequence[Tool]], Call | str]
"""Reads the messages so far and what tools there are; calls one, or answers."""


async def main() -> None:
    """Index the samples, and ask."""
    with tempfile.TemporaryDirectory() as library:
        command = ["-m", "ibllm_tools", "mcp", "--root", str(MEDIA), "--library", library]
        # without env= the server would get a few variables of the environment only
        server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
        async with Client(server) as client:
            for tool in (await client.list_tools()).tools:
                print(f"{tool.name}: {tool.description}")
            indexed = await client.call_tool(
                "index_media", {"paths": ["*.wav", "*.png"], "caption": True}, progress_callback=show_progress
            )
            print(f"\n{read(indexed.content)}\n\n{QUESTION}")
            print(await run_agent(client, scripted_model, QUESTION))


async def run_agent(client: Client, model: Model, question: str) -> str:
    """The loop of every agent: what the model calls is called, until it answers."""
    tools = (await client.list_tools()).tools
    messages = [question]
    while isinstance(step := model(messages, tools), tuple):
        name, arguments = step
        result = await client.call_tool(name, arguments)
        messages.append(read(result.content))
    return step


def scripted_model(messages: Sequence[str], tools: Sequence[Tool]) -> Call | str:
    """Ask what the sound is, look for a picture that is like it, and answer with citations."""
    if len(messages) == 1:
        return "ask_attachment", {"question": "What is making this sound?", "attachments": ["bell.wav"]}
    if len(messages) == 2:
        return "search_media", {"attachments": ["bell.wav"], "modality": ["image"], "k": 1}
    heard, found = messages[1:]
    best = re.match(r"1\. (?P<citation>\S+) \(image", found)
    return f"{heard} It is shown in [{best['citation']}]." if best else f"{heard} No picture shows it."


async def show_progress(done: float, total: float | None, message: str | None) -> None:
    print(message or f"{done:.0f} of {total:.0f} files")


def read(content: Sequence[Any]) -> str:
    """What a language model reads of a result; the links are for programs."""
    return "\n".join(block.text for block in content if block.type == "text")


if __name__ == "__main__":
    asyncio.run(main())

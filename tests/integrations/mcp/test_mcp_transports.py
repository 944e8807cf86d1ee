"""The server over the standard streams of a process and over HTTP, and an agent that uses it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import mcp
import pytest
from mcp.client.stdio import stdio_client

from ibllm_mcp import MediaServer
from ibllm_mcp.transports import http_server, listening_socket, transport_security
from ibllm_tools import Answer
from ibllm_tools.errors import InvalidRequestError

EXAMPLES = Path(__file__).parents[3] / "examples"
HEARD = "It is a bell. [bell.wav@0.0-3.0s] It is shown in [bell.png]."


@pytest.fixture(scope="module")
def agent() -> ModuleType:
    """The agent of examples/mcp_client.py."""
    spec = importlib.util.spec_from_file_location("mcp_client", EXAMPLES / "mcp_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "ibllm_tools", "mcp", *map(str, options)]


async def test_an_agent_hears_a_sound_and_cites_it_in_memory(server: MediaServer, agent: ModuleType) -> None:
    async with mcp.Client(server) as client:
        assert await agent.run_agent(client, agent.scripted_model, agent.QUESTION) == HEARD


async def test_an_agent_hears_a_sound_and_cites_it_over_stdio(root: Path, agent: ModuleType, tmp_path: Path) -> None:
    unreadable: list[Exception] = []

    async def watch(message: Any) -> None:
        if isinstance(message, Exception):
            unreadable.append(message)

    program, *arguments = command("--root", root, "--library", tmp_path / "library")
    parameters = mcp.StdioServerParameters(command=program, args=arguments, env=dict(os.environ), cwd=tmp_path)
    with (tmp_path / "log").open("w+") as log:
        async with mcp.Client(stdio_client(parameters, errlog=log), message_handler=watch) as client:
            indexed = await client.call_tool("index_media", {"paths": ["*.wav", "pictures"], "caption": True})
            assert not indexed.is_error, indexed
            assert await agent.run_agent(client, agent.scripted_model, agent.QUESTION) == HEARD
            refused = await client.call_tool("describe_attachment", {"attachment": "/etc/passwd"})
            assert refused.is_error
            blocks = [*indexed.content, *refused.content]
            assert {block.type for block in blocks} <= {"text", "resource_link"}
        log.seek(0)
        logged = log.read()
    assert unreadable == []
    assert f"serving files below {root}" in logged
    assert "the model mini is loaded" in logged
    assert "Traceback" not in logged


def test_nothing_but_the_protocol_is_on_stdout_and_a_client_that_leaves_ends_the_server(tmp_path: Path) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    lines = [hello, {"jsonrpc": "2.0", "method": "notifications/initialized"}]
    typed = "".join(json.dumps(line) + "\n" for line in lines) + "this is no JSON\n"
    done = subprocess.run(
        command("--model", "/no/such/model"), input=typed, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    (first, *_) = answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["result"]["serverInfo"]["name"] == "ibllm"
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert "serving no files" in done.stderr
    assert "no such model" in done.stderr.lower() or "/no/such/model" in done.stderr


def test_ctrl_c_ends_the_server_at_once() -> None:
    with subprocess.Popen(
        command("--model", "/no/such/model"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        while b"/no/such/model" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


# ---- HTTP


@asynccontextmanager
async def served(server: MediaServer, **options: Any) -> AsyncIterator[str]:
    """The address of the server, which listens at a port of its own."""
    running = http_server(server, host="127.0.0.1", **options)
    with listening_socket("127.0.0.1", 0) as listening:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(running.serve, sockets=[listening]))
            while not running.started:
                await anyio.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
            running.should_exit = True


async def test_the_command_serves_http_until_it_is_interrupted() -> None:
    words = command("--transport", "http", "--port", "0", "--model", "/no/such/model")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "serving http" not in (line := process.stderr.readline()):
            assert line
        async with mcp.Client(line.split()[-1]) as client:
            assert len((await client.list_tools()).tools) == 2
        process.send_signal(signal.SIGINT)
        out, err = await anyio.to_thread.run_sync(process.communicate)
        assert (process.returncode, out) == (130, "")
        assert "Traceback" not in err


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("127.0.0.1", -1), ("x" * 70, 0), ("203.0.113.1", 0)])
def test_an_address_that_is_none_is_refused(host: str, port: int) -> None:
    with pytest.raises(InvalidRequestError, match="choose another"):
        listening_socket(host, port)


def test_an_address_that_is_taken_is_refused() -> None:
    with listening_socket("127.0.0.1", 0) as taken, pytest.raises(InvalidRequestError, match="already in use"):
        listening_socket("127.0.0.1", taken.getsockname()[1])


async def test_an_agent_hears_a_sound_and_cites_it_over_http(server: MediaServer, agent: ModuleType) -> None:
    async with served(server) as address, mcp.Client(address) as client:
        assert await agent.run_agent(client, agent.scripted_model, agent.QUESTION) == HEARD


async def test_several_clients_are_served_at_once_over_http_and_told_of_progress(server: MediaServer) -> None:
    texts: list[str] = []
    told: list[float] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        told.append(done)

    async with served(server) as address:

        async def use(name: str) -> None:
            async with mcp.Client(address) as client:
                result = await client.call_tool("describe_attachment", {"attachment": name})
                texts.append(Answer.model_validate(result.structured_content).text)

        async with anyio.create_task_group() as group:
            for name in ("bell.wav", "dog.wav", "duck.glb"):
                group.start_soon(use, name)
        async with mcp.Client(address) as client:
            await client.call_tool("index_media", {"paths": ["bell.wav"]}, progress_callback=hear)
    assert sorted(texts) == ["It is a bell.", "It is a dog.", "It is a duck."]
    assert told == [1]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example:80"}, 421),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Host": "media.example"}, 200),
        ({"Host": "media.example:8000", "Origin": "https://media.example"}, 200),
    ],
)
async def test_requests_under_other_names_are_not_answered(
    server: MediaServer, headers: dict[str, str], status: int
) -> None:
    accepted = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    async with served(server, allowed_hosts=["media.example"]) as address, httpx.AsyncClient() as client:
        response = await client.post(address, json=hello, headers={**accepted, **headers})
        assert response.status_code == status


@pytest.mark.parametrize("name", ["", "https://media.example", "media.example/mcp"])
def test_an_allowed_name_that_no_request_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected what a Host header holds"):
        transport_security("127.0.0.1", [name])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "media.example", ""])
def test_an_address_that_others_reach_needs_the_names_they_use(host: str) -> None:
    with pytest.raises(InvalidRequestError, match="no authentication"):
        transport_security(host)
    assert transport_security(host, ["media.example"]).enable_dns_rebinding_protection

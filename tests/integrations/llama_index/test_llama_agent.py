"""An agent of LlamaIndex answers a question about a sound through our tools, with a citation."""

from pathlib import Path

import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_scripts import ScriptedAgentLLM

from ibllm_tools import Answer, AttachmentStore, MediaLibrary
from llama_index.tools.ibllm import ImageBindToolSpec

# LlamaIndex's workflows look at every attribute of an agent, pydantic's old ones as well.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


@pytest.mark.parametrize("streaming", [False, True])
async def test_it_listens_to_the_attachment_of_the_conversation(
    store: AttachmentStore, media: Path, streaming: bool
) -> None:
    handle = store.put(media / "bell.wav")
    tools = ImageBindToolSpec(attachments=store).to_tool_list()
    agent = FunctionAgent(tools=tools, llm=ScriptedAgentLLM(), streaming=streaming)
    run = agent.run(f"What do you hear? The user attached <{handle}>.")
    events = [event async for event in run.stream_events()]
    response = await run
    assert response.response.content == "I listened. It is a bell. [bell.wav@0.0-3.0s]"
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert result.tool_kwargs["attachments"] == [handle]
    assert isinstance(result.tool_output.raw_output, Answer)
    assert any(isinstance(event, AgentStream) for event in events) == streaming
    assert handle in result.tool_output.model_dump_json()


async def test_what_it_may_not_open_is_said_to_it(library: MediaLibrary) -> None:
    agent = FunctionAgent(tools=ImageBindToolSpec(library).to_tool_list(), llm=ScriptedAgentLLM(), streaming=False)
    response = await agent.run("What do you hear in secret.wav ?")
    assert "I listened. Error: secret.wav: outside the allowed folders" in str(response)
    assert response.tool_calls[0].tool_output.is_error

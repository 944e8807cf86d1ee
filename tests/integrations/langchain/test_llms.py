"""The plain model of LangChain."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps, loads
from langchain_core.prompts import PromptTemplate
from pydantic import ValidationError

from ibllm_tools import Assistant, AttachmentStore
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError
from langchain_ibllm import ImageBindLLM

BELL = "What is the use of a bell?"
CAR = "What is the use of a car?"


@pytest.fixture
def llm(assistant: Assistant) -> ImageBindLLM:
    return ImageBindLLM()


def test_a_prompt_is_answered_as_the_assistant_does(llm: ImageBindLLM, assistant: Assistant) -> None:
    assert llm.invoke(BELL) == assistant.ask(BELL).text


def test_prompts_may_be_about_media(media: Path, tmp_path: Path) -> None:
    handle = AttachmentStore(tmp_path).put(media / "car.png")
    for about, allowed in ((str(media / "car.png"), {"roots": media}), (handle, {"attachments": tmp_path})):
        thing, colour = ImageBindLLM(media=[about], **allowed).batch(["What is this?", "What colour is it?"])
        assert "car" in thing
        assert "blue" in colour
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        ImageBindLLM(media=[str(media / "car.png")]).invoke("What is this?")


def test_media_may_be_one_path_or_several(media: Path) -> None:
    path = media / "car.png"
    for about in (path, str(path), [path], (str(path),)):
        assert ImageBindLLM(media=about).media == (str(path),)
    with pytest.raises(ValidationError, match="media"):
        ImageBindLLM(media=7)


def test_what_a_generation_rests_on_is_told(media: Path) -> None:
    result = ImageBindLLM(media=[str(media / "bell.wav")], roots=media).generate(["What is this?", BELL])
    info = result.generations[0][0].generation_info
    assert info is not None
    assert info["evidence"][0]["citation"] == "bell.wav@0.0-3.0s"
    assert info["finish_reason"] == "stop"
    assert result.llm_output is not None
    used = result.llm_output["token_usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"] > 0


def test_batches_chains_and_several_prompts_are_one_call(llm: ImageBindLLM, generated: list[int]) -> None:
    chain = PromptTemplate.from_template("What is the use of a {thing}?") | llm
    texts = chain.batch([{"thing": "bell"}, {"thing": "car"}])
    assert texts == llm.batch([BELL, CAR])
    assert [each[0].text for each in llm.generate([BELL, CAR]).generations] == texts
    assert generated == [2, 2, 2]


async def test_async_batches_are_one_call(llm: ImageBindLLM, generated: list[int]) -> None:
    texts = await llm.abatch([BELL, CAR])
    result = await llm.agenerate([BELL, CAR])
    assert [each[0].text for each in result.generations] == texts
    assert generated == [2, 2]
    assert await llm.ainvoke(BELL) == texts[0]


def test_many_prompts_go_in_groups(generated: list[int]) -> None:
    ImageBindLLM(batch_size=2, max_tokens=2).generate([BELL] * 5)
    assert generated == [2, 2, 1]


def test_one_bad_prompt_does_not_harm_the_others(llm: ImageBindLLM, generated: list[int]) -> None:
    first, second, third = llm.batch([BELL, " ", CAR], return_exceptions=True)
    assert isinstance(second, InvalidRequestError)
    assert (first, third) == (llm.invoke(BELL), llm.invoke(CAR))
    assert generated[0] == 2
    with pytest.raises(InvalidRequestError, match="the question is empty"):
        llm.generate([BELL, " "])


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.texts.append(token)


async def test_the_pieces_of_a_stream_are_the_answer(llm: ImageBindLLM) -> None:
    whole, tokens = llm.invoke(BELL), Tokens()
    pieces = list(llm.stream(BELL, {"callbacks": [tokens]}))
    assert len(pieces) > 2
    assert "".join(pieces) == "".join(tokens.texts) == whole
    assert "".join([piece async for piece in llm.astream(BELL)]) == whole


def test_stop_texts_and_lengths(llm: ImageBindLLM) -> None:
    whole = llm.invoke(BELL)
    word = " " + whole.split()[2]
    assert llm.invoke(BELL, stop=[word]) == whole.partition(word)[0]
    assert len(llm.invoke(BELL, max_tokens=2)) < len(whole)


def test_tokens_are_the_models_own(llm: ImageBindLLM, assistant: Assistant) -> None:
    assert llm.get_token_ids(BELL) == assistant.processor.tokenizer(BELL, add_special_tokens=False)["input_ids"]


def test_media_and_settings_tell_cached_answers_apart(media: Path, generated: list[int]) -> None:
    cache = InMemoryCache()
    shared: dict[str, Any] = {"cache": cache, "roots": media}
    for settings in ({"media": [str(media / "bell.png")]}, {"media": [str(media / "car.png")]}, {}, {"temperature": 0}):
        for _ in range(2):
            ImageBindLLM(**shared, **settings).invoke("What is this?")
    assert generated == [1] * 4


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_it_is_written_and_read_back(media: Path) -> None:
    llm = ImageBindLLM(media=["att://" + "0" * 64], roots=media, temperature=0)
    again = loads(dumps(llm), allowed_objects=[ImageBindLLM], valid_namespaces=["langchain_ibllm"])
    assert again._identifying_params == llm._identifying_params
    assert again.roots == llm.roots


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="temprature"):
        ImageBindLLM(temprature=0)
    with pytest.raises(InvalidRequestError, match="unknown argument temprature"):
        ImageBindLLM().invoke(BELL, temprature=0)

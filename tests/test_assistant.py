"""From attachments and a question to an answer with evidence."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sample_files import broken_files, write_image, write_mesh, write_sound, write_video
from tiny_model import MAX_NEW_TOKENS, saved_tiny_model
from transformers import GenerationConfig

from ibllm_tools import Access, Answer, Assistant, Attachment, AttachmentStore, Evidence, Limits, Question, VisualCache
from ibllm_tools.assistant.access import Announced
from ibllm_tools.assistant.generation import generation_config
from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentError,
    AttachmentNotFoundError,
    CheckpointError,
    EncoderMismatchError,
    IncompatibleModelError,
    InvalidRequestError,
    LimitExceededError,
    ModelError,
    ModelNotFoundError,
    UnsupportedMediaError,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny_model(tmp_path_factory)


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Iterator[Assistant]:
    with Assistant.load(folder, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    here = tmp_path_factory.mktemp("media")
    (here / "note.txt").write_text("a red bell")
    return {
        "image": write_image(here / "bell.png"),
        "audio": write_sound(here / "bell.wav"),
        "video": write_video(here / "bell.mp4"),
        "point": write_mesh(here / "bell.glb"),
        "text": here / "note.txt",
    }


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The model in a folder of its own, to be damaged."""
    for file in folder.rglob("*"):
        if file.is_file():
            target = tmp_path / "copy" / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path / "copy"


# ---- asking


@pytest.mark.parametrize("modality", ["image", "audio", "video", "point", "text"])
def test_every_modality_is_answered_and_cited(assistant: Assistant, media: dict[str, Path], modality: str) -> None:
    answer = assistant.ask("What is this?", media[modality])
    [evidence] = answer.evidence
    assert answer.question == "What is this?"
    assert answer.cache
    assert 1 <= answer.usage.completion_tokens <= MAX_NEW_TOKENS
    assert answer.usage.seconds > 0
    assert (evidence.source, evidence.name) == (str(media[modality]), media[modality].name)
    assert (evidence.modality, evidence.weight) == (modality, 1.0)
    assert evidence.handle == Attachment(media[modality]).handle == f"att://{evidence.sha256}"


def test_sounds_and_videos_are_cited_with_the_span_that_was_used(assistant: Assistant, media: dict[str, Path]) -> None:
    evidence = assistant.ask("?", media["audio"], media["video"], media["image"]).evidence
    assert [(item.start, item.end) for item in evidence] == [(0.0, 1.0), (0.0, 2.0), (None, None)]
    assert [item.citation for item in evidence] == ["bell.wav@0.0-1.0s", "bell.mp4@0.0-2.0s", "bell.png"]


def test_a_question_without_attachment_goes_to_the_language_model(assistant: Assistant) -> None:
    answer = assistant.ask("What is a bell?")
    assert (answer.evidence, answer.cache) == ((), False)


def test_the_attachment_changes_the_answer(assistant: Assistant, media: dict[str, Path]) -> None:
    texts = {assistant.ask("What is this?", *files).text for files in ([], [media["image"]], [media["audio"]])}
    assert len(texts) == 3


def test_the_default_is_greedy_and_repeatable(assistant: Assistant, media: dict[str, Path]) -> None:
    assert assistant.ask("What?", media["image"]).text == assistant.ask("What?", media["image"]).text


@pytest.mark.parametrize("kind", ["str", "bytes", "pillow", "array", "attachment"])
def test_an_attachment_may_come_in_any_form(assistant: Assistant, media: dict[str, Path], kind: str) -> None:
    path = media["image"]
    pixels = np.asarray(Image.open(path))
    forms = {
        "str": str(path),
        "bytes": path.read_bytes(),
        "pillow": Image.fromarray(pixels),
        "array": Attachment(pixels, modality="image"),
        "attachment": Attachment(path),
    }
    assert assistant.ask("What?", forms[kind]).text == assistant.ask("What?", path).text


def test_weights_become_shares_of_the_mix(assistant: Assistant, media: dict[str, Path]) -> None:
    answer = assistant.ask("What?", media["image"], media["audio"], weights=[1, 3])
    assert [item.weight for item in answer.evidence] == [0.25, 0.75]


def test_an_attachment_of_weight_zero_does_not_count(assistant: Assistant, media: dict[str, Path]) -> None:
    mixed = assistant.ask("What?", media["image"], media["audio"], weights=[2, 0])
    assert mixed.text == assistant.ask("What?", media["image"]).text


def test_context_is_read(assistant: Assistant) -> None:
    plain, grounded = assistant.ask("What?"), assistant.ask("What?", context="A bell rings.")
    assert grounded.usage.prompt_tokens > plain.usage.prompt_tokens


def test_describe_asks_for_a_description(assistant: Assistant, media: dict[str, Path]) -> None:
    assert assistant.describe(media["point"]).question == "Describe this."


def test_an_answer_is_valid_against_its_schema(assistant: Assistant, media: dict[str, Path]) -> None:
    answer = assistant.ask("What?", media["audio"])
    assert Answer.model_validate_json(answer.model_dump_json()) == answer
    assert set(json.loads(answer.model_dump_json())) == set(Answer.model_json_schema()["properties"])


@pytest.mark.parametrize("model", [Answer, Question, Evidence])
def test_every_field_of_the_schemas_is_described(model: type[Answer]) -> None:
    assert all("description" in field for field in model.model_json_schema()["properties"].values())


# ---- bad requests


def test_the_largest_weights_are_shares_too(assistant: Assistant, media: dict[str, Path]) -> None:
    answer = assistant.ask("What?", media["image"], media["audio"], weights=[1e308, 1e308])
    assert [piece.weight for piece in answer.evidence] == [0.5, 0.5]


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("nan")], [1, float("inf")], ["a", "b"], 3])
def test_weights_that_do_not_fit_are_refused(assistant: Assistant, media: dict[str, Path], weights: object) -> None:
    with pytest.raises(InvalidRequestError):
        assistant.ask("What?", media["image"], media["audio"], weights=weights)  # type: ignore[arg-type]


@pytest.mark.parametrize("question", ["", " \n", "word " * 500, None, Path("bell.png")])
def test_questions_that_cannot_be_asked_are_refused(assistant: Assistant, question: object) -> None:
    with pytest.raises(InvalidRequestError):
        assistant.ask(question)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [{"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_sampling_out_of_range_is_refused(assistant: Assistant, sampling: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(sampling))):
        assistant.ask("What?", **sampling)  # type: ignore[arg-type]


def test_unusable_files_are_attachment_errors_of_one_line(assistant: Assistant, tmp_path: Path) -> None:
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(AttachmentError) as caught:
            assistant.ask("What?", path)
        assert "\n" not in str(caught.value), name


def test_text_announced_as_image_is_refused(assistant: Assistant, media: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedMediaError):
        assistant.ask("What?", Attachment(media["text"], modality="image"))


@pytest.mark.parametrize(("seconds", "level"), [(0.01, 0.3), (1.0, 0.0)])
def test_very_short_and_silent_sounds_are_answered(
    assistant: Assistant, tmp_path: Path, seconds: float, level: float
) -> None:
    assert assistant.ask("What?", write_sound(tmp_path / "odd.wav", seconds, level)).evidence[0].end == seconds


def test_a_modality_without_a_tower_is_refused(assistant: Assistant, media: dict[str, Path]) -> None:
    with pytest.raises(IncompatibleModelError, match="thermal"):
        assistant.ask("What?", Attachment(media["image"], modality="thermal"))


def test_access_bounds_what_is_opened(folder: Path, media: dict[str, Path], tmp_path: Path) -> None:
    access = Access(roots=[tmp_path], limits=Limits(max_bytes=50_000, max_pixels=100))
    assistant = Assistant.load(folder, device="cpu", access=access)
    with pytest.raises(AttachmentAccessError, match="outside"):
        assistant.ask("What?", media["image"])
    with pytest.raises(LimitExceededError):
        assistant.ask("What?", write_image(tmp_path / "wide.png"))
    with pytest.raises(LimitExceededError):
        assistant.embed(b"word " * 20_000)
    with pytest.raises(AttachmentAccessError, match="fetch"):
        assistant.ask("What?", "https://example.com/bell.png")


def test_the_content_must_agree_with_what_was_announced(assistant: Assistant, media: dict[str, Path]) -> None:
    for source in (media["image"], Attachment(media["image"])):
        said = Announced(source, modality="thermal", name="heat.png")
        evidence = Access().cite(said, Access().open(said), 1.0)
        assert (evidence.modality, evidence.name, evidence.source) == ("thermal", "heat.png", str(media["image"]))
    with pytest.raises(UnsupportedMediaError, match="announced as audio, but its content is image/png"):
        assistant.ask("What is this?", Announced(media["image"], modality="audio"))


def test_handles_are_looked_up_in_the_store(folder: Path, media: dict[str, Path], tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path)
    handle = store.put(media["image"])
    answer = Assistant.load(folder, device="cpu", access=Access(store=store)).ask("What?", handle)
    assert (answer.evidence[0].source, answer.evidence[0].name) == (handle, "bell.png")


# ---- batches


def test_a_batch_gives_the_answers_of_single_questions(assistant: Assistant, media: dict[str, Path]) -> None:
    requests: list[Question | str] = [
        "What is a bell?",
        Question(text="What is this?", attachments=(media["image"],)),
        Question(text="And this, then?", attachments=(media["audio"], media["image"]), weights=(1, 2)),
        Question(text="What is this?", attachments=(media["image"],), context="A bell rings."),
    ]
    together = assistant.ask_batch(requests)
    alone = [assistant.ask_batch([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert (one.text, one.evidence, one.cache) == (other.text, other.evidence, other.cache)
        assert one.usage.prompt_tokens == other.usage.prompt_tokens


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_what_cannot_be_answered_comes_back_in_its_place(
    assistant: Assistant, media: dict[str, Path], batch_size: int, tmp_path: Path
) -> None:
    broken = broken_files(tmp_path)
    sources = [media["image"], broken["truncated image"], broken["missing"], media["point"]]
    requests: list[Question | str] = [Question(text="What?", attachments=(source,)) for source in sources]
    found = assistant.ask_batch([*requests, " "], batch_size=batch_size)
    kinds = [Answer, AttachmentError, AttachmentNotFoundError, Answer, InvalidRequestError]
    assert all(isinstance(item, kind) for item, kind in zip(found, kinds, strict=True))


def test_an_empty_batch_has_no_answers(assistant: Assistant) -> None:
    assert assistant.ask_batch([]) == []


@pytest.mark.parametrize("requests", ["What is it?", ["What is it?", 5], [{"text": "What is it?"}]])
def test_requests_of_another_type_are_refused(assistant: Assistant, requests: Any) -> None:
    with pytest.raises(InvalidRequestError, match="a list of questions"):
        assistant.ask_batch(requests)


@pytest.mark.parametrize("sampling", [{"temprature": 1}, {"temperature": "hot"}, {"max_new_tokens": 1.5}])
def test_settings_that_do_not_exist_or_fit_are_refused(assistant: Assistant, sampling: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        assistant.ask("What is it?", **sampling)


def test_a_question_that_is_no_unicode_is_refused(assistant: Assistant) -> None:
    with pytest.raises(InvalidRequestError, match="surrogate"):
        assistant.ask("\ud800")


# ---- streams


def test_the_pieces_of_a_stream_are_the_answer(assistant: Assistant, media: dict[str, Path]) -> None:
    stream = assistant.stream("What is this?", media["image"])
    with pytest.raises(InvalidRequestError, match="not complete"):
        _ = stream.answer
    text = "".join(stream)
    asked = assistant.ask("What is this?", media["image"])
    assert text == stream.answer.text == asked.text
    assert stream.answer.evidence == asked.evidence
    assert next(stream, None) is None


def test_what_is_wrong_with_a_request_is_raised_before_the_stream_starts(assistant: Assistant) -> None:
    with pytest.raises(AttachmentNotFoundError):
        assistant.stream("What?", "nowhere.png")


def test_what_fails_while_streaming_reaches_the_reader(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(assistant.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(assistant.stream("What?"))


def test_leaving_a_stream_stops_the_model(assistant: Assistant) -> None:
    with assistant.stream("What?", max_new_tokens=100) as stream:
        assert next(stream)
    assert stream.answer.usage.completion_tokens < 100
    assert next(stream, None) is None
    assert not any(thread.name == "ibllm-answer" for thread in threading.enumerate())


def test_an_event_loop_is_not_blocked(assistant: Assistant, media: dict[str, Path]) -> None:
    async def both() -> tuple[Answer, str, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker = asyncio.create_task(tick())
        answer = await assistant.aask("What?", media["image"])
        streamed = "".join([piece async for piece in assistant.astream("What?", media["image"])])
        ticker.cancel()
        return answer, streamed, ticks

    answer, streamed, ticks = asyncio.run(both())
    assert answer.text == streamed
    assert ticks > 3


def test_questions_from_several_threads_do_not_mix(assistant: Assistant, media: dict[str, Path]) -> None:
    names = ["image", "audio", "point"]
    expected = [assistant.ask("What?", media[name]).text for name in names]
    found: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: assistant.ask("What?", media[name]).text}))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[name] for name in names] == expected


# ---- generation settings


def test_the_models_own_settings_hold_unless_the_call_says_otherwise() -> None:
    own = GenerationConfig(do_sample=True, temperature=0.1, top_p=0.75, max_new_tokens=9, eos_token_id=2)
    kept, greedy = generation_config(own), generation_config(own, temperature=0, max_new_tokens=4)
    assert (kept.do_sample, kept.temperature, kept.top_p, kept.max_new_tokens) == (True, 0.1, 0.75, 9)
    assert (greedy.do_sample, greedy.temperature, greedy.top_p, greedy.max_new_tokens) == (False, None, None, 4)
    assert own.max_new_tokens == 9


def test_a_temperature_samples_from_a_greedy_model() -> None:
    config = generation_config(GenerationConfig(do_sample=False), temperature=0.7)
    assert (config.do_sample, config.temperature, config.top_k) == (True, 0.7, 0)


def test_an_answer_ends_at_the_last_position_of_the_model(assistant: Assistant) -> None:
    answer = assistant.ask("b " * 115, max_new_tokens=10_000)
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens <= 256


# ---- embedding


def test_embeddings_are_unit_rows_in_order(assistant: Assistant, media: dict[str, Path]) -> None:
    rows = assistant.embed(*media.values(), media["image"])
    assert (rows.shape, rows.dtype) == ((6, assistant.embedder.dimension), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows[0], assistant.embed(media["image"])[0], atol=1e-6)
    np.testing.assert_array_equal(rows[0], rows[5])


def test_nothing_to_embed_is_refused(assistant: Assistant) -> None:
    with pytest.raises(InvalidRequestError):
        assistant.embed()


def test_the_fingerprint_names_weights_and_preprocessing(assistant: Assistant, folder: Path) -> None:
    same, half = Assistant.load(folder, device="cpu"), Assistant.load(folder, device="cpu", dtype=torch.float16)
    assert half.model.dtype == torch.float16
    assert assistant.embedder.fingerprint == same.embedder.fingerprint == half.embedder.fingerprint
    same.processor.imagebind_processor.num_points = 7
    del same.embedder.fingerprint  # as if it had never been asked for
    with torch.no_grad():
        next(half.model.imagebind.parameters()).add_(1)
    del half.embedder.fingerprint
    assert len({item.embedder.fingerprint for item in (assistant, same, half)}) == 3


# ---- the visual cache


def test_the_cache_is_built_by_the_first_question_that_needs_it(folder: Path, media: dict[str, Path]) -> None:
    with Assistant.load(folder, device="cpu") as assistant:
        assistant.ask("What?")
        assistant.ask("What?", media["image"], use_cache=False)
        assert isinstance(assistant._cache, Path)
        assistant.ask("What?", media["image"])
        assert isinstance(assistant._cache, VisualCache)
        assert len(assistant._cache) == 32


def test_the_cache_can_be_left_out(folder: Path, media: dict[str, Path]) -> None:
    assistant = Assistant.load(folder, device="cpu", cache=False)
    assert not assistant.ask("What?", media["image"]).cache
    with pytest.raises(InvalidRequestError, match="no visual cache"):
        assistant.ask("What?", media["image"], use_cache=True)


def test_the_cache_of_another_encoder_is_refused(assistant: Assistant) -> None:
    with (
        VisualCache.from_features(np.eye(assistant.embedder.dimension), fingerprint="another") as cache,
        pytest.raises(EncoderMismatchError),
    ):
        Assistant(assistant.model, assistant.processor, cache=cache)


# ---- loading


def test_half_precision_weights_are_widened_on_a_cpu(assistant: Assistant) -> None:
    assert assistant.model.dtype == torch.float32


@pytest.mark.parametrize("model", ["nowhere", "/nowhere/at/all", "./nowhere/model"])
def test_a_missing_model_is_not_looked_for_on_the_hub(model: str) -> None:
    with pytest.raises(ModelNotFoundError):
        Assistant.load(model)


def test_nothing_is_no_model() -> None:
    with pytest.raises(InvalidRequestError, match="model of type NoneType, expected 'mini'"):
        Assistant.load(None)  # type: ignore[arg-type]


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        Assistant.load(tmp_path)


def test_a_model_of_another_kind_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(IncompatibleModelError, match="llama"):
        Assistant.load(copied)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "prompt_templates.json"])
def test_a_damaged_file_is_a_model_error(copied: Path, file: str) -> None:
    (copied / file).write_bytes((copied / file).read_bytes()[:40])
    with pytest.raises(ModelError) as caught:
        Assistant.load(copied, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_damaged_cache_is_a_model_error(copied: Path, media: dict[str, Path]) -> None:
    (copied / "visual_cache.safetensors").write_bytes(b"not a cache")
    with pytest.raises(ModelError, match="visual_cache"):
        Assistant.load(copied, device="cpu").ask("What?", media["image"])


def test_missing_weights_are_not_made_up(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    del weights["prefix_queries"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="prefix_queries"):
        Assistant.load(copied, device="cpu")


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_an_unknown_device_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(InvalidRequestError, match=device):
        Assistant.load(folder, device=device)

"""Answers that are JSON of a schema, whatever the model would like to say and however few tokens there are."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field
from transformers import GenerationConfig, LlamaTokenizer

from ibllm_tools import Assistant, Question
from ibllm_tools.assistant.constrained import SchemaCompiler, SchemaProcessor
from ibllm_tools.assistant.schemas import Schema
from ibllm_tools.cli import main
from ibllm_tools.errors import IbllmError, InvalidRequestError, MissingExtraError

BELL = Path(__file__).parents[1] / "examples" / "media" / "bell.wav"
CONTEXT = 256


class Part(BaseModel):
    name: str
    parts: list["Part"] = []


class Thing(BaseModel):
    name: str = Field(max_length=30)
    kind: Literal["animal", "instrument", "vehicle"]
    count: int = Field(ge=1, le=12)
    loud: bool
    note: str | None = None


THREE = {"type": "object", "properties": {key: {"type": "string"} for key in "abc"}, "required": ["a", "b", "c"]}
TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
            },
            "required": ["value", "children", "next"],
        }
    },
    "$ref": "#/$defs/tree",
}
SCHEMAS: dict[str, Schema] = {
    "string": {"type": "string"},
    "long string": {"type": "string", "minLength": 30, "maxLength": 40},
    "pattern": {"type": "string", "pattern": "^[a-z]{3}-[0-9]{2}$"},
    "pattern with marks": {"type": "string", "pattern": r"^[^@]+@[^@]+\.[^@]+$"},
    "format": {"type": "string", "format": "date-time"},
    "integer": {"type": "integer"},
    "ranges": {
        "type": "array",
        "prefixItems": [{"type": "number", "minimum": -5.5, "maximum": -1.25}, {"type": "integer", "minimum": 100}],
        "items": False,
        "minItems": 2,
    },
    "multiple": {"type": "integer", "multipleOf": 37, "minimum": 1},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "enum": {"enum": ["bell", "dog", 3, None, {"a": [1.5]}]},
    "const": {"const": {"é": 'ü\u0001"\\', "n": [True, None]}},
    "unicode": {"type": "object", "properties": {"名前": {"enum": ["鐘", "🔔"]}}, "required": ["名前"]},
    "array": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    "anything": {},
    "any object": {"type": "object", "minProperties": 3},
    "optional before required": {
        "type": "object",
        "properties": {**{f"o{index}": {"type": "string"} for index in range(12)}, "z": {"type": "integer"}},
        "required": ["z"],
    },
    "choices": {
        "type": "object",
        "properties": {key: {"type": ["integer", "null", "string", "array"]} for key in "abcdef"},
        "required": list("abcdef"),
    },
    "anyOf": {
        "anyOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "more": THREE}, "required": ["kind", "more"]},
            {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
        ]
    },
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    "additional": {"type": "object", "additionalProperties": {"type": "integer"}, "properties": {"k": THREE}},
    "required without properties": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["z"]},
    "nested": {"type": "array", "items": {"type": "object", "properties": {"in": THREE}, "required": ["in"]}},
    "recursive": TREE,
    "model": Thing,
    "recursive model": Part,
}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def chained(count: int) -> dict[str, Any]:
    """A schema that refers to one that refers to one that..."""
    links = {f"s{place}": {"$ref": f"#/$defs/s{place + 1}"} for place in range(count - 1)}
    return {"$ref": "#/$defs/s0", "$defs": {**links, f"s{count - 1}": {"type": "string"}}}


@pytest.fixture(scope="session")
def compiler(assistant: Assistant) -> SchemaCompiler:
    """As the assistant has it: of a vocabulary of 768 tokens, most of them bytes and pieces of words."""
    return SchemaCompiler(assistant.processor.tokenizer, 768, [2])


def require_valid(text: str, schema: Schema) -> None:
    value = json.loads(text, object_pairs_hook=without_repetition)
    if isinstance(schema, type):
        schema.model_validate_json(text)
    else:
        Draft202012Validator(schema).validate(value)


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def rambled(compiler: SchemaCompiler, schema: Schema, budget: int, width: int = 768, **settings: Any) -> str:
    """What a model writes that likes every token as much as any other, and would never end."""
    config = GenerationConfig(do_sample=True, temperature=1.0, **settings)
    processor = SchemaProcessor(compiler.compile(schema, CONTEXT), 1, budget, config)
    [row] = processor.rows
    for _ in range(budget):
        scores = torch.randn(1, width)
        scores[0, 2] = -100.0
        assert int(processor(torch.empty(1, 0), scores).isfinite().sum()) == 1
        if row.ended:
            break
    assert row.complete
    assert len(row.tokens) <= budget
    return row.text


# ---- what is guaranteed


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_rambling_model_writes_a_whole_answer_in_as_few_tokens_as_there_are(
    compiler: SchemaCompiler, name: str
) -> None:
    torch.manual_seed(0)
    fewest = len(compiler.compile(SCHEMAS[name], CONTEXT).shortest)
    for budget in (fewest, fewest + 5, 60):
        require_valid(rambled(compiler, SCHEMAS[name], max(budget, fewest)), SCHEMAS[name])


@pytest.mark.parametrize("name", ["model", "recursive", "any object"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 3, "top_p": 0.9}])
def test_the_answer_parses_and_validates(assistant: Assistant, name: str, sampling: Any) -> None:
    torch.manual_seed(1)
    answer = assistant.ask("What is making this sound?", BELL, schema=SCHEMAS[name], max_new_tokens=50, **sampling)
    require_valid(answer.text, SCHEMAS[name])
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens <= 50


def test_the_shortest_answer_takes_the_shortest_of_several_ways(compiler: SchemaCompiler) -> None:
    shortest = {
        "recursive": '{"value":0,"children":[],"next":null}',
        "optional before required": '{"z":0}',
        "anyOf": '{"kind":"b"}',
        "array": '["",""]',
        "anything": "0",
    }
    for name, text in shortest.items():
        grammar = compiler.compile(SCHEMAS[name], CONTEXT)
        assert grammar.vocabulary.text(grammar.shortest).decode() == text


def test_as_many_tokens_as_the_shortest_answer_has_are_enough_and_one_less_is_refused(assistant: Assistant) -> None:
    with pytest.raises(InvalidRequestError, match=r"max_new_tokens=1, and answers .* have at least") as refused:
        assistant.ask("What is this?", BELL, schema=THREE, max_new_tokens=1)
    fewest = int(str(refused.value).split("at least ")[1].split()[0])
    assert assistant.ask("What is this?", BELL, schema=THREE, max_new_tokens=fewest).text == '{"a":"","b":"","c":""}'
    with pytest.raises(InvalidRequestError, match=f"at least {fewest} tokens"):
        assistant.ask("What is this?", BELL, schema=THREE, max_new_tokens=fewest - 1)


def test_the_answer_fits_into_what_the_question_leaves(assistant: Assistant) -> None:
    words = "bell " * 400
    while assistant.prompt_tokens("What?", words) > assistant.context_length - 25:
        words = words[5:]
    require_valid(assistant.ask("What?", context=words, schema=THREE).text, THREE)
    with pytest.raises(InvalidRequestError, match=r"at least \d+ of an answer that fits the schema, the model reads"):
        assistant.ask("What?", context=words + "bell " * 8, schema=THREE)


def test_numbers_and_arrays_do_not_run_on(compiler: SchemaCompiler) -> None:
    numbers = json.loads(rambled(compiler, {"type": "array", "items": {"type": "number"}, "minItems": 20}, 250))
    assert all(abs(number) < 1e20 for number in numbers)
    zeros = rambled(compiler, {"type": "array", "items": {"const": 0}}, 250)
    assert len(json.loads(zeros)) <= 64


def test_properties_that_the_schema_does_not_name_are_not_invented(compiler: SchemaCompiler) -> None:
    torch.manual_seed(0)
    assert set(json.loads(rambled(compiler, THREE, 200))) == {"a", "b", "c"}


# ---- every way to ask


def test_the_pieces_of_a_stream_are_the_json(assistant: Assistant) -> None:
    with assistant.stream("What is making this sound?", BELL, schema=Thing) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.answer.text
    Thing.model_validate_json(stream.answer.text)


def test_a_batch_constrains_each_row_on_its_own(assistant: Assistant) -> None:
    questions = [Question(text="What is this?", attachments=(BELL,)), "What is a dog? Say it at length.", " "]
    *answers, failed = assistant.ask_batch(questions, schema=Thing, temperature=2.0)
    assert isinstance(failed, InvalidRequestError)
    for answer in answers:
        assert not isinstance(answer, IbllmError)
        Thing.model_validate_json(answer.text)
        assert answer.finish_reason == "stop"


def test_a_batch_of_rows_of_different_length_says_what_each_says_alone(assistant: Assistant) -> None:
    questions = ["What is a bell?", "What is a dog? Say what it does, too."]
    together = assistant.ask_batch(questions, schema=THREE)
    assert [answer.text for answer in together if not isinstance(answer, IbllmError)] == [
        assistant.ask(question, schema=THREE).text for question in questions
    ]


def test_without_blocking_the_event_loop(assistant: Assistant) -> None:
    async def both() -> tuple[str, str]:
        answer = await assistant.aask("What?", BELL, schema=THREE)
        return answer.text, "".join([piece async for piece in assistant.astream("What?", BELL, schema=THREE)])

    answer, streamed = asyncio.run(both())
    assert answer == streamed
    require_valid(answer, THREE)


def test_a_stream_that_is_left_early_was_cut_off(assistant: Assistant) -> None:
    with assistant.stream("What is this?", BELL, schema={"type": "string", "minLength": 200}) as stream:
        next(stream)
    assert stream.answer.finish_reason == "length"


# ---- other vocabularies


def test_a_vocabulary_like_llama_s_that_is_narrower_than_the_logits() -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *(chr(byte) for byte in range(33, 127)), '":', '","', '"}', "▁be", "ll", "▁bell", "be"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("b", "e"), ("l", "l"), ("▁", "be"), ("▁be", "ll"), ('"', ":"), ('"', "}")]
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    width = len(tokenizer) + 61
    compiler = SchemaCompiler(tokenizer, width, [2])
    torch.manual_seed(0)
    for name in ("model", "unicode", "const", "anyOf"):
        processor = SchemaProcessor(compiler.compile(SCHEMAS[name], CONTEXT), 1, 120, GenerationConfig(do_sample=True))
        [row] = processor.rows
        while not row.ended and len(row.tokens) < 120:
            processor(torch.empty(1, 0), torch.randn(1, width))
        require_valid(row.text, SCHEMAS[name])
        assert tokenizer.decode(row.tokens, skip_special_tokens=True) == row.text


# ---- what is refused


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "bell"}, "cannot be followed: Invalid type: bell"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"$ref": "https://example.com/schema"}, "is not present in a registry"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"enum": []}, "Unsatisfiable"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "no answer was found that fits"),
        ({"type": "string", "minLength": 9000}, "no answer was found that fits"),
        ({**THREE, "required": 3}, "required"),
        ({**THREE, "required": [["a"]]}, "required"),
        ({"const": "\ud800"}, "cannot be followed: unexpected end of hex escape"),
        (nested(100), "nested 101 levels deep"),
        (nested(100_000), "nested too deeply, expected at most 100 levels"),
        (
            {"type": "integer", "$defs": {"a": {"type": "array", "$id": "#"}}},
            r"has another with the \$id '#' within it",
        ),
        (chained(5_000), "refers to 5,000 schemas, expected at most"),
        ({"const": float("nan")}, "is no JSON schema"),
        ({"const": {1, 2}}, "is no JSON schema"),
        ("{}", "type str, expected a JSON schema"),
        (Thing(name="a", kind="animal", count=1, loud=True), "expected a JSON schema"),
        (int, "expected a JSON schema"),
    ],
)
def test_what_is_no_schema_or_cannot_be_followed_is_refused(assistant: Assistant, schema: Any, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as refused:
        assistant.ask("What?", BELL, schema=schema)
    assert "\n" not in str(refused.value)


def test_references_may_be_many_where_nothing_is_deep(compiler: SchemaCompiler) -> None:
    require_valid(rambled(compiler, chained(300), 20), chained(300))


def test_stop_texts_are_refused_with_a_schema(assistant: Assistant) -> None:
    with pytest.raises(InvalidRequestError, match="stop and schema"):
        assistant.ask("What?", BELL, schema=THREE, stop="bell")


def test_without_llguidance_the_extra_is_named(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Assistant(assistant.model, assistant.processor, fingerprint=assistant.embedder.fingerprint)
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(MissingExtraError, match=r"structured answers needs 'llguidance'.*ibllm-tools\[structured\]"):
        fresh.ask("What?", schema=THREE)


# ---- the command line


def test_the_command_line_answers_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "three.json").write_text(json.dumps(THREE))
    assert main(["ask", "What?", str(BELL), "--schema", str(tmp_path / "three.json")]) == 0
    require_valid(capsys.readouterr().out, THREE)


def test_the_command_line_reads_schemas_of_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "three.json").write_text(json.dumps(THREE), encoding="utf-8-sig")
    assert main(["ask", "What?", "--schema", str(tmp_path / "three.json")]) == 0
    require_valid(capsys.readouterr().out, THREE)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_the_command_line_refuses_a_file_without_schema(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_text(content)
    assert main(["ask", "What?", str(BELL), "--schema", str(file)]) == 2
    assert "schema" in capsys.readouterr().err

"""The world's texts: captions, questions, answers, the corpus and the two tokenizers."""

import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.catalog import COLOURS, KIND_NAMES, KINDS
from ibllm_tools.mini.world.language import (
    KNOWLEDGE_HELD_OUT_KINDS,
    PHRASINGS,
    PROMPT,
    Task,
    TextItem,
    ThingWords,
    answer_to,
    captions,
    example,
    is_correct,
    may_be_trained_with_attachment,
    parse_answer,
    text_corpus,
)
from ibllm_tools.mini.world.language.corpus import scene
from ibllm_tools.mini.world.language.dialogue import asked_kind
from ibllm_tools.mini.world.language.tokenization import train_clip_tokenizer, train_tokenizer
from ibllm_tools.mini.world.language.words import participle

BELL = ThingWords("bell", "red", "small")
DRUM = ThingWords("drum", "blue")
UNKNOWN = ThingWords(None, "red")
HELD_OUT = ("validation", "test")
MAIN_TASKS = (Task.IDENTIFY, Task.COLOUR, Task.SOUND, Task.USE, Task.PAIR, Task.COUNT, Task.YES_NO, Task.DESCRIBE)
UNICODE = "  Größe 12.5 \n\t<s>日本</s> <pad>🙂  don't\r\n"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def prompted(item: TextItem) -> str:
    return item if isinstance(item, str) else PROMPT.format(question=item[0]) + item[1]


def phrasings(task: Task, split: str) -> set[str]:
    return {phrasing for options in PHRASINGS[task][split].values() for phrasing in options}


@pytest.fixture(scope="module")
def corpus() -> list[TextItem]:
    return text_corpus(rng(), 6000)


@pytest.fixture(scope="module")
def tokenizer(corpus: list[TextItem]) -> PreTrainedTokenizerFast:
    return train_tokenizer(map(prompted, corpus), 768)


@pytest.fixture(scope="module")
def clip_tokenizer() -> CLIPTokenizer:
    generator = rng()
    return train_clip_tokenizer([captions(scene(generator, 1), generator) for _ in range(3000)], 768)


class TestCaptions:
    def test_the_same_seed_gives_the_same_captions(self):
        assert [captions([BELL, DRUM], rng(7)) for _ in range(3)] == [captions([BELL, DRUM], rng(7))] * 3

    def test_say_kind_and_colour_in_many_phrasings(self):
        generator = rng()
        said = {captions([BELL], generator) for _ in range(500)}
        assert {"a red bell", "a small red bell", "a photo of a red bell", "a bell", "something that rings"} <= said
        assert len(said) > 40

    def test_two_things_stand_from_left_to_right(self):
        generator = rng()
        said = {captions([BELL, DRUM], generator) for _ in range(500)}
        assert "a red bell and a blue drum" in said
        for caption in said:
            reads_rightwards = caption.index("bell") < caption.index("drum")
            assert reads_rightwards != ("right of" in caption)

    def test_a_greyscale_scene_has_no_colour_words(self):
        generator = rng()
        said = {captions([BELL], generator, grey=True) for _ in range(100)}
        assert "a black and white photo of a bell" in said
        assert not any("red" in caption for caption in said)

    def test_an_unknown_thing_has_no_kind(self):
        generator = rng()
        said = {captions([UNKNOWN], generator) for _ in range(200)}
        assert {"a strange red thing", "something unknown"} <= said
        assert not any(asked_kind(caption) for caption in said)

    def test_orange_takes_an(self):
        assert "an orange bell" in {captions([ThingWords("bell", "orange")], rng(seed)) for seed in range(40)}

    @pytest.mark.parametrize(
        ("sound", "before_a_noun"),
        [
            ("rings", "ringing"),
            ("rumbles", "rumbling"),
            ("buzzes", "buzzing"),
            ("hisses", "hissing"),
            ("bounces", "bouncing"),
            ("drips", "dripping"),
            ("chops the air", None),
        ],
    )
    def test_participles(self, sound, before_a_noun):
        assert participle(sound) == before_a_noun


class TestPhrasings:
    @pytest.mark.parametrize("task", MAIN_TASKS)
    def test_there_are_enough_of_them(self, task):
        assert len(phrasings(task, "train")) >= 12
        assert all(len(phrasings(task, split)) >= 4 for split in HELD_OUT)

    @pytest.mark.parametrize("task", Task)
    def test_splits_are_disjoint(self, task):
        listed = [p.lower() for split in ("train", *HELD_OUT) for o in PHRASINGS[task][split].values() for p in o]
        assert len(listed) == len(set(listed))

    def test_held_out_phrasings_are_held_out_from_every_task(self):
        seen = {phrasing for task in Task for phrasing in phrasings(task, "train")}
        assert not seen & {phrasing for task in Task for split in HELD_OUT for phrasing in phrasings(task, split)}

    def test_held_out_phrasings_use_only_words_of_the_seen_ones(self):
        def words(texts):
            return {word for text in texts for word in re.findall(r"\w+", text.lower())}

        seen = words(phrasing for task in Task for phrasing in phrasings(task, "train"))
        assert words(p for task in Task for split in HELD_OUT for p in phrasings(task, split)) <= seen

    def test_none_names_a_kind_by_accident(self):
        every = {p for task in Task for split in ("train", *HELD_OUT) for p in phrasings(task, split)}
        assert not [phrasing for phrasing in every if asked_kind(phrasing)]


class TestAnswers:
    @pytest.mark.parametrize(
        ("task", "things", "question", "answer"),
        [
            (Task.IDENTIFY, [BELL], "", "It is a bell."),
            (Task.IDENTIFY, [BELL, DRUM], "", "It is a bell and a drum."),
            (Task.PAIR, [BELL, DRUM], "", "It is a bell and a drum."),
            (Task.COLOUR, [BELL], "", "It is red."),
            (Task.COLOUR, [BELL, DRUM], "What colour is the drum?", "It is blue."),
            (Task.COLOUR, [ThingWords("bell")], "", "I cannot tell the colour."),
            (Task.COLOUR, [UNKNOWN], "", "It is red."),
            (
                Task.GREY_COLOUR,
                [ThingWords("bell")],
                "",
                "I cannot tell the colour.",
            ),
            (Task.SOUND, [BELL], "", "It is a bell. It rings."),
            (Task.SOUND, [], "What sound does a bell make?", "It is a bell. It rings."),
            (Task.USE, [BELL], "", "It is a bell. It is used for calling people."),
            (Task.COUNT, [BELL], "", "There is one thing."),
            (Task.COUNT, [BELL, DRUM], "", "There are two things."),
            (Task.YES_NO, [BELL], "Is it a bell?", "Yes, it is a bell."),
            (Task.YES_NO, [BELL], "Is it a drum?", "No, it is a bell."),
            (Task.DESCRIBE, [BELL, DRUM], "", "It is a red bell and a blue drum."),
            (Task.UNKNOWN, [UNKNOWN], "", "I do not know this thing."),
            (Task.SOUND, [UNKNOWN], "", "I do not know this thing."),
            (Task.IDENTIFY, [], "What is it?", "There is no attachment."),
        ],
    )
    def test_right_answers(self, task, things, question, answer):
        assert answer_to(task, things, question) == answer
        assert is_correct(task, things, answer, question)

    def test_which_of_two_things_must_be_said(self):
        with pytest.raises(InvalidRequestError, match="exactly one thing"):
            answer_to(Task.COLOUR, [BELL, DRUM], "What colour is it?")

    def test_a_yes_no_question_must_name_a_kind(self):
        with pytest.raises(InvalidRequestError, match="names no kind"):
            answer_to(Task.YES_NO, [BELL], "Is it?")

    @pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
    def test_sound_and_use_are_read_back_for_every_kind(self, kind):
        sound = parse_answer(answer_to(Task.SOUND, [ThingWords(kind.name)]))
        use = parse_answer(answer_to(Task.USE, [ThingWords(kind.name)]))
        assert (sound.kinds, sound.sound, sound.unread) == ((kind.name,), kind.sound, ())
        assert (use.kinds, use.use, use.unread) == ((kind.name,), kind.use, ())

    def test_reading_a_description(self):
        parsed = parse_answer("It is a small red bell, an orange drum and a tap.")
        assert parsed.things == (BELL, ThingWords("drum", "orange"), ThingWords("tap"))
        assert parsed.colour is None

    def test_reading_what_is_no_answer(self):
        assert parse_answer("It is a zebra. It sings.").unread == ("It is a zebra.", "It sings.")
        assert parse_answer("").unread == ("",)

    @pytest.mark.parametrize(
        ("task", "things", "question", "wrong"),
        [
            (Task.IDENTIFY, [BELL], "", "It is a drum."),
            (Task.IDENTIFY, [BELL], "", "It is a bell and a drum."),
            (Task.IDENTIFY, [BELL], "", "It is a bell. It is a drum."),
            (Task.IDENTIFY, [BELL], "", "It is a bell. bell bell"),
            (Task.IDENTIFY, [BELL], "", "I do not know this thing."),
            (Task.UNKNOWN, [UNKNOWN], "", "I do not know this thing. It is a bell."),
            (Task.COLOUR, [BELL], "", "It is blue."),
            (Task.GREY_COLOUR, [ThingWords("bell")], "", "It is red."),
            (Task.SOUND, [BELL], "", "It is a drum. It rings."),
            (Task.SOUND, [BELL], "", "It is a bell. It booms."),
            (Task.USE, [BELL], "", "It is a bell."),
            (Task.COUNT, [BELL], "", "There are two things."),
            (Task.YES_NO, [BELL], "Is it a bell?", "No, it is a bell."),
            (Task.DESCRIBE, [BELL, DRUM], "", "It is a blue bell and a red drum."),
            (Task.PAIR, [BELL, DRUM], "", "It is a bell and a bell."),
        ],
    )
    def test_wrong_answers(self, task, things, question, wrong):
        assert not is_correct(task, things, wrong, question)

    def test_the_order_of_two_things_does_not_matter(self):
        assert is_correct(Task.PAIR, [BELL, DRUM], "It is a drum and a bell.")

    def test_more_than_was_asked_is_right_when_it_is_in_the_grammar(self):
        assert is_correct(Task.IDENTIFY, [BELL], "It is a red bell. It rings.")


class TestExamples:
    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    @pytest.mark.parametrize("task", Task)
    def test_every_example_is_correct_by_its_own_standard(self, task, split):
        generator = rng()
        for _ in range(60):
            things = [UNKNOWN] if task is Task.UNKNOWN else scene(generator, int(generator.integers(1, 4)))
            question, answer = example(task, things, generator, split)
            assert is_correct(task, things, answer, question), (question, answer)

    def test_held_out_questions_come_from_their_split_as_written(self):
        generator = rng()
        asked = {example(Task.IDENTIFY, [BELL], generator, "test")[0] for _ in range(300)}
        assert asked == phrasings(Task.IDENTIFY, "test")

    def test_held_out_questions_about_one_thing_do_not_give_it_away(self):
        generator = rng()
        asked = [example(task, [BELL], generator, "test")[0] for task in (Task.SOUND, Task.COLOUR) for _ in range(100)]
        assert not any(map(asked_kind, asked))

    def test_flavour_keeps_questions_that_fit_the_medium(self):
        generator = rng()
        asked = {example(Task.IDENTIFY, [BELL], generator, flavour="audio")[0] for _ in range(400)}
        assert any("hear" in question for question in asked)
        assert not any(word in question.lower() for question in asked for word in ("picture", "video", "3d", "depth"))

    def test_yes_and_no_are_balanced(self):
        generator = rng()
        answers = [example(Task.YES_NO, [BELL], generator)[1] for _ in range(400)]
        assert 0.4 < np.mean([answer.startswith("Yes") for answer in answers]) < 0.6

    def test_two_unknown_things_cannot_be_told_apart(self):
        with pytest.raises(InvalidRequestError, match="unknown"):
            example(Task.COLOUR, [UNKNOWN, UNKNOWN], rng())

    def test_knowledge_of_held_out_kinds_is_not_trained_with_attachments(self):
        assert len(set(KNOWLEDGE_HELD_OUT_KINDS) & set(KIND_NAMES)) == len(KNOWLEDGE_HELD_OUT_KINDS) == 10
        assert not may_be_trained_with_attachment(Task.SOUND, [ThingWords("clock")])
        assert may_be_trained_with_attachment(Task.COLOUR, [ThingWords("clock")])
        assert may_be_trained_with_attachment(Task.USE, [BELL])


class TestCorpus:
    def test_the_same_seed_gives_the_same_corpus(self):
        assert text_corpus(rng(3), 200) == text_corpus(rng(3), 200)
        assert text_corpus(rng(3), 200) != text_corpus(rng(4), 200)

    @pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
    def test_teaches_sound_and_use_of_every_kind(self, corpus, kind):
        texts = set(corpus)
        assert any(f"It is a {kind.name}. It {kind.sound}." in item[1] for item in texts if not isinstance(item, str))
        assert any(f"for {kind.use}." in item for item in texts if isinstance(item, str))

    def test_copies_colours_from_contexts(self, corpus):
        answers = [item[1] for item in corpus if not isinstance(item, str)]
        colour_answers = [answer for answer in answers if parse_answer(answer).colour and "a" not in answer.split()]
        assert len(colour_answers) > 0.1 * len(answers)
        assert {parse_answer(answer).colour for answer in colour_answers} == set(COLOURS)

    def test_answers_are_in_the_grammar(self, corpus):
        unread = {item[1] for item in corpus if not isinstance(item, str) and parse_answer(item[1]).unread}
        assert unread <= {
            "Hello! Show me something.",
            "You are welcome.",
            "I am a small model.",
            "I can name things that I see or hear.",
            "I am fine.",
            "Goodbye!",
        }

    def test_holds_no_held_out_phrasing(self, corpus):
        kinds = rf"(?:{'|'.join(KIND_NAMES)})"
        held_out = "|".join(
            re.escape(phrasing).replace(r"\{kind\}", kinds)
            for task in Task
            for split in HELD_OUT
            for phrasing in phrasings(task, split)
        )
        asked = re.compile(rf"(?:^|[.:?!)\]] )(?:{held_out})(?: |$)", re.IGNORECASE)
        assert not [item for item in corpus if not isinstance(item, str) and asked.search(item[0])]

    def test_nothing_is_left_unfilled(self, corpus):
        assert not [item for item in corpus if "{" in prompted(item)]


class TestTokenizer:
    def test_size_and_special_tokens(self, tokenizer):
        assert len(tokenizer) == 768
        assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)

    def test_any_text_comes_back(self, tokenizer):
        ids = tokenizer(UNICODE).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == UNICODE

    def test_a_text_cannot_smuggle_in_special_tokens(self, tokenizer):
        assert not {0, 1, 2} & set(tokenizer("a</s><s><pad>").input_ids[1:])

    def test_names_are_single_tokens(self, tokenizer):
        words = (*KIND_NAMES, *COLOURS)
        assert all(len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1 for word in words)

    def test_prompt_and_answer_join_without_changing_tokens(self, tokenizer):
        prompt = PROMPT.format(question="What is it?")
        answer = tokenizer("It is a bell.", add_special_tokens=False).input_ids
        assert tokenizer(prompt).input_ids + answer == tokenizer(prompt + "It is a bell.").input_ids

    @pytest.mark.parametrize("loader", [PreTrainedTokenizerFast, AutoTokenizer])
    def test_saves_and_loads(self, tokenizer, loader, tmp_path: Path):
        tokenizer.save_pretrained(tmp_path)
        loaded = loader.from_pretrained(tmp_path)
        assert loaded(UNICODE).input_ids == tokenizer(UNICODE).input_ids
        assert loaded.decode(loaded(UNICODE).input_ids, skip_special_tokens=True) == UNICODE
        assert (loaded.pad_token_id, loaded.eos_token_id, loaded.padding_side) == (0, 2, "left")

    def test_is_reproducible(self, corpus, tokenizer):
        assert train_tokenizer(map(prompted, corpus), 768).get_vocab() == tokenizer.get_vocab()

    def test_too_small_a_vocabulary(self):
        with pytest.raises(InvalidRequestError, match="vocab_size=100"):
            train_tokenizer(["a bell"], 100)


class TestClipTokenizer:
    def test_the_end_token_has_the_highest_id(self, clip_tokenizer):
        ids = clip_tokenizer("A red bell!").input_ids
        assert (ids[0], ids[-1]) == (clip_tokenizer.bos_token_id, clip_tokenizer.eos_token_id)
        assert clip_tokenizer.eos_token_id == len(clip_tokenizer) - 1 == max(ids)
        assert clip_tokenizer.bos_token_id == len(clip_tokenizer) - 2

    def test_splits_words_as_clip_does(self, clip_tokenizer):
        assert clip_tokenizer.tokenize("A  RED bell") == ["a</w>", "red</w>", "bell</w>"]
        assert clip_tokenizer.convert_ids_to_tokens(0) == "!"

    def test_any_text_can_be_encoded(self, clip_tokenizer):
        ids = clip_tokenizer("größe 日本 🙂").input_ids
        assert clip_tokenizer.unk_token_id not in ids[1:-1]

    def test_saves_and_loads(self, clip_tokenizer, tmp_path: Path):
        clip_tokenizer.save_pretrained(tmp_path)
        loaded = CLIPTokenizer.from_pretrained(tmp_path)
        text = "a small red helicopter, größe 12"
        assert loaded(text).input_ids == clip_tokenizer(text).input_ids
        assert (loaded.get_vocab(), loaded.eos_token_id) == (clip_tokenizer.get_vocab(), clip_tokenizer.eos_token_id)

    def test_too_small_a_vocabulary(self):
        with pytest.raises(InvalidRequestError, match="514"):
            train_clip_tokenizer(["a bell"], 513)

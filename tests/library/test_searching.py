"""Searching: what is found, in which order, how it is grouped, filtered, mixed and diversified."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_embedder import DrawnEmbedder
from sample_files import write_image, write_sound

from ibllm_tools import Attachment, AttachmentStore, Hit, MediaLibrary
from ibllm_tools.errors import AttachmentNotFoundError, InvalidRequestError
from ibllm_tools.library import searching

PICTURES = 130


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for index in range(PICTURES):
        write_image(folder / f"{index:03d}.png", (index, 7, 7))
    for name, seconds in (("long", 40.0), ("short", 4.0)):
        write_sound(folder / f"{name}.wav", seconds=seconds)
    (folder / "bell.txt").write_text("An old bell rings in the tower. The BELL is heavy.")
    (folder / "drum.txt").write_text("A drum in a room, and one bell far away from all of it, so that nobody hears it.")
    (folder / "piano.txt").write_text("The piano stands in the hall.")
    return folder


@pytest.fixture(scope="module")
def embedder() -> DrawnEmbedder:
    return DrawnEmbedder()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, media: Path, embedder: DrawnEmbedder) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(tmp_path_factory.mktemp("library"), embedder=embedder) as library:
        library.add(
            media,
            metadata=lambda source: {
                "rare": Path(source).stem.endswith("42"),
                "number": int(Path(source).stem) if Path(source).stem.isdigit() else -1,
                "letters": list(Path(source).stem),
            },
        )
        yield library


def names(hits: list[Hit]) -> list[str]:
    return [hit.name for hit in hits]


def drawn(embedder: DrawnEmbedder, path: Path, index: int = 0) -> np.ndarray:
    attachment = Attachment(path)
    return embedder.draw(attachment.sha256, attachment.modality, index)


class TestSimilarity:
    def test_a_file_finds_itself_first(self, library: MediaLibrary, media: Path) -> None:
        hit = library.search(media / "007.png", k=3)[0]
        assert hit.name == "007.png"
        assert hit.similarity == pytest.approx(1, abs=1e-5)
        assert 0 <= hit.score <= 1

    def test_the_order_within_a_modality_is_that_of_an_exact_search(
        self, library: MediaLibrary, media: Path, embedder: DrawnEmbedder
    ) -> None:
        query = np.random.default_rng(3).normal(size=embedder.dimension).astype(np.float32)
        pictures = sorted(media.glob("*.png"))
        rows = np.stack([drawn(embedder, path) for path in pictures])
        expected = [pictures[index].name for index in np.argsort(-(rows @ query))[:20]]
        assert names(library.search(query, k=20, modality="image")) == expected

    def test_segments_are_grouped_by_source_best_first(
        self, library: MediaLibrary, media: Path, embedder: DrawnEmbedder
    ) -> None:
        window = drawn(embedder, media / "long.wav", index=3)
        hit = library.search(window, k=5)[0]
        assert (hit.name, hit.start, hit.end) == ("long.wav", 15, 25)
        assert hit.citation == "long.wav@15.0-25.0s"
        assert len(hit.segments) == 3
        assert hit.segments[0].id == hit.id
        scores = [segment.score for segment in hit.segments]
        assert scores == sorted(scores, reverse=True)
        assert len(names(library.search(window, k=5))) == len(set(names(library.search(window, k=5)))) == 5

    def test_more_sources_than_first_candidates_are_found(self, library: MediaLibrary) -> None:
        assert PICTURES > searching.FIRST
        query = np.ones(32, np.float32)
        assert len(library.search(query, k=PICTURES, modality="image")) == PICTURES
        assert len(library.search(query, k=1000)) == PICTURES + 5

    def test_only_the_modalities_that_are_wanted(self, library: MediaLibrary) -> None:
        query = np.ones(32, np.float32)
        assert {hit.modality for hit in library.search(query, k=9, modality=["audio", "text"])} == {"audio", "text"}
        assert library.search(query, modality="point") == []

    def test_scores_below_the_least_are_left_out(self, library: MediaLibrary, media: Path) -> None:
        every = library.search(media / "007.png", k=50)
        least = every[10].score
        assert names(library.search(media / "007.png", k=50, min_score=least)) == names(every[:11])

    def test_uncalibrated_scores_are_similarities(self, library: MediaLibrary, media: Path) -> None:
        for hit in library.search(media / "007.png", calibrated=False):
            assert hit.score == hit.similarity

    def test_a_mix_lies_between_its_parts_and_away_from_what_is_unwanted(
        self, library: MediaLibrary, media: Path
    ) -> None:
        first, second = media / "001.png", media / "002.png"
        assert set(names(library.search([first, second], k=2))) == {"001.png", "002.png"}
        hits = library.search([first, second], k=PICTURES + 5, query_weights=[1, -1])
        assert hits[0].name == "001.png"
        similarity = {hit.name: hit.similarity for hit in hits}
        assert similarity["002.png"] == min(similarity.values())

    def test_a_hit_and_a_handle_are_queries(self, library: MediaLibrary, media: Path) -> None:
        hit = library.search(media / "009.png", k=1)[0]
        assert library.search(hit, k=1)[0].id == hit.id
        assert library.search(hit.handle, k=1)[0].id == hit.id
        with pytest.raises(AttachmentNotFoundError, match="neither in the attachment store"):
            library.search("att://" + "0" * 64)

    def test_a_handle_is_the_copy_that_has_its_content(self, tmp_path: Path, embedder: DrawnEmbedder) -> None:
        copies = [tmp_path / folder / "a.png" for folder in ("one", "two", "three")]
        for copy in copies:
            copy.parent.mkdir()
            write_image(copy, (9, 9, 200))
        with MediaLibrary.open(None, embedder=embedder) as library:
            library.add(*copies)
            handle = Attachment(copies[0]).handle
            expected = drawn(embedder, copies[2])
            write_image(copies[0], (200, 9, 9))
            allowed = MediaLibrary(library.catalogue, embedder, None, roots=[copies[0].parent, copies[2].parent])
            assert np.allclose(allowed.embed_query(handle), expected)
            store = AttachmentStore(tmp_path / "store")
            store.path(store.put(copies[2])).write_bytes(copies[0].read_bytes())
            damaged = MediaLibrary(library.catalogue, embedder, store)
            assert np.allclose(damaged.embed_query(handle), expected)
            copies[2].unlink()
            with pytest.raises(AttachmentNotFoundError, match="has not changed"):
                allowed.embed_query(handle)

    def test_new_entries_are_found_at_once(self, tmp_path: Path, embedder: DrawnEmbedder) -> None:
        with MediaLibrary.open(None, embedder=embedder) as library:
            assert library.search(np.ones(32, np.float32)) == []
            for index in range(3):
                path = write_image(tmp_path / f"{index}.png", (index, 0, 200))
                library.add(path)
                assert library.search(path, k=1)[0].name == path.name
            library.delete(tmp_path / "1.png")
            assert "1.png" not in names(library.search(tmp_path / "1.png"))


class TestFilters:
    @pytest.mark.parametrize("again", ["first", "second"])
    def test_a_rare_value_is_found(self, library: MediaLibrary, media: Path, again: str) -> None:
        hits = library.search(media / "000.png", where={"rare": True})
        assert names(hits) == ["042.png"]

    @pytest.mark.parametrize(
        ("where", "passes"),
        [
            ({"number": {"$gte": 120}}, lambda number: number >= 120),
            ({"number": {"$gt": 3, "$lt": 90}}, lambda number: 3 < number < 90),
            ({"$or": [{"number": 5}, {"number": {"$in": [8, 77]}}]}, lambda number: number in (5, 8, 77)),
            ({"number": {"$ne": 5}, "rare": False}, lambda number: number not in (5, 42)),
            ({"letters": {"$contains": "9"}}, lambda number: "9" in f"{number:03d}"),
            ({"$and": [{"number": {"$nin": [1, 2]}}]}, lambda number: number not in (1, 2)),
        ],
    )
    def test_a_filtered_search_is_an_exact_one_among_what_passes(
        self, library: MediaLibrary, media: Path, embedder: DrawnEmbedder, where: dict[str, object], passes: object
    ) -> None:
        query = drawn(embedder, media / "100.png")
        left = [path for path in sorted(media.glob("*.png")) if passes(int(path.stem))]  # type: ignore[operator]
        scores = np.stack([drawn(embedder, path) for path in left]) @ query
        expected = [left[index].name for index in np.argsort(-scores)]
        assert names(library.search(query, k=PICTURES, modality="image", where=where)) == expected

    @pytest.mark.parametrize(
        "way",
        [
            {"PROBE": 10_000, "PROBED": 10_000},  # filtering the metadata of what comes back
            {"PROBED": 0, "READING": 10_000},  # filtering its ids
            {"PROBED": 0, "READING": 0},  # comparing all that passes
            {"PROBE": 1, "FIRST": 1, "COMMON": 0},  # in many rounds
        ],
        ids=["metadata", "ids", "exact", "rounds"],
    )
    def test_every_way_of_filtering_gives_the_same(
        self, library: MediaLibrary, media: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, int]
    ) -> None:
        asked = {"k": 5, "modality": "image", "where": {"number": {"$lt": 20}}}
        expected = names(library.search(media / "005.png", **asked))
        assert len(expected) == 5
        for name, value in way.items():
            monkeypatch.setattr(searching, name, value)
        fresh = MediaLibrary(library.catalogue, library.embedder, library.attachments)
        assert names(fresh.search(media / "005.png", **asked)) == expected
        assert names(fresh.search(media / "005.png", **asked)) == expected

    @pytest.mark.parametrize(
        ("where", "reason"),
        [
            ({}, "a filter like"),
            ("tag", "a filter like"),
            ({"a": {"$like": "x"}}, "expected some of"),
            ({"a": {}}, "expected some of"),
            ({"a": {"$gt": "x"}}, "a number"),
            ({"a": {"$in": []}}, "values of one type"),
            ({"a": {"$eq": None}}, "true or false"),
            ({"$or": []}, "a list of filters"),
            ({"$not": []}, r"\$and or \$or"),
        ],
    )
    def test_a_filter_that_is_none_is_refused(self, library: MediaLibrary, where: object, reason: str) -> None:
        with pytest.raises(InvalidRequestError, match=reason):
            library.search("bell", where=where)  # type: ignore[arg-type]


class TestWords:
    def test_words_are_found_case_apart_and_whole(self, library: MediaLibrary) -> None:
        assert names(library.search("bell", ranking="words")) == ["bell.txt", "drum.txt"]
        assert names(library.search("Piano", ranking="words")) == ["piano.txt"]
        assert library.search("pian", ranking="words") == []

    def test_rare_words_count_more(self, library: MediaLibrary) -> None:
        assert names(library.search("the piano bell", ranking="words"))[0] == "piano.txt"

    def test_titles_are_words_too(self, library: MediaLibrary) -> None:
        assert names(library.search("long", ranking="words", modality="audio")) == ["long.wav"]

    def test_what_looks_like_a_pattern_is_taken_literally(self, library: MediaLibrary) -> None:
        assert library.search(".* (", ranking="words") == []

    def test_the_best_has_one_and_no_similarity(self, library: MediaLibrary) -> None:
        hit = library.search("bell", ranking="words")[0]
        assert (hit.score, hit.similarity) == (1.0, None)

    def test_words_want_a_text(self, library: MediaLibrary, media: Path) -> None:
        with pytest.raises(InvalidRequestError, match="without text"):
            library.search(media / "001.png", ranking="words")

    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("5 \N{MICRO SIGN}m wide", "\N{GREEK SMALL LETTER MU}m"),
            ("5 \N{GREEK SMALL LETTER MU}m wide", "\N{MICRO SIGN}M"),
            ("हिन्दी भाषा", "हिन्दी"),
            ("Cafe\N{COMBINING ACUTE ACCENT} noir", "CAFÉ"),
            ("Café noir", "cafe\N{COMBINING ACUTE ACCENT}"),
            ("Eine STRASSE", "straße"),
            ("می\N{ZERO WIDTH NON-JOINER}خواهم", "می\N{ZERO WIDTH NON-JOINER}خواهم"),
            ("9 m² of snake_case", "m²"),
            ("9 m² of snake_case", "snake_case"),
        ],
    )
    def test_words_of_every_script_are_found(
        self, tmp_path: Path, embedder: DrawnEmbedder, text: str, query: str
    ) -> None:
        with MediaLibrary.open(None, embedder=embedder, attachments=tmp_path) as library:
            library.add(texts=[text, "Nothing of it."])
            assert [hit.text for hit in library.search(query, ranking="words")] == [text]

    @pytest.mark.parametrize("ranking", ["words", "hybrid"])
    def test_words_that_are_not_wanted_find_nothing(self, library: MediaLibrary, ranking: str) -> None:
        asked: Any = {"ranking": ranking, "query_weights": [1, -1]}
        hits = library.search(["piano", "drum"], **asked)
        assert hits[0].name == "piano.txt"
        if ranking == "words":
            assert names(hits) == ["piano.txt"]
        else:
            assert hits == library.search(["piano", library.embed_query("drum")], **asked)
        with pytest.raises(InvalidRequestError, match="not negative"):
            library.search("drum", ranking="words", query_weights=[-1])

    def test_a_hybrid_ranks_what_both_find_first(self, library: MediaLibrary, media: Path) -> None:
        hits = library.search(["bell", media / "drum.txt"], ranking="hybrid", query_weights=[0, 1], k=3)
        assert hits[0].name == "drum.txt"
        assert hits[0].score > hits[1].score
        assert {"bell.txt"} <= set(names(hits))


class TestDiversity:
    def test_near_duplicates_come_later(self, tmp_path: Path) -> None:
        directions = {"a": [1, 0.1, 0], "b": [1, 0.11, 0], "c": [0.8, 0, 0.6]}

        class Placed(DrawnEmbedder):
            def draw(self, sha256: str, modality: str, index: int) -> np.ndarray:
                row = np.array(directions[where[sha256]], np.float32)
                return np.asarray(row / np.linalg.norm(row))

        paths = {name: write_image(tmp_path / f"{name}.png", (ord(name), 0, 0)) for name in directions}
        where = {Attachment(path).sha256: name for name, path in paths.items()}
        with MediaLibrary.open(None, embedder=Placed(dimension=3)) as library:
            library.add(tmp_path)
            query = np.array([1, 0.1, 0], np.float32)
            assert names(library.search(query, k=2, calibrated=False)) == ["a.png", "b.png"]
            assert names(library.search(query, k=2, calibrated=False, diversity=0.7)) == ["a.png", "c.png"]
            few = library.search(query, k=2, calibrated=False, diversity=0.7, candidates=2)
            assert names(few) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"query": ""}, "blank text"),
        ({"query": []}, "expected text"),
        ({"query": 7}, "expected text"),
        ({"query": np.zeros(32, np.float32)}, "not zero"),
        ({"query": np.ones(5, np.float32)}, r"expected \(32,\)"),
        ({"query": np.full(32, np.nan, np.float32)}, "finite"),
        ({"query": ["a bell", "a bell"], "query_weights": [1, -1]}, "cancel"),
        ({"query": "a bell", "query_weights": [1, 2]}, "for 1 queries"),
        ({"query": "a bell", "query_weights": [1, 2], "ranking": "words"}, "for 1 queries"),
        ({"query": "a bell", "query_weights": ["x"], "ranking": "words"}, "for 1 queries"),
        ({"query": "a bell", "query_weights": [float("nan")], "ranking": "hybrid"}, "for 1 queries"),
        ({"query": "a bell", "k": 0}, "k=0"),
        ({"query": "a bell", "k": "3"}, "k='3'"),
        ({"query": "a bell", "segments": 0}, "segments=0"),
        ({"query": "a bell", "diversity": 2}, "diversity=2"),
        ({"query": "a bell", "candidates": 0}, "candidates=0"),
        ({"query": "a bell", "modality": "smell"}, "some of image"),
        ({"query": "a bell", "ranking": "best"}, "similarity, words, hybrid"),
    ],
)
def test_what_cannot_be_searched_for_is_said(library: MediaLibrary, arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        library.search(**arguments)  # type: ignore[arg-type]

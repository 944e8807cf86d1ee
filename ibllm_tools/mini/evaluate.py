"""How well the embedded model does on things, sounds and phrasings that it never saw: exact match, greedy decoding."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ibllm_tools.assistant.model_folder import CACHE_FILE, CACHE_TENSOR
from ibllm_tools.imagebind.clip_sampling import clip_spans
from ibllm_tools.imagebind.image_features import normalised_pixels
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration, mix_embeddings
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor
from ibllm_tools.mini.augmentation import depth_values
from ibllm_tools.mini.dataset import WorldData, build_split
from ibllm_tools.mini.world.language import (
    KNOWLEDGE_HELD_OUT_KINDS,
    Flavour,
    Task,
    ThingWords,
    example,
    is_correct,
    parse_answer,
)
from ibllm_tools.mini.world.language.phrasings import Split
from ibllm_tools.mini.world.scenes import Scene, render_video
from ibllm_tools.mini.world.scenes import Split as WorldSplit
from ibllm_tools.store.visual_cache import VisualCache

Sensed = Literal["image", "video", "audio", "depth", "point"]
VIDEO_FPS, VIDEO_SECONDS = 8, 3
SENSED: tuple[Sensed, ...] = ("image", "audio", "depth", "point")
"""What every scene of one thing is recorded as; videos are rendered when they are asked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was asked about what.
        target: the share that the model is meant to reach; ``None`` where it is only shown.
        plain: share of right answers without the visual cache.
        cached: the same with it.
        count: questions.
        at_most: whether the target is an upper limit.
    """

    name: str
    target: float | None
    plain: float
    cached: float
    count: int
    at_most: bool = False

    @property
    def aim(self) -> str:
        """The target with its direction, empty without one."""
        return "" if self.target is None else f"{'<=' if self.at_most else '>='} {self.target:.2f}"

    @property
    def verdict(self) -> str:
        """Whether the target is met with the cache on, as the model is shipped."""
        if self.target is None:
            return ""
        met = self.cached <= self.target if self.at_most else self.cached >= self.target
        return "met" if met else "missed"


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions about attachments.

    Attributes:
        tasks: what is asked.
        things: what the right answers name.
        embeddings: (Q, E), without the visual cache.
        phrasing: the split whose phrasings are used.
        flavour: the kind of media, for phrasings that fit it.
        enhanced: (Q, E) with the cache, where it is more than ``embeddings`` drawn towards their neighbours.
    """

    tasks: Sequence[Task]
    things: Sequence[tuple[ThingWords, ...]]
    embeddings: Tensor
    phrasing: Split
    flavour: Flavour | None = None
    enhanced: Tensor | None = None


class Evaluator:
    """Asks a model about a split.

    Args:
        model: the model.
        processor: of the model.
        data: the split.
        cache: its visual cache.
        seed: of the phrasings and of the mixes.
    """

    def __init__(
        self,
        model: ImageBindLlmForConditionalGeneration,
        processor: ImageBindLlmProcessor,
        data: WorldData,
        cache: VisualCache,
        *,
        seed: int = 7,
    ) -> None:
        self.model, self.processor = model.eval(), processor
        self.data, self.cache, self.seed = data, cache, seed

    @torch.no_grad()
    def embed(self, modality: Sensed, rows: NDArray[np.int64], batch_size: int = 128) -> Tensor:
        """Unit embeddings of some scenes as one modality hears or sees them: (R, E)."""
        chunks = []
        for start in tqdm(range(0, len(rows), batch_size), desc=f"embedding {modality}", leave=False):
            chunk = rows[start : start + batch_size]
            values = self.values(modality, chunk).to(self.model.device)
            chunks.append(F.normalize(self.model.imagebind.encode(modality, values), dim=-1).cpu())
        return torch.cat(chunks)

    def values(self, modality: Sensed, rows: NDArray[np.int64]) -> Tensor:
        """Tower inputs of some scenes, unaugmented."""
        if modality == "image":
            return normalised_pixels(self.data.rgb[rows])
        if modality == "audio":
            return torch.from_numpy(self.data.mels[rows].astype(np.float32))[:, None]
        if modality == "depth":
            return depth_values(self.data.depth[rows].astype(np.float32))
        if modality == "point":
            return torch.from_numpy(self.data.points[rows].astype(np.float32))
        return torch.stack([video_clips(self.data.scene(int(row)), self.processor.imagebind_processor) for row in rows])

    def answers(self, questions: Sequence[str], embeddings: Tensor, *, batch_size: int = 64) -> list[str]:
        """Greedy answers to questions about attachments (Q, E)."""
        texts: list[str] = []
        for start in range(0, len(questions), batch_size):
            part = slice(start, start + batch_size)
            inputs = self.processor(questions[part]).to(self.model.device)
            batch = embeddings[part].to(self.model.device)
            ids = self.model.generate(**inputs, embeddings=batch, do_sample=False, max_new_tokens=32)
            texts += [self.processor.decode(row) for row in ids[:, inputs["input_ids"].shape[1] :]]
        return texts

    def ask(self, questions: Questions, *, cached: bool) -> tuple[list[str], list[bool]]:
        """Ask, and judge each answer."""
        rng = np.random.default_rng(self.seed)
        asked = [
            example(task, things, rng, questions.phrasing, flavour=questions.flavour)[0]
            for task, things in zip(questions.tasks, questions.things, strict=True)
        ]
        embeddings = questions.embeddings
        if cached:
            embeddings = self.cache.enhance(embeddings) if questions.enhanced is None else questions.enhanced
        texts = self.answers(asked, embeddings)
        judged = zip(questions.tasks, questions.things, texts, asked, strict=True)
        return texts, [is_correct(task, things, text, question) for task, things, text, question in judged]

    def share(self, name: str, target: float | None, questions: Questions) -> Row:
        """A line of the table: the share of right answers, without and with the cache."""
        plain, cached = (float(np.mean(self.ask(questions, cached=cached)[1])) for cached in (False, True))
        return Row(name, target, plain, cached, len(questions.things))

    def table(self, phrasing: Split) -> list[Row]:
        """Every line of the evaluation, with the phrasings of a split."""
        data, single = self.data, self.data.single
        named: dict[Sensed, Tensor] = {modality: self.embed(modality, single) for modality in SENSED}
        filmed = np.random.default_rng(self.seed).permutation(single)[:330]
        named["video"] = self.embed("video", filmed, batch_size=32)
        targets: dict[Sensed, float] = {"image": 0.95, "video": 0.95, "audio": 0.93, "depth": 0.85, "point": 0.85}
        rows = []
        for modality, target in targets.items():
            things = [colourless(data.things[row]) for row in (filmed if modality == "video" else single)]
            questions = Questions([Task.IDENTIFY] * len(things), things, named[modality], phrasing, modality)
            rows.append(self.share(f"{modality}: what is it?", target, questions))
        rows.append(self._phrasing_row(rows[0], named["image"]))
        rows += self._picture_rows(named, phrasing)
        rows.append(self._mix_row(named, phrasing))
        rows += self._refusal_rows(named, phrasing)
        return rows

    def _phrasing_row(self, held_out: Row, images: Tensor) -> Row:
        """How much is lost when "what is it?" is asked of an image in words that training never used."""
        things = [colourless(self.data.things[row]) for row in self.data.single]
        seen = self.share("", None, Questions([Task.IDENTIFY] * len(things), things, images, "train", "image"))
        gaps = seen.plain - held_out.plain, seen.cached - held_out.cached
        return Row("image: loss on held-out phrasings", 0.05, *gaps, len(things), at_most=True)

    def _picture_rows(self, named: Mapping[Sensed, Tensor], phrasing: Split) -> list[Row]:
        data, single = self.data, self.data.single
        images = named["image"]
        things = [data.things[row] for row in single]
        rows = [
            self.share("image: colour", 0.90, Questions([Task.COLOUR] * len(things), things, images, phrasing, "image"))
        ]
        for task, name in ((Task.YES_NO, "is it a ...?"), (Task.COUNT, "how many things?")):
            questions = Questions([task] * len(things), [colourless(t) for t in things], images, phrasing, "image")
            rows.append(self.share(f"image: {name}", None, questions))
        held = [index for index, thing in enumerate(things) if thing[0].kind in KNOWLEDGE_HELD_OUT_KINDS]
        for task, name in ((Task.SOUND, "what sound does it make?"), (Task.USE, "what is it used for?")):
            picked = [things[index] for index in held]
            questions = Questions([task] * len(held), picked, images[held], phrasing, "image")
            rows.append(self.share(f"image, kinds never asked: {name}", 0.85, questions))
        grey = [colourless(data.things[row]) for row in data.greyscale]
        embeddings = self.embed("image", data.greyscale)
        rows.append(
            self.share(
                "greyscale image: what is it?",
                None,
                Questions([Task.IDENTIFY] * len(grey), grey, embeddings, phrasing, "image"),
            )
        )
        rows.append(
            self.share(
                "greyscale image: cannot tell the colour",
                0.85,
                Questions([Task.GREY_COLOUR] * len(grey), grey, embeddings, phrasing, "image"),
            )
        )
        pairs = [colourless(data.things[row]) for row in data.pair]
        rows.append(
            self.share(
                "two things in one image",
                None,
                Questions([Task.PAIR] * len(pairs), pairs, self.embed("image", data.pair), phrasing, "image"),
            )
        )
        return rows

    def _mix_row(self, named: Mapping[Sensed, Tensor], phrasing: Split, count: int = 500) -> Row:
        rng = np.random.default_rng(self.seed + 1)
        single = self.data.single
        things: list[tuple[ThingWords, ...]] = []
        mixes: dict[bool, list[Tensor]] = {False: [], True: []}
        sources = {False: named, True: {modality: self.cache.enhance(rows) for modality, rows in named.items()}}
        while len(things) < count:
            first, second = (int(index) for index in rng.integers(0, len(single), 2))
            kinds = [self.data.things[single[index]][0].kind for index in (first, second)]
            if kinds[0] == kinds[1]:
                continue
            left, right = (SENSED[index] for index in rng.permutation(len(SENSED))[:2])
            things.append(tuple(ThingWords(kind) for kind in kinds))
            for cached, vectors in sources.items():
                mixes[cached].append(
                    mix_embeddings([vectors[left][first : first + 1], vectors[right][second : second + 1]])
                )
        plain, enhanced = (torch.cat(mixes[cached]) for cached in (False, True))
        questions = Questions([Task.PAIR] * count, things, plain, phrasing, enhanced=enhanced)
        return self.share("a mix of two attachments: names both", 0.60, questions)

    def _refusal_rows(self, named: Mapping[Sensed, Tensor], phrasing: Split) -> list[Row]:
        data = self.data
        strangers = [data.things[row] for row in data.unknown]
        rows = []
        for modality in SENSED:
            outside = [Task.UNKNOWN] * len(strangers), strangers, self.embed(modality, data.unknown), phrasing, modality
            target = 0.70 if modality == "image" else None
            rows.append(self.share(f"{modality} of an unknown thing: says so", target, Questions(*outside)))
        things = [colourless(data.things[row]) for row in data.single]
        known = Questions([Task.IDENTIFY] * len(things), things, named["image"], phrasing, "image")
        refused = [
            float(np.mean([parse_answer(text).refused for text in self.ask(known, cached=cached)[0]]))
            for cached in (False, True)
        ]
        rows.append(
            Row("image of a known thing: false refusals", 0.05, refused[0], refused[1], len(things), at_most=True)
        )
        return rows


def colourless(things: tuple[ThingWords, ...]) -> tuple[ThingWords, ...]:
    """The same things, without what the question does not ask for."""
    return tuple(ThingWords(thing.kind) for thing in things)


def video_clips(scene: Scene, processor: ImageBindProcessor) -> Tensor:
    """A moving scene as the processor hands it to the vision tower: (clips, 3, T, S, S)."""
    size, count = processor.image_size, int(VIDEO_FPS * VIDEO_SECONDS)
    frames = render_video(scene, frames=count, fps=VIDEO_FPS, size=size)
    clips = []
    for start, end in clip_spans(VIDEO_SECONDS, processor.video_clips, processor.clip_seconds):
        first, last = math.ceil(start * VIDEO_FPS), min(math.ceil(end * VIDEO_FPS), count) - 1
        picked = np.linspace(first, last, processor.frames_per_clip).astype(int)
        clips.append(normalised_pixels(frames[picked]).transpose(0, 1))  # (3, T, S, S)
    return torch.stack(clips)


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    lines = ["| asked | questions | target | cache off | cache on | |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    lines += [
        f"| {row.name} | {row.count} | {row.aim} | {row.plain:.3f} | {row.cached:.3f} | {row.verdict} |" for row in rows
    ]
    return "\n".join(lines)


def evaluate_folder(model: Path, folder: Path, split: WorldSplit, *, workers: int = 2) -> list[Row]:
    """Evaluate a model's folder on a split, which is rendered where it is not there yet.

    Args:
        model: of the finished model.
        folder: its ``data`` holds the splits.
        split: ``"validation"`` while tuning, ``"test"`` for the numbers that are published.
        workers: processes that render.
    """
    build_split(folder / "data", split, workers=workers)
    loaded = ImageBindLlmForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    loaded.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type] # a decorator hides it
    processor = ImageBindLlmProcessor.from_pretrained(model)
    features = load_file(model / CACHE_FILE)[CACHE_TENSOR].float()
    with VisualCache.from_features(features, fingerprint="mini") as cache:
        return Evaluator(loaded, processor, WorldData(folder / "data", split), cache).table(split)

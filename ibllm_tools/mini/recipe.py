"""The recipe of the embedded model. Every stage leaves a file, and a finished stage is not run again."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer, GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ibllm_tools.assistant.model_folder import CACHE_FILE, CACHE_TENSOR
from ibllm_tools.errors import CheckpointError, InvalidRequestError
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor
from ibllm_tools.mini import contrastive
from ibllm_tools.mini.architecture import (
    AUDIO_CLIPS,
    IMAGE_SIZE,
    MEL_BINS,
    MEL_FRAMES,
    NUM_POINTS,
    TEXT_LENGTH,
    imagebind_config,
    imagebind_llm_config,
)
from ibllm_tools.mini.augmentation import Bound
from ibllm_tools.mini.dataset import WorldData, build_split
from ibllm_tools.mini.instructions import Drawn, Instructor, from_text
from ibllm_tools.mini.plan import Plan
from ibllm_tools.mini.world.catalog import KIND_NAMES
from ibllm_tools.mini.world.language import PROMPT, captions, text_corpus
from ibllm_tools.mini.world.language.tokenization import train_clip_tokenizer, train_tokenizer
from ibllm_tools.training.dataset import ExampleDataset
from ibllm_tools.training.lora import merge_lora
from ibllm_tools.training.schedule import Recipe as StageRecipe
from ibllm_tools.training.stages import Stage, prepare_for_stage
from ibllm_tools.training.trainer import BindingTrainer

SEED = 20230907
EMBEDDINGS = "image_embeddings"
SOURCES: dict[str, tuple[str, ...]] = {
    "image-text": (),
    EMBEDDINGS: ("image-text",),
    "audio": (EMBEDDINGS,),
    "depth": (EMBEDDINGS,),
    "point": (EMBEDDINGS,),
    "language": (),
    "bind": (EMBEDDINGS, "language"),
    "instruct": (EMBEDDINGS, "language", "bind"),
}
"""What each stage is made from."""

MODEL_CARD = """\
---
license: apache-2.0
---
# mini: the embedded model of ibllm-tools

An ImageBind-LLM (arXiv 2309.03905) of {parameters:.1f} million parameters for a procedural world of {kinds} kinds of
things. Weights, tokenizers and the {features:,} image features of its visual cache were made by
`python -m ibllm_tools.mini train` from data that the same code generates; no other data and no other weights went into
it. It knows nothing of the real world.
"""

SORTS = ("colour", "grey")
"""How the training pictures are embedded: as they are, and without colours."""


class Recipe:
    """All stages, in a folder that holds the data set, the unfinished and the finished stages.

    Args:
        folder: where everything is kept; created where it does not exist.
        output: folder of the finished model; ``model`` in ``folder`` by default.
        workers: processes that render.
        plan: the numbers; the ones of the shipped model by default.
    """

    def __init__(self, folder: Path, *, output: Path | None = None, workers: int = 2, plan: Plan | None = None) -> None:
        self.folder, self.output, self.workers = folder, output or folder / "model", workers
        self.plan = plan or Plan()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def stages(self) -> dict[str, Callable[[], None]]:
        """The stages by name, in their order."""
        return {
            "data": self.render,
            "tokenizers": self.train_tokenizers,
            "image-text": self.train_image_text,
            "audio": lambda: self.train_bound("audio"),
            "depth": lambda: self.train_bound("depth"),
            "point": lambda: self.train_bound("point"),
            "language": self.train_language,
            "bind": self.train_bind,
            "instruct": self.train_instruct,
            "export": self.export,
        }

    def run(self, names: Iterable[str] | None = None) -> None:
        """Run some stages, or all of them.

        Raises:
            InvalidRequestError: there is no stage of that name.
        """
        for name in names or self.stages:
            if name not in self.stages:
                raise InvalidRequestError(f"no stage {name!r}; expected one of {', '.join(self.stages)}")
            torch.manual_seed(SEED)
            self.stages[name]()

    def finished(self, name: str) -> Path:
        """The file of a finished stage."""
        return self.folder / f"{name}.safetensors"

    def is_finished(self, name: str) -> bool:
        """Whether a stage has its file, made from the stages before it as they are now.

        Raises:
            CheckpointError: it was made from others.
        """
        path = self.finished(name)
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            made_from = file.metadata() or {}
        if made_from != self._sources(name):
            raise CheckpointError(
                f"{path} was made from other stages than those beside it; delete it to train it again"
            )
        return True

    def finish(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the file of a stage, all or nothing, with the hashes of the stages that it was made from."""
        partial = self.finished(name).with_suffix(".partial")
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, partial, self._sources(name))
        partial.rename(self.finished(name))
        self.unfinished(name).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints(name), ignore_errors=True)

    def _sources(self, name: str) -> dict[str, str]:
        files = {source: self.finished(source) for source in SOURCES[name]}
        return {source: hashlib.sha256(file.read_bytes()).hexdigest() for source, file in files.items()}

    def unfinished(self, name: str) -> Path:
        """The checkpoint of an unfinished contrastive stage."""
        return self.folder / f"{name}.checkpoint.pt"

    def checkpoints(self, name: str) -> Path:
        """The checkpoints of an unfinished stage of the language model."""
        return self.folder / f"{name}.checkpoints"

    def render(self) -> None:
        """Draw and render the three splits."""
        for split, composition in self.plan.compositions.items():
            build_split(self.folder / "data", split, composition=composition, workers=self.workers)

    @cached_property
    def train_data(self) -> WorldData:
        """The training split."""
        return WorldData(self.folder / "data", "train")

    def train_tokenizers(self) -> None:
        """The text tower's tokenizer from captions, the language model's from its corpus."""
        rng = np.random.default_rng(SEED)
        if not (self.folder / "text_tokenizer").exists():
            data = self.train_data
            rows = rng.integers(0, len(data), 20_000)
            texts = [captions(data.things[row], rng, grey=bool(rng.random() < 0.2)) for row in rows]
            self._save_tokenizer("text_tokenizer", train_clip_tokenizer(texts, self.plan.text_vocabulary))
        if not (self.folder / "llm_tokenizer").exists():
            corpus = text_corpus(rng, 40_000)
            lines = [line for item in corpus for line in ((item,) if isinstance(item, str) else item)]
            self._save_tokenizer("llm_tokenizer", train_tokenizer(lines, self.plan.llm_vocabulary))

    def _save_tokenizer(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        partial = self.folder / f"{name}.partial"
        tokenizer.save_pretrained(partial)
        partial.rename(self.folder / name)

    @cached_property
    def text_tokenizer(self) -> PreTrainedTokenizerBase:
        """The text tower's tokenizer."""
        return CLIPTokenizer.from_pretrained(self.folder / "text_tokenizer")

    @cached_property
    def llm_tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokenizer."""
        return PreTrainedTokenizerFast.from_pretrained(self.folder / "llm_tokenizer")

    def imagebind(self, *stages: str) -> ImageBindModel:
        """The joint embedding with the towers of some finished stages, the rest as initialised."""
        torch.manual_seed(SEED)
        model = ImageBindModel(imagebind_config(len(self.text_tokenizer)))
        for stage in stages:
            _, unexpected = model.load_state_dict(load_file(self.finished(stage)), strict=False)
            self._refuse(stage, unexpected)
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def _refuse(self, stage: str, unexpected: list[str]) -> None:
        if unexpected:
            raise CheckpointError(f"{self.finished(stage).name}: unexpected weights {unexpected}; delete the file")

    def save_towers(self, name: str, model: ImageBindModel, towers: Iterable[str]) -> None:
        """Write the weights of some towers as the file of a stage."""
        tensors = {
            f"{tower}_model.{key}": value
            for tower in towers
            for key, value in nn.Module.state_dict(getattr(model, f"{tower}_model")).items()
        }
        self.finish(name, tensors)

    def train_image_text(self) -> None:
        """Images with texts, from scratch."""
        if self.is_finished("image-text"):
            return
        model = self.imagebind()
        contrastive.train_image_text(
            model, self.train_data, self.text_tokenizer, self.plan.image_text, self.unfinished("image-text")
        )
        self.save_towers("image-text", model, ("vision", "text"))

    def train_bound(self, modality: Bound) -> None:
        """One more modality against the frozen image tower."""
        if self.is_finished(modality):
            return
        model = self.imagebind("image-text")
        targets = self.image_embeddings("grey")
        contrastive.train_bound_modality(
            model, modality, self.train_data, targets, self.plan.bound[modality], self.unfinished(modality)
        )
        self.save_towers(modality, model, (modality,))

    @cached_property
    def processor(self) -> ImageBindLlmProcessor:
        """Attachments and questions -> tensors."""
        imagebind = ImageBindProcessor(
            self.text_tokenizer,
            image_size=IMAGE_SIZE,
            num_mel_bins=MEL_BINS,
            audio_target_length=MEL_FRAMES,
            audio_clips=AUDIO_CLIPS,
            num_points=NUM_POINTS,
            context_length=TEXT_LENGTH,
        )
        template = PROMPT.format(question="{instruction}")
        with_input = PROMPT.format(question="{input} {instruction}")
        return ImageBindLlmProcessor(
            imagebind, self.llm_tokenizer, prompt_template=template, prompt_template_with_input=with_input
        )

    def model(self, *stages: str, complete: bool = False) -> ImageBindLlmForConditionalGeneration:
        """The whole model with the weights of some finished stages, the rest as initialised.

        Raises:
            CheckpointError: a stage's file has other weights; or, for a ``complete`` one, no stage has some of them.
        """
        loaded: set[str] = set()
        torch.manual_seed(SEED)
        config = imagebind_llm_config(len(self.text_tokenizer), self.llm_tokenizer)
        model = ImageBindLlmForConditionalGeneration(config)
        for stage in stages:
            weights = load_file(self.finished(stage))
            if stage in ("image-text", *self.plan.bound):
                weights = {f"imagebind.{name}": value for name, value in weights.items()}
            if "prefix_value_down" in weights:
                model = _with_prefix_values(model, weights)
            _, unexpected = model.load_state_dict(weights, strict=False)
            self._refuse(stage, unexpected)
            loaded |= weights.keys()
        missing = [key for key in _untied(model.state_dict()) if key not in loaded]
        if complete and missing:
            raise CheckpointError(f"no stage has the weights {missing}; run the stages again from the first")
        return model

    def train_language(self) -> None:
        """The language model on the world's texts, from scratch."""
        if self.is_finished("language"):
            return
        model = self.model()
        examples = Drawn(from_text, self.plan.language.examples, seed=SEED)
        self._train_stage(model, "language", examples, self.plan.language.recipe, "language")
        weights = {f"language_model.{name}": value for name, value in model.language_model.state_dict().items()}
        self.finish("language", _untied(weights))

    def image_embeddings(self, sort: Literal["colour", "grey"]) -> Tensor:
        """Unit embeddings of the training pictures as they are, or without colours, (N, E); computed once."""
        if not self.is_finished(EMBEDDINGS):
            model = self.imagebind("image-text")
            sorts = {name: contrastive.embed_images(model, self.train_data.rgb, grey=name == "grey") for name in SORTS}
            self.finish(EMBEDDINGS, sorts)
        return load_file(self.finished(EMBEDDINGS))[sort]

    def instructor(self) -> Instructor:
        """What draws examples about the training pictures."""
        return Instructor(self.train_data, self.image_embeddings("colour"), self.image_embeddings("grey"))

    def train_bind(self) -> None:
        """Bind network, prefix queries and gates, on naming and describing pictures."""
        if self.is_finished("bind"):
            return
        model = self.model("language")
        examples = Drawn(self.instructor().caption, self.plan.bind.examples, seed=SEED + 1)
        self._train_stage(model, "pretrain", examples, self.plan.bind.recipe, "bind")
        self.finish("bind", _part(model, ("bind_network.", "prefix_queries", "gates")))

    def train_instruct(self) -> None:
        """LoRA, biases and norms of the language model, on every task and on text alone; merged at the end."""
        if self.is_finished("instruct"):
            return
        model = self.model("language", "bind")
        examples = Drawn(self.instructor().instruction, self.plan.instruct.examples, seed=SEED + 2)
        self._train_stage(model, "finetune", examples, self.plan.instruct.recipe, "instruct")
        merge_lora(model)
        self.finish("instruct", _untied(_part(model, ("language_model.", "prefix_value"))))

    def export(self) -> None:
        """The finished model as a folder that ``from_pretrained`` loads: fp16 weights, processor, visual cache."""
        model = self.model("image-text", *self.plan.bound, "language", "bind", "instruct", complete=True).eval()
        generation = GenerationConfig(
            do_sample=False,
            max_new_tokens=48,
            bos_token_id=self.llm_tokenizer.bos_token_id,
            eos_token_id=self.llm_tokenizer.eos_token_id,
            pad_token_id=self.llm_tokenizer.pad_token_id,
        )
        model.generation_config = generation
        for stage in SOURCES:
            self.is_finished(stage)
        model.half().save_pretrained(self.output)
        self.processor.save_pretrained(self.output)
        bank = self.bank()
        save_file({CACHE_TENSOR: bank.half()}, self.output / CACHE_FILE)
        parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        card = MODEL_CARD.format(parameters=parameters, kinds=len(KIND_NAMES), features=len(bank))
        (self.output / "README.md").write_text(card, encoding="utf-8")

    def bank(self) -> Tensor:
        """The image features of the visual cache, (N, E): kinds in colour, kinds in grey, pairs, strangers."""
        instructor, data = self.instructor(), self.train_data
        rng = np.random.default_rng(SEED)
        colours, greys = self.plan.bank["coloured"] // len(KIND_NAMES), self.plan.bank["grey"] // len(KIND_NAMES)
        of_kind = [data.single[[data.things[row][0].kind == kind for row in data.single]] for kind in KIND_NAMES]
        coloured = np.concatenate([rng.choice(rows, colours, replace=False) for rows in of_kind])
        grey = np.concatenate([rng.choice(rows, greys, replace=False) for rows in of_kind])
        pairs = rng.choice(data.pair, self.plan.bank["pairs"], replace=False)
        strangers = rng.choice(data.unknown, self.plan.bank["strangers"], replace=False)
        seen = np.concatenate([coloured, pairs, strangers])
        return torch.cat([instructor.colour[seen], instructor.grey[grey]])

    def _train_stage(
        self,
        model: ImageBindLlmForConditionalGeneration,
        stage: Stage,
        examples: Drawn,
        recipe: StageRecipe,
        name: str,
    ) -> None:
        prepare_for_stage(model, stage)
        trainer = BindingTrainer(
            model,
            ExampleDataset(examples, self.processor, max_words=recipe.max_words),
            recipe,
            self.checkpoints(name),
            pad_token_id=self.llm_tokenizer.pad_token_id,
            save_strategy="steps",
            save_steps=400,
            max_grad_norm=1.0,
        )
        trainer.run()


def _part(model: nn.Module, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in model.state_dict().items() if name.startswith(prefixes)}


def _untied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the output layer, which is the token embedding once more."""
    return {name: value for name, value in weights.items() if not name.endswith("lm_head.weight")}


def _with_prefix_values(
    model: ImageBindLlmForConditionalGeneration, weights: dict[str, Tensor]
) -> ImageBindLlmForConditionalGeneration:
    """The same model with room for the low-rank difference that a merged LoRA leaves for the prefix."""
    config = model.config
    config.prefix_value_rank = weights["prefix_value_down"].shape[1]
    grown = ImageBindLlmForConditionalGeneration(config)
    grown.load_state_dict(model.state_dict(), strict=False)
    return grown

"""The recipe of the embedded model, stage by stage; every stage leaves a file, and a finished stage is not run again."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.mini import contrastive
from ibllm_tools.mini.architecture import imagebind_config
from ibllm_tools.mini.augmentation import Bound
from ibllm_tools.mini.contrastive import Schedule
from ibllm_tools.mini.dataset import COMPOSITIONS, WorldData, build_split
from ibllm_tools.mini.world.language import captions, text_corpus
from ibllm_tools.mini.world.language.tokenization import train_clip_tokenizer, train_tokenizer

SEED = 20230907
TEXT_VOCABULARY, LLM_VOCABULARY = 760, 768
IMAGE_TEXT = Schedule(steps=3200, batch_size=256, learning_rate=1.2e-3, warmup=150)
BOUND: dict[Bound, Schedule] = {
    "audio": Schedule(steps=1400, batch_size=192, learning_rate=1.5e-3),
    "depth": Schedule(steps=1400, batch_size=192, learning_rate=1.5e-3),
    "point": Schedule(steps=1400, batch_size=128, learning_rate=1.5e-3),
}


class Recipe:
    """All stages, in a folder that holds the data set, the unfinished and the finished stages.

    Args:
        folder: where everything is kept; created where it does not exist.
        workers: processes that render.
    """

    def __init__(self, folder: Path, *, workers: int = 2) -> None:
        self.folder, self.workers = folder, workers
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

    def unfinished(self, name: str) -> Path:
        """The checkpoint of an unfinished stage."""
        return self.folder / f"{name}.checkpoint.pt"

    def render(self) -> None:
        """Draw and render the three splits."""
        for split in COMPOSITIONS:
            build_split(self.folder / "data", split, workers=self.workers)

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
            train_clip_tokenizer(texts, TEXT_VOCABULARY).save_pretrained(self.folder / "text_tokenizer")
        if not (self.folder / "llm_tokenizer").exists():
            corpus = text_corpus(rng, 40_000)
            lines = [line for item in corpus for line in ((item,) if isinstance(item, str) else item)]
            train_tokenizer(lines, LLM_VOCABULARY).save_pretrained(self.folder / "llm_tokenizer")

    @cached_property
    def text_tokenizer(self) -> PreTrainedTokenizerBase:
        """The text tower's tokenizer."""
        from transformers import CLIPTokenizer

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
            assert not unexpected, unexpected
        return model.eval()

    def save_towers(self, name: str, model: ImageBindModel, towers: Iterable[str]) -> None:
        """Write the weights of some towers as the file of a stage."""
        tensors = {
            f"{tower}_model.{key}": value.contiguous()
            for tower in towers
            for key, value in nn.Module.state_dict(getattr(model, f"{tower}_model")).items()
        }
        save_file(tensors, self.finished(name))

    def train_image_text(self) -> None:
        """Images with texts, from scratch."""
        if self.finished("image-text").exists():
            return
        model = self.imagebind()
        contrastive.train_image_text(
            model, self.train_data, self.text_tokenizer, IMAGE_TEXT, self.unfinished("image-text")
        )
        self.save_towers("image-text", model, ("vision", "text"))

    def train_bound(self, modality: Bound) -> None:
        """One more modality against the frozen image tower."""
        if self.finished(modality).exists():
            return
        model = self.imagebind("image-text")
        targets = contrastive.embed_images(model, self.train_data.rgb, grey=True)
        contrastive.train_bound_modality(
            model, modality, self.train_data, targets, BOUND[modality], self.unfinished(modality)
        )
        self.save_towers(modality, model, (modality,))

"""The numbers of the recipe: how much is rendered, how long each stage trains. Two CPU cores need about two hours."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ibllm_tools.mini.augmentation import Bound
from ibllm_tools.mini.contrastive import Schedule
from ibllm_tools.mini.dataset import COMPOSITIONS, Composition
from ibllm_tools.mini.world.scenes import Split
from ibllm_tools.training.schedule import Recipe as StageRecipe


def _stage(base_learning_rate: float, weight_decay: float, batch_size: int = 64) -> StageRecipe:
    """One pass over examples that are drawn anew, the first twentieth of it warming up."""
    return StageRecipe(
        base_learning_rate=base_learning_rate,
        epochs=1,
        warmup_epochs=0.05,
        weight_decay=weight_decay,
        max_words=96,
        batch_size=batch_size,
    )


@dataclass(frozen=True, slots=True)
class LanguageStage:
    """A stage on ``training/``: the numbers of its recipe, and how many steps of it."""

    recipe: StageRecipe
    steps: int

    @property
    def examples(self) -> int:
        """How many examples are drawn."""
        return self.steps * self.recipe.batch_size


@dataclass(frozen=True, slots=True)
class Plan:
    """All numbers of the recipe.

    Attributes:
        compositions: scenes per split.
        text_vocabulary: tokens of the text tower.
        llm_vocabulary: tokens of the language model.
        image_text: the first contrastive stage.
        bound: the contrastive stages of the other modalities.
        language: the language model on text alone.
        bind: bind network, prefix queries and gates.
        instruct: LoRA, biases and norms of the language model.
        bank: image features in the visual cache, by sort of picture.
    """

    compositions: Mapping[Split, Composition] = field(default_factory=lambda: COMPOSITIONS)
    text_vocabulary: int = 760
    llm_vocabulary: int = 768
    image_text: Schedule = field(
        default_factory=lambda: Schedule(steps=2000, batch_size=256, learning_rate=1.2e-3, warmup=150)
    )
    bound: Mapping[Bound, Schedule] = field(
        default_factory=lambda: {
            "audio": Schedule(steps=1000, batch_size=160, learning_rate=1.5e-3),
            "depth": Schedule(steps=1000, batch_size=192, learning_rate=1.5e-3),
            "point": Schedule(steps=1000, batch_size=128, learning_rate=1.5e-3),
        }
    )
    language: LanguageStage = field(default_factory=lambda: LanguageStage(_stage(6e-3, 0.05), steps=2600))
    bind: LanguageStage = field(default_factory=lambda: LanguageStage(_stage(1.6e-2, 0.02), steps=2000))
    instruct: LanguageStage = field(default_factory=lambda: LanguageStage(_stage(6e-3, 0.02), steps=2400))
    bank: Mapping[str, int] = field(
        default_factory=lambda: {"coloured": 1584, "grey": 66, "pairs": 400, "strangers": 300}
    )

"""The whole recipe at a tiny scale: every stage runs, resumes, and leaves a model that loads and answers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ibllm_tools.errors import CheckpointError, InvalidRequestError
from ibllm_tools.imagebind.image_features import normalised_pixels
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor
from ibllm_tools.mini import contrastive
from ibllm_tools.mini.contrastive import Schedule, contrastive_loss, optimise
from ibllm_tools.mini.dataset import Composition, WorldData
from ibllm_tools.mini.evaluate import evaluate_folder, markdown, video_clips
from ibllm_tools.mini.instructions import Drawn
from ibllm_tools.mini.plan import LanguageStage, Plan
from ibllm_tools.mini.recipe import Recipe
from ibllm_tools.mini.world.language import KNOWLEDGE_HELD_OUT_KINDS, parse_answer
from ibllm_tools.training.schedule import Recipe as StageRecipe

SCHEDULE = Schedule(steps=2, batch_size=12, learning_rate=1e-3, warmup=1)
STAGE = LanguageStage(
    StageRecipe(base_learning_rate=1e-3, epochs=1, warmup_epochs=0.5, weight_decay=0.0, max_words=64, batch_size=4), 2
)
PLAN = Plan(
    compositions={
        "train": Composition(single=264, pair=12, unknown=12),
        "validation": Composition(single=33, pair=6, unknown=6, grey=6),
        "test": Composition(single=33, pair=6, unknown=6, grey=6),
    },
    image_text=SCHEDULE,
    bound={"audio": SCHEDULE, "depth": SCHEDULE, "point": SCHEDULE},
    language=STAGE,
    bind=STAGE,
    instruct=STAGE,
    bank={"coloured": 66, "grey": 33, "pairs": 6, "strangers": 6},
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = Recipe(tmp_path_factory.mktemp("mini"), workers=1, plan=PLAN)
    recipe.run()
    return recipe


def test_the_recipe_ends_in_a_model_that_loads_and_answers(recipe: Recipe) -> None:
    model = ImageBindLlmForConditionalGeneration.from_pretrained(recipe.output, dtype=torch.float32).eval()
    processor = ImageBindLlmProcessor.from_pretrained(recipe.output)
    image = recipe.train_data.rgb[0]
    embeddings = model.imagebind.encode("image", processor.imagebind_processor.process("image", [np.array(image)]))
    inputs = processor("What is it?")
    ids = model.generate(**inputs, embeddings=embeddings, max_new_tokens=4)
    assert ids.shape[1] > inputs["input_ids"].shape[1]


def test_the_shipped_weights_are_half_precision_and_include_the_cache_bank(recipe: Recipe) -> None:
    weights = load_file(recipe.output / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    assert load_file(recipe.output / "visual_cache.safetensors")["features"].shape == (111, 192)
    assert sum(file.stat().st_size for file in recipe.output.glob("*.safetensors")) <= 16_000_000


def test_finished_stages_leave_no_checkpoints(recipe: Recipe) -> None:
    assert not list(recipe.folder.glob("*checkpoint*"))
    assert not list(recipe.folder.glob("*.partial"))


def test_a_finished_stage_is_not_run_again(recipe: Recipe) -> None:
    before = recipe.finished("audio").stat().st_mtime_ns
    recipe.run(["audio"])
    assert recipe.finished("audio").stat().st_mtime_ns == before


def test_a_stage_made_from_another_one_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    other = Recipe(tmp_path, plan=PLAN)
    for file in recipe.folder.glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    assert other.is_finished("audio")
    weights = load_file(other.finished("image_embeddings"))
    other.finish("image_embeddings", {name: value + 1 for name, value in weights.items()})
    with pytest.raises(CheckpointError, match="made from other stages"):
        other.is_finished("audio")


def test_an_unknown_stage_is_refused(recipe: Recipe) -> None:
    with pytest.raises(InvalidRequestError, match="no stage 'dance'"):
        recipe.run(["dance"])


def test_rows_of_the_data_set_belong_together(recipe: Recipe) -> None:
    data = WorldData(recipe.folder / "data", "train")
    assert len(data.single) == 264
    assert len(data.pair) == len(data.unknown) == 12
    assert np.abs(data.points[data.single]).max() <= 1.001
    assert not np.asarray(data.mels[data.pair]).any()
    assert np.asarray(data.mels[data.single]).std(axis=(1, 2)).min() > 0


def test_held_out_knowledge_is_never_asked_with_an_attachment(recipe: Recipe) -> None:
    drawn = Drawn(recipe.instructor().about_picture, 600, seed=1)
    parsed = [parse_answer(drawn[index].answer) for index in range(600)]
    asked = {answer.kinds[0] for answer in parsed if answer.sound or answer.use}
    assert len(asked) > 10
    assert not asked & set(KNOWLEDGE_HELD_OUT_KINDS)


def test_an_imagined_vector_belongs_to_no_picture(recipe: Recipe) -> None:
    instructor = recipe.instructor()
    imagined = instructor.imagined(np.random.default_rng(3))
    assert imagined.norm() == pytest.approx(1, abs=1e-5)
    assert not torch.isclose(instructor.colour @ imagined, torch.ones(()), atol=1e-3).any()


def test_the_first_stage_only_names_and_describes(recipe: Recipe) -> None:
    drawn = Drawn(recipe.instructor().caption, 200, seed=2)
    for example in (drawn[index] for index in range(200)):
        parsed = parse_answer(example.answer)
        assert example.embedding is not None
        assert (parsed.sound, parsed.use) == (None, None)


def test_an_interrupted_stage_resumes_where_it_was(tmp_path: Path) -> None:
    def run(steps_before_a_kill: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 1)

        def loss_of(step: int) -> torch.Tensor:
            if step == steps_before_a_kill:
                raise KeyboardInterrupt
            inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            return layer(inputs).square().mean()

        schedule = Schedule(steps=6, batch_size=4, learning_rate=0.1, warmup=1)
        optimise([layer], schedule, loss_of, description="test", checkpoint=tmp_path / "stage.pt", every=2)
        return layer.weight.detach().clone()

    uninterrupted = run(None)
    (tmp_path / "stage.pt").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(3)
    assert (tmp_path / "stage.pt").exists()
    torch.testing.assert_close(run(None), uninterrupted, rtol=0, atol=0)


def test_the_contrastive_loss_counts_equal_scenes_as_positives() -> None:
    vectors = torch.eye(2).repeat(2, 1)  # scenes 0 and 2 are equal, and so are 1 and 3
    positives = vectors @ vectors.T > 0.5
    assert contrastive_loss(vectors, vectors, 100.0, positives) == pytest.approx(np.log(2), abs=1e-6)
    assert contrastive_loss(vectors, vectors, 100.0, torch.eye(4, dtype=torch.bool)) == pytest.approx(
        np.log(2), abs=1e-6
    )
    assert contrastive_loss(vectors, vectors.flip(0), 100.0, positives) > 10


def test_half_of_the_batches_show_two_colours_only(recipe: Recipe) -> None:
    data = recipe.train_data
    batches = contrastive.SceneBatches(data, 40, pairs=0.1, unknown=0.1)
    colours = [{data.things[row][0].colour for row in batches.draw(step)[0][:32]} for step in range(4)]
    assert [len(seen) == 2 for seen in colours] == [False, True, False, True]


def test_the_evaluation_covers_every_target_with_the_cache_off_and_on(recipe: Recipe) -> None:
    rows = evaluate_folder(recipe.output, recipe.folder, "validation")
    assert len(rows) == 20
    assert all(0 <= share <= 1 for row in rows for share in (row.plain, row.cached))
    assert markdown(rows).count("\n") == 21


def test_the_evaluation_films_what_the_pictures_show(recipe: Recipe) -> None:
    data = WorldData(recipe.folder / "data", "validation")
    row = int(data.single[0])
    processor = ImageBindLlmProcessor.from_pretrained(recipe.output).imagebind_processor
    clips = video_clips(data.scene(row), processor)
    assert clips.shape == (5, 3, 2, 64, 64)
    torch.testing.assert_close(clips[0, :, 0], normalised_pixels(data.rgb[row : row + 1])[0])

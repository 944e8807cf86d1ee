"""ImageBind's official checkpoint becomes a folder that gives the research code's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import imagebind_weights, tiny_imagebind_config, write_adapter, write_imagebind
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from ibllm_tools.assistant.embedding import JointEmbedder
from ibllm_tools.checkpoints import Conversion, convert_imagebind
from ibllm_tools.checkpoints.imagebind import read_imagebind_config
from ibllm_tools.errors import CheckpointError, InvalidRequestError
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel, ImageBindProcessor
from ibllm_tools.imagebind.fingerprint import stored_fingerprint
from ibllm_tools.media.sniff import Modality

CASES: dict[str, Modality] = {
    "vision": "image", "video": "video", "text": "text", "audio_clips": "audio", "depth": "depth", "thermal": "thermal",
    "imu": "imu",
}  # fmt: skip


@pytest.fixture(scope="module")
def bpe(reference: Path) -> Path:
    return reference / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def config(reference: Path) -> ImageBindConfig:
    return tiny_imagebind_config(reference)


@pytest.fixture(scope="module")
def conversion(
    reference: Path, bpe: Path, config: ImageBindConfig, tmp_path_factory: pytest.TempPathFactory
) -> Conversion:
    here = tmp_path_factory.mktemp("imagebind")
    checkpoint = write_imagebind(reference, here / "imagebind_w3D.pth")
    return convert_imagebind(checkpoint, here / "imagebind", tokenizer=bpe, config=config)


@pytest.fixture(scope="module")
def model(conversion: Conversion) -> ImageBindModel:
    model, info = ImageBindModel.from_pretrained(conversion.folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


# ---- the folder


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_equal_the_research_code(reference: Path, model: ImageBindModel, case: str) -> None:
    values = load_file(reference / "imagebind" / "inputs.safetensors")[case]
    values = values.float() if values.is_floating_point() else values
    expected = load_file(reference / "imagebind" / "outputs.safetensors")
    prenorm = model.encode(CASES[case], values, prenorm=True)
    torch.testing.assert_close(prenorm, expected[f"prenorm.{case}"], atol=5e-6, rtol=0)
    torch.testing.assert_close(model.encode(CASES[case], values), expected[f"emb.{case}"], atol=2e-5, rtol=0)


@torch.no_grad()
def test_outputs_for_points_equal_the_research_code(reference: Path, model: ImageBindModel) -> None:
    values = load_file(reference / "imagebind" / "inputs.safetensors")["point"].float()
    starts = json.loads((reference / "imagebind" / "fixture.json").read_text())["fps_starts"]["point_start0"]
    expected = load_file(reference / "imagebind" / "outputs.safetensors")["prenorm.point_start0"]
    prenorm = model.encode("point", values, prenorm=True, start_indices=torch.tensor(starts))
    torch.testing.assert_close(prenorm, expected, atol=5e-6, rtol=0)


def test_the_auto_classes_load_it(conversion: Conversion) -> None:
    assert type(AutoModel.from_pretrained(conversion.folder)) is ImageBindModel
    assert type(AutoProcessor.from_pretrained(conversion.folder)) is ImageBindProcessor


def test_saved_again_it_is_the_same_model(conversion: Conversion, model: ImageBindModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    saved, written = load_file(tmp_path / "model.safetensors"), load_file(conversion.folder / "model.safetensors")
    assert saved.keys() == written.keys()
    assert all(torch.equal(saved[name], value) for name, value in written.items())
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (conversion.folder, tmp_path))
    assert [before[key] for key in ("architectures", "dtype", "model_type")] == [
        after[key] for key in ("architectures", "dtype", "model_type")
    ]


def test_token_ids_equal_the_research_code(reference: Path, conversion: Conversion) -> None:
    """Over-long text keeps its end token, as in the original ImageBind."""
    processor = ImageBindProcessor.from_pretrained(conversion.folder)
    texts = [item["text"] for item in json.loads((reference / "preproc" / "text.json").read_text())["items"]]
    expected = load_file(reference / "preproc" / "text.safetensors")["official_ids"]
    assert torch.equal(processor(text=texts)["input_ids"], expected)


def test_the_processor_has_the_sane_defaults_and_the_models_sizes(conversion: Conversion) -> None:
    processor = ImageBindProcessor.from_pretrained(conversion.folder)
    assert not processor.official
    assert (processor.image_size, processor.num_mel_bins, processor.audio_target_length) == (224, 128, 204)


def test_a_smaller_model_gets_a_processor_of_its_sizes(reference: Path, bpe: Path, tmp_path: Path) -> None:
    weights = {key: value for key, value in imagebind_weights(reference).items() if ".imu." in key}
    positions = "modality_preprocessors.imu.pos_embed"
    weights[positions] = weights[positions][:, :11]
    save_file(weights, tmp_path / "imu.safetensors")
    tower = tiny_imagebind_config(reference).imu_config
    tower.num_samples = 80
    width = weights["modality_heads.imu.3.weight"].shape[0]
    config = ImageBindConfig(imu_config=tower, projection_dim=width)
    folder = convert_imagebind(tmp_path / "imu.safetensors", tmp_path / "imu", tokenizer=bpe, config=config).folder
    assert ImageBindProcessor.from_pretrained(folder).imu_samples == 80
    assert ImageBindModel.from_pretrained(folder).modalities == ("imu",)


def test_the_fingerprint_in_the_folder_is_the_embedders(conversion: Conversion, model: ImageBindModel) -> None:
    processor = ImageBindProcessor.from_pretrained(conversion.folder)
    computed = JointEmbedder(model, processor).fingerprint
    stored = stored_fingerprint(conversion.folder)
    assert stored == computed
    half = ImageBindModel.from_pretrained(conversion.folder, dtype=torch.bfloat16)
    assert JointEmbedder(half, processor).fingerprint != computed  # which is why it is stored
    assert JointEmbedder(half, processor, fingerprint=stored).fingerprint == computed


def test_the_conversion_says_what_it_made(conversion: Conversion, model: ImageBindModel) -> None:
    weights = model.state_dict().values()
    assert conversion.parameters == sum(value.numel() for value in weights)
    assert conversion.bytes == sum(value.nbytes for value in weights)
    assert [source.name for source in conversion.sources] == ["imagebind_w3D.pth", "bpe_simple_vocab_16e6.txt.gz"]
    assert conversion.warnings == ()


def test_the_card_states_sources_hashes_and_licences(conversion: Conversion) -> None:
    card = (conversion.folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\nlibrary_name: transformers\n")
    for source in conversion.sources:
        assert f"| `{source.name}` | {source.what} | {source.bytes:,} | `{source.sha256}` |" in card
    for licence in conversion.licences:
        assert licence in card
    for part in ("CC-BY-NC-SA 4.0", "no licence stated", "MIT"):
        assert part in card
    assert str(conversion.folder.parent) not in card


# ---- choices


def test_without_points_the_model_has_no_point_tower(reference: Path, bpe: Path, tmp_path: Path) -> None:
    checkpoint = write_imagebind(reference, tmp_path / "imagebind_huge.safetensors", point=False)
    config = tiny_imagebind_config(reference, point=False)
    conversion = convert_imagebind(checkpoint, tmp_path / "model", tokenizer=bpe, config=config)
    assert "point" not in ImageBindModel.from_pretrained(conversion.folder).modalities
    assert not any("Point-Bind" in licence for licence in conversion.licences)
    assert "Point-Bind" not in (conversion.folder / "README.md").read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_weights_are_written_in_the_chosen_type(
    reference: Path, bpe: Path, config: ImageBindConfig, tmp_path: Path, dtype: Any
) -> None:
    checkpoint = write_imagebind(reference, tmp_path / "imagebind_w3D.pth")
    folder = convert_imagebind(checkpoint, tmp_path / "model", tokenizer=bpe, config=config, dtype=dtype).folder
    chosen = torch.bfloat16 if dtype == "bfloat16" else torch.float16
    loaded = ImageBindModel.from_pretrained(folder)
    assert {value.dtype for value in loaded.state_dict().values() if value.is_floating_point()} == {chosen}
    assert loaded.point_model.point_bert.group_embedding.first_conv[1].num_batches_tracked.dtype == torch.int64


def test_half_precision_stays_half_precision(
    reference: Path, bpe: Path, config: ImageBindConfig, tmp_path: Path
) -> None:
    halves = {
        key: value.half() if value.is_floating_point() else value for key, value in imagebind_weights(reference).items()
    }
    torch.save(halves, tmp_path / "half.pth")
    folder = convert_imagebind(tmp_path / "half.pth", tmp_path / "model", tokenizer=bpe, config=config).folder
    assert ImageBindModel.from_pretrained(folder).dtype == torch.float16


def test_the_tokenizer_is_found_beside_the_checkpoint(
    reference: Path, bpe: Path, config: ImageBindConfig, tmp_path: Path
) -> None:
    checkpoint = write_imagebind(reference, tmp_path / "imagebind_w3D.pth")
    (tmp_path / "bpe").mkdir()
    (tmp_path / "bpe" / bpe.name).write_bytes(bpe.read_bytes())
    assert convert_imagebind(checkpoint, tmp_path / "model", config=config).sources[1].name == bpe.name


@pytest.mark.parametrize("dtype", ["float64", "int8", "half"])
def test_an_unknown_type_is_refused(reference: Path, tmp_path: Path, dtype: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected float32, float16, bfloat16"):
        convert_imagebind(tmp_path / "x.pth", tmp_path / "model", dtype=dtype)


# ---- what is refused


def test_a_checkpoint_of_another_size_is_refused_and_nothing_is_left(
    reference: Path, bpe: Path, tmp_path: Path
) -> None:
    checkpoint = write_imagebind(reference, tmp_path / "imagebind_w3D.pth")
    with pytest.raises(CheckpointError, match=r"imagebind_w3D\.pth: .*of another shape.*needs its own `config`"):
        convert_imagebind(checkpoint, tmp_path / "model", tokenizer=bpe)
    assert [path.name for path in tmp_path.iterdir()] == ["imagebind_w3D.pth"]


def test_a_file_of_another_model_is_named(reference: Path, bpe: Path, tmp_path: Path) -> None:
    checkpoint = write_adapter(reference, tmp_path / "7B.pth")
    with pytest.raises(CheckpointError, match=r"7B\.pth: no weight of an ImageBind tower found"):
        convert_imagebind(checkpoint, tmp_path / "model", tokenizer=bpe)


def test_a_weight_that_is_not_finite_is_named_with_its_file(
    reference: Path, bpe: Path, config: ImageBindConfig, tmp_path: Path
) -> None:
    weights = imagebind_weights(reference)
    weights["modality_heads.imu.3.weight"] = weights["modality_heads.imu.3.weight"] * float("nan")
    torch.save(weights, tmp_path / "imagebind.pth")
    with pytest.raises(CheckpointError, match=r"imagebind\.pth: not all values of imu_model\.projection\.weight"):
        convert_imagebind(tmp_path / "imagebind.pth", tmp_path / "model", tokenizer=bpe, config=config)
    assert not (tmp_path / "model").exists()


def test_a_missing_weight_is_named(reference: Path, bpe: Path, config: ImageBindConfig, tmp_path: Path) -> None:
    weights = imagebind_weights(reference)
    del weights["modality_heads.audio.2.weight"]
    save_file(weights, tmp_path / "some.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: modality_heads\.audio\.2\.weight"):
        convert_imagebind(tmp_path / "some.safetensors", tmp_path / "model", tokenizer=bpe, config=config)


def test_a_missing_tokenizer_is_asked_for(reference: Path, config: ImageBindConfig, tmp_path: Path) -> None:
    checkpoint = write_imagebind(reference, tmp_path / "imagebind_w3D.pth")
    with pytest.raises(InvalidRequestError, match=r"no bpe_simple_vocab_16e6\.txt\.gz beside it.*--clip-tokenizer"):
        convert_imagebind(checkpoint, tmp_path / "model", config=config)


def test_a_taken_folder_is_refused_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="not empty"):
        convert_imagebind(tmp_path / "nowhere.pth", tmp_path.parent)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model_type": "llama"}', '{"model_type": "imagebind", "projection_dim": "x"}']
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidRequestError, match="no configuration of an ImageBind model"):
        read_imagebind_config(tmp_path / "config.json")


def test_a_configuration_round_trips_through_json(config: ImageBindConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert read_imagebind_config(tmp_path / "config.json").to_dict() == config.to_dict()

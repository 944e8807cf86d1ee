"""What is taken for a hub id, and so for a wish to download."""

from pathlib import Path

import pytest

from ibllm_tools.assistant.model_folder import find_model
from ibllm_tools.checkpoints.llama import open_llama
from ibllm_tools.errors import ModelNotFoundError
from ibllm_tools.hub import is_hub_id


@pytest.mark.parametrize("name", ["openai/clip-vit-large-patch14", "a/b", "Owner-1/model.v2"])
def test_owner_and_name_are_a_hub_id(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["mini", "/a/b", "./a/b", "a/b/c", "../a", "a/", "a b/c", "", Path("a/b"), None])
def test_whatever_else_is_not(name: object) -> None:
    assert not is_hub_id(name)


def test_a_misspelt_folder_beside_others_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "imagebind-llm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for look in (find_model, open_llama):
        with pytest.raises(ModelNotFoundError, match="models/imagebind-lm: no such folder"):
            look("models/imagebind-lm")

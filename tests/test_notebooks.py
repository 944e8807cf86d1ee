"""The notebooks in examples/ run from their first cell to their last, and show what they promise."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = ("multimodal_rag", "quickstart")
AUDIO, VIDEO, PICTURE, VIEW = (
    r'<audio controls [^>]*src="data:audio/wav;base64,[^"#]{1000,}#t=0.000,3.000"',
    r'<video controls [^>]*src="data:video/mp4;base64,[^"#]{1000,}#t=0.000,3.000"',
    r'<img [^>]*src="data:image/webp;base64,[^"]{1000,}"',
    r'<iframe [^>]*sandbox="allow-scripts" srcdoc="[^"]{1000,}"',
)
SHOWN = {
    "quickstart": {
        "ask-picture": ["It is blue.", "car.png", PICTURE],
        "ask-sound": ["It is a bell.", "bell.wav@0.0-3.0s", PICTURE, AUDIO],
        "ask-video": ["It is a helicopter.", "helicopter.mp4@0.0-3.0s", VIDEO],
        "ask-shape": ["It is a piano.", "piano.obj", VIEW],
        "ask-measured": ["It is a train.", VIEW, "It is a kettle.", PICTURE],
        "ask-mix": ["It is a bell and a car.", "share 50%", PICTURE, AUDIO],
        "ask-array": ["It is a train.", "mirrored", VIEW],
        "cite": ["dog.wav@0.0-3.0s", '"text": "It is a dog."'],
        "stream": ["It is a guitar. It is used for playing songs."],
        "streamed": ["It is a guitar. It is used for playing songs.", PICTURE],
        "ask-structured": ['"It is a duck."'],
        "index": ["<b>13</b> added"],
        "search": ["dog.wav@0.0-3.0s", AUDIO, "It is a dog."],
        "search-by-sound": ["bell.wav@0.0-3.0s", AUDIO, "bell.png", PICTURE],
        "fail": ["AttachmentNotFoundError: missing.png: no such file"],
    },
    "multimodal_rag": {
        "add": ["<b>13</b> added"],
        "add-texts": ["<b>5</b> added"],
        "add-again": ["<b>0</b> added", "<b>13</b> unchanged"],
        "search": ["cast in 1712", "bell.wav@0.0-3.0s", AUDIO, "bell.png", PICTURE],
        "search-hybrid": ["helicopter.mp4", VIDEO, "brings doctors to the mountain hut"],
        "search-filtered": ["Rubber ducks float"],
        "search-mix": ["bell.png", PICTURE],
        "ask": ["It is yellow.", "helicopter.mp4@0.0-3.0s", VIDEO, "The yellow helicopter brings doctors"],
        "cite": ["helicopter.mp4@0.0-3.0s .* video .* It is a yellow helicopter."],
        "ask-attached": ["It is a bell.", "share 100%", AUDIO],
        "stream": ["It is a piano."],
        "streamed": ["It is a piano.", "piano.obj", VIEW, "tuned in spring"],
        "langchain-retriever": ["bell.wav@0.0-3.0s .* It is a bell.", "cast in 1712"],
        "langchain-tools": ["1. dog.wav@0.0-3.0s", "It is a dog. \\[dog.wav@0.0-3.0s\\]"],
        "llama-index": ["It is yellow. \\[helicopter.mp4@0.0-3.0s", VIDEO],
        "closed": ["duck.glb", VIEW],
    },
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, NotebookNode]]:
    """Each notebook after it ran in a folder like examples/, where what it writes does not stay.

    The kernel ``python3`` is this interpreter, and nothing is written into anyone's home.
    """
    home = tmp_path_factory.mktemp("jupyter")
    write_kernel_spec(home / "kernels" / "python3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(home))
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(home / name.lower()))
        yield {name: _executed(name, tmp_path_factory.mktemp(name)) for name in NOTEBOOKS}


def _executed(name: str, folder: Path) -> NotebookNode:
    (folder / "media").symlink_to(EXAMPLES / "media", target_is_directory=True)
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    done = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    assert [path.name for path in folder.iterdir()] == ["media"]
    return done


def shown(cell: NotebookNode) -> str:
    """What a cell shows: of each of its outputs the HTML where there is any, and else the text."""
    data = [output.get("data") or {"text/plain": output.get("text", "")} for output in cell.outputs]
    return "".join(item.get("text/html") or item["text/plain"] for item in data)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_shows_what_it_promises(name: str, executed: dict[str, NotebookNode]) -> None:
    cells = {cell.id: shown(cell) for cell in executed[name].cells if cell.cell_type == "code"}
    assert {id_ for id_, output in cells.items() if output} == set(SHOWN[name])
    missing = [(id_, item) for id_, items in SHOWN[name].items() for item in items if not re.search(item, cells[id_])]
    assert missing == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_is_written_to_standard_error(name: str, executed: dict[str, NotebookNode]) -> None:
    outputs = [output for cell in executed[name].cells for output in cell.get("outputs", ())]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


def test_these_are_the_notebooks() -> None:
    assert tuple(sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_are_kept_without_outputs(name: str) -> None:
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert cell.metadata == {}

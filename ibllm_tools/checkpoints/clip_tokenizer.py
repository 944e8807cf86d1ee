"""CLIP's tokenizer, which ImageBind reads text with, from wherever its merges lie.

They are the same everywhere: OpenAI publishes them as ``bpe_simple_vocab_16e6.txt.gz``, Hugging Face as ``merges.txt``
and in ``tokenizer.json``. Nothing else is taken over from there, since the rules around the merges (cleaning, padding)
differ from place to place.
"""

import hashlib
import json
from pathlib import Path

from transformers import CLIPTokenizer

from ibllm_tools.checkpoints.reading import SourceFile, source_file
from ibllm_tools.errors import CheckpointError, InvalidRequestError
from ibllm_tools.hub import fetched, is_hub_id
from ibllm_tools.imagebind.fingerprint import PROCESSOR_FOLDER
from ibllm_tools.imagebind.tokenization_imagebind import clip_tokenizer, clip_tokenizer_from_bpe

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"

_WHAT = "CLIP's merges, for ImageBind's text"
_FILES = (f"{PROCESSOR_FOLDER}/tokenizer.json", "tokenizer.json", "merges.txt", BPE_FILE)
_TOKENS_SHA256 = "7cccc44d334555d1ff3c0ac5f0246b428fab2918383e77ee745cf30d41010b78"
"""Of the 49,408 tokens in the order of their ids, a line each."""
_SENTENCE = "a photo of a dog, isn't it? 3 apfelstrudel"
_SENTENCE_IDS = [49406, 320, 1125, 539, 320, 1929, 267, 2923, 713, 585, 286, 274, 688, 2081, 1666, 2003, 49407]


def load_clip_tokenizer(source: str | Path | None, *, checkpoint: Path) -> tuple[CLIPTokenizer, SourceFile]:
    """CLIP's tokenizer, and the file that it was read from.

    Args:
        source: OpenAI's file; a folder, of a CLIP of transformers or a model of ours; or a hub id ``owner/name``, of
            which nothing but the tokenizer's files is fetched. By default OpenAI's file where the research code has
            it: beside the checkpoint, or in a folder ``bpe`` near it.
        checkpoint: the checkpoint that it belongs to.

    Raises:
        InvalidRequestError: there is none.
        CheckpointError: it cannot be read, or is another tokenizer.
        ModelNotFoundError: the hub id cannot be reached.
    """
    if source is None:
        file, name = _file_near(checkpoint), BPE_FILE
    else:
        file, name = _file_of(source)
    tokenizer = _read(file)
    tokens = tokenizer.get_vocab()
    listed = "\n".join(sorted(tokens, key=tokens.__getitem__))
    if hashlib.sha256(listed.encode()).hexdigest() != _TOKENS_SHA256 or _ids(tokenizer) != _SENTENCE_IDS:
        raise CheckpointError(
            f"{file}: {len(tokens):,} tokens of another tokenizer; expected the 49,408 of CLIP, as in {BPE_FILE}"
        )
    return tokenizer, source_file(file, _WHAT).model_copy(update={"name": name})


def _file_near(checkpoint: Path) -> Path:
    folder = checkpoint.expanduser().absolute().parent
    for place in (folder, folder / "bpe", folder.parent / "bpe"):
        if (place / BPE_FILE).is_file():
            return place / BPE_FILE
    raise InvalidRequestError(
        f"{checkpoint}: no {BPE_FILE} beside it, and ImageBind's text needs CLIP's tokenizer; pass as tokenizer "
        "(--clip-tokenizer) that file, from the repository openai/CLIP, folder clip; or the folder of a CLIP of "
        "transformers, or its hub id, e.g. openai/clip-vit-base-patch32"
    )


def _file_of(source: str | Path) -> tuple[Path, str]:
    """The file with the merges, and how the model card calls it."""
    place = Path(source).expanduser()
    if place.is_file():
        return place, place.name
    if place.is_dir():
        file = _file_in(place)
        return file, file.name
    if is_hub_id(source):
        file = _file_in(fetched(source, _FILES))
        return file, f"{source}/{file.name}"
    raise InvalidRequestError(
        f"{source}: no such file or folder; expected {BPE_FILE}, the folder of a CLIP tokenizer or its hub id "
        "(owner/name)"
    )


def _file_in(folder: Path) -> Path:
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise InvalidRequestError(f"{folder}: no CLIP tokenizer in it; expected tokenizer.json or merges.txt")


def _read(file: Path) -> CLIPTokenizer:
    if file.suffix not in (".json", ".txt"):
        return clip_tokenizer_from_bpe(file)
    try:
        text = file.read_text(encoding="utf-8")
        # the first line of merges.txt names the version
        rows = json.loads(text)["model"]["merges"] if file.suffix == ".json" else text.splitlines()[1:]
        merges = [(left, right) for left, right in (row.split() if isinstance(row, str) else row for row in rows)]
        return clip_tokenizer(merges)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: no merges that can be read; expected those of CLIP, as in {BPE_FILE}"
        ) from error


def _ids(tokenizer: CLIPTokenizer) -> object:
    return tokenizer(_SENTENCE)["input_ids"]

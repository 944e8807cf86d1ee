"""The base LLaMA that an adapter was tuned on: Meta's files, a folder of transformers, or a hub id.

Whatever the layout, the weights come under Meta's names and in Meta's order, as the research code loads them. What
neither names nor shapes can tell, whether they are the *right* weights, :meth:`LlamaSource.warnings` and
:func:`norm_drift` answer as far as the content can.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaTokenizer

from ibllm_tools.checkpoints.known_files import LLAMA_7B_WEIGHTS, LLAMA_TOKENIZER
from ibllm_tools.checkpoints.llama_hugging_face import read_hugging_face
from ibllm_tools.checkpoints.llama_meta import COMPUTED, SHARDS, read_meta
from ibllm_tools.checkpoints.llama_tokenizer import load_llama_tokenizer
from ibllm_tools.checkpoints.llama_weights import LlamaFolder, LlamaWeights
from ibllm_tools.checkpoints.reading import SourceFile, source_file
from ibllm_tools.errors import CheckpointError, IncompatibleModelError, InvalidRequestError, ModelNotFoundError
from ibllm_tools.hub import fetched, is_hub_id

_BEGIN, _END = 1, 2
_SENTENCEPIECE, _TOKENIZERS = "tokenizer.model", "tokenizer.json"
_SETTINGS = ("config.json", "*.index.json", _SENTENCEPIECE, "tokenizer*.json", "special_tokens_map.json")

_7B_WIDTH, _7B_LAYERS, _7B_VOCABULARY, _7B_EPS = 4096, 32, 32000, 1e-6
_LEAST_NORM = 0.1
"""Mean magnitude of the last norm: it begins at 1 when a model is trained; in the difference of two it is near 0."""
_CORRELATED, _NEAR = 0.5, 0.1
_TOKENIZER_IS = "LLaMA's tokenizer"


@dataclass(frozen=True)
class LlamaSource:
    """A base LLaMA, opened.

    Attributes:
        weights: Meta's names -> tensors, read when they are asked for.
        num_attention_heads: of each layer.
        norm_eps: of the RMS norms.
        max_position_embeddings: in tokens, if the source says it.
    """

    weights: LlamaWeights
    num_attention_heads: int
    norm_eps: float
    max_position_embeddings: int | None
    _settings: Path = field(repr=False)
    _tokenizer_file: Path = field(repr=False)
    _tokenizer: LlamaTokenizer = field(repr=False)
    _hub_id: str | None = field(repr=False)

    def load_tokenizer(self) -> LlamaTokenizer:
        """The tokenizer, with a token for each row of the embedding; it begins every text with ``<s>``."""
        return self._tokenizer

    def sources(self, *, progress: bool = False) -> tuple[SourceFile, ...]:
        """All files and their hashes, for the model card. Reads every file once."""
        files = [file.source("LLaMA's weights", progress=progress) for file in self.weights.files]
        files.append(source_file(self._settings, "LLaMA's settings"))
        files.append(source_file(self._tokenizer_file, _TOKENIZER_IS))
        if self._hub_id is None:
            return tuple(files)
        return tuple(file.model_copy(update={"name": f"{self._hub_id}/{file.name}"}) for file in files)

    def warnings(self, *, progress: bool = False) -> tuple[str, ...]:
        """What speaks against this base, each in one line without a path; for LLaMA-7B's sizes only.

        The published adapters were tuned on LLaMA-7B or on Open-Chinese-LLaMA, which has the same sizes. The latter is
        merged by its user, so its file has no hash that could be known.
        """
        shapes = self.weights.shapes
        layers = sum(name.endswith("ffn_norm.weight") for name in shapes)
        if shapes["norm.weight"] != (_7B_WIDTH,) or layers != _7B_LAYERS:
            return ()
        return tuple(self._warnings_7b(progress))

    def _warnings_7b(self, progress: bool) -> Iterator[str]:
        if self.norm_eps != _7B_EPS:
            yield (
                f"{self._settings.name}: the norms' epsilon is {self.norm_eps:g}; LLaMA-7B has {_7B_EPS:g}, and 1e-05 "
                "is LLaMA-2's, on which no published adapter was tuned"
            )
        if (rows := self.weights.shapes["tok_embeddings.weight"][0]) != _7B_VOCABULARY:
            yield (
                f"the LLaMA has a vocabulary of {rows} tokens; the published adapters were tuned on one of "
                f"{_7B_VOCABULARY}"
            )
        if self.weights["norm.weight"].float().abs().mean() < _LEAST_NORM:
            yield (
                "the LLaMA's last norm is close to 0, so these seem to be differences (7B_chinese_delta), not weights; "
                "add them to LLaMA-7B and name the merged folder, 7B_chinese"
            )
        yield from self._hash_warnings(progress)

    def _hash_warnings(self, progress: bool) -> Iterator[str]:
        first = self.weights.files[0]
        if first.path.match(SHARDS):
            digest = first.sha256(progress=progress)
            if digest == LLAMA_7B_WEIGHTS:
                yield (
                    f"{first.path.name}: this is Meta's English LLaMA-7B; the published 7B.pth was tuned on "
                    "Open-Chinese-LLaMA, so with that adapter name the merged 7B_chinese instead"
                )
            elif COMPUTED in first:  # merging drops it
                yield (
                    f"{first.path.name}: neither Meta's LLaMA-7B, whose sha256 is {LLAMA_7B_WEIGHTS}, nor merged to "
                    f"Open-Chinese-LLaMA: its sha256 is {digest}; check where it is from, or copy it again"
                )
        if self._tokenizer_file.name == _SENTENCEPIECE:
            digest = source_file(self._tokenizer_file, _TOKENIZER_IS).sha256
            if digest != LLAMA_TOKENIZER:
                yield (
                    f"{self._tokenizer_file.name}: not the tokenizer of LLaMA and Open-Chinese-LLaMA, whose sha256 is "
                    f"{LLAMA_TOKENIZER}: its sha256 is {digest}; copy theirs"
                )


def open_llama(source: str | Path) -> LlamaSource:
    """Open a base LLaMA; no weight is read before it is asked for.

    Args:
        source: a folder with Meta's ``consolidated.*.pth`` and ``params.json`` (``tokenizer.model`` may lie above it),
            or the folder of one such folder; a model folder of transformers; or the hub id ``owner/name`` of such a
            model, whose files are then fetched into the hub's own cache.

    Raises:
        ModelNotFoundError: there is no model.
        InvalidRequestError: there is more than one.
        CheckpointError: files are missing or damaged, or do not fit each other.
        IncompatibleModelError: it is no LLaMA as the research code has it, or its tokenizer has another vocabulary.
    """
    folder, hub_id = _located(source)
    opened = read_meta(folder) if any(folder.glob(SHARDS)) else read_hugging_face(folder)
    tokenizer_file = _found_tokenizer(folder)
    return LlamaSource(
        weights=opened.weights,
        num_attention_heads=opened.num_attention_heads,
        norm_eps=opened.norm_eps,
        max_position_embeddings=opened.max_position_embeddings,
        _settings=opened.settings,
        _tokenizer_file=tokenizer_file,
        _tokenizer=_loaded_tokenizer(tokenizer_file, opened),
        _hub_id=hub_id,
    )


def norm_drift(base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], *, tuned: bool) -> str | None:
    """Whether an adapter can stem from a base, by the base's norms that it carries: a warning if it cannot.

    Pretraining leaves the norms alone, so any difference counts. Finetuning changes them a little: then most have to
    correlate with the base's, or lie close to them. That threshold could not be calibrated on the published weights,
    and it cannot tell a base from one that was trained on from it, such as LLaMA-7B from Open-Chinese-LLaMA.

    Args:
        base: Meta's names -> tensors, each norm (D,).
        adapter: the research code's names, ``llama.`` before Meta's, -> tensors of the same shapes.
        tuned: the adapter is of the finetuning phase.
    """
    pairs = {
        name: (base[name], adapter[f"llama.{name}"])
        for name in base
        if name.endswith("norm.weight") and f"llama.{name}" in adapter
    }
    if not pairs:
        return None
    remedy = "name the LLaMA that it was tuned on (for the published 7B.pth the merged 7B_chinese)"
    if not tuned:
        changed = [name for name, (mine, theirs) in pairs.items() if not _equal(mine, theirs)]
        if not changed:
            return None
        return f"{len(changed)} of {len(pairs)} norms of the adapter are not the base's, e.g. {changed[0]}; {remedy}"
    measured = torch.tensor([_compared(*pair) for pair in pairs.values()])  # (norms, 2)
    correlation, distance = measured.median(dim=0).values.tolist()
    if correlation >= _CORRELATED or distance <= _NEAR:
        return None
    return (
        f"the adapter's norms do not resemble the base's (median correlation {correlation:.2f}, distance "
        f"{distance:.0%}); {remedy}"
    )


def _equal(mine: Tensor, theirs: Tensor) -> bool:
    """Equal but for rounding to the coarser of their types."""
    coarser = max(torch.finfo(tensor.dtype).eps for tensor in (mine, theirs))
    return torch.allclose(mine.double(), theirs.double(), rtol=coarser, atol=0)


def _compared(mine: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Correlation, 0 without any variation, and distance relative to the length of the first."""
    one, other = mine.double(), theirs.double()
    spread = one.std() * other.std()
    covariance = ((one - one.mean()) * (other - other.mean())).sum() / (len(one) - 1)
    return float(covariance / spread) if spread > 0 else 0.0, float((one - other).norm() / one.norm().clamp_min(1e-12))


def _located(source: str | Path) -> tuple[Path, str | None]:
    """The folder with the weights, and the hub id if it was one."""
    folder = Path(source).expanduser()
    if folder.is_file():
        raise InvalidRequestError(f"{source}: this is a file; name the folder that it lies in")
    if folder.is_dir():
        return _model_folder(folder), None
    if is_hub_id(source):
        folder = fetched(source, [*_SETTINGS, "model*.safetensors"])
        if not any(folder.glob("model*.safetensors")):
            folder = fetched(source, [*_SETTINGS, "pytorch_model*.bin"])
        return _model_folder(folder), source
    raise ModelNotFoundError(f"{source}: no such folder; expected that of a LLaMA or a hub id (owner/name)")


def _model_folder(folder: Path) -> Path:
    if any(folder.glob(SHARDS)) or (folder / "config.json").is_file():
        return folder
    inner = sorted({path.parent for path in folder.glob(f"*/{SHARDS}")})
    if len(inner) == 1:
        return inner[0]
    if inner:
        names = ", ".join(path.name for path in inner)
        raise InvalidRequestError(
            f"{folder}: several LLaMAs lie in it: {names}; name one, the one that the adapter was tuned on "
            f"({folder / inner[0].name}; the published 7B.pth: 7B_chinese)"
        )
    raise ModelNotFoundError(
        f"{folder}: no LLaMA in it, expected consolidated.00.pth with params.json, or config.json with safetensors"
    )


def _found_tokenizer(folder: Path) -> Path:
    for path in (folder / _SENTENCEPIECE, folder.parent / _SENTENCEPIECE, folder / _TOKENIZERS):
        if path.is_file():
            return path
    raise CheckpointError(f"{folder}: no {_SENTENCEPIECE} in it or in the folder above; copy LLaMA's there")


def _loaded_tokenizer(path: Path, opened: LlamaFolder) -> LlamaTokenizer:
    """The tokenizer, checked against the embedding."""
    if path.name == _SENTENCEPIECE:
        tokenizer = load_llama_tokenizer(path)
    else:
        try:
            tokenizer = LlamaTokenizer.from_pretrained(path.parent, local_files_only=True)
        except Exception as error:  # whatever the library makes of a foreign file
            raise CheckpointError(f"{path}: not a tokenizer of LLaMA ({type(error).__name__})") from error
    rows = opened.weights.shapes["tok_embeddings.weight"][0]
    if len(tokenizer) != rows:
        raise IncompatibleModelError(
            f"{path}: {len(tokenizer)} tokens, but {rows} rows in the embedding; expected the weights' own tokenizer"
        )
    if (tokenizer.bos_token_id, tokenizer.eos_token_id) != (_BEGIN, _END):
        raise IncompatibleModelError(
            f"{path}: begin and end are the tokens {tokenizer.bos_token_id} and {tokenizer.eos_token_id}, expected "
            f"{_BEGIN} and {_END} as in LLaMA"
        )
    return tokenizer

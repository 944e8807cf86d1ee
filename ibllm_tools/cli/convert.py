"""``ibllm convert``."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ibllm_tools.checkpoints import known_files
from ibllm_tools.cli.options import DTYPES
from ibllm_tools.cli.terminal import interrupted_at_once

if TYPE_CHECKING:
    from ibllm_tools.checkpoints import Conversion
    from ibllm_tools.imagebind import ImageBindConfig

DESCRIPTION = """\
Turn official weights, which you have to have, into folders that --model takes and from_pretrained loads. Nothing is
downloaded, unless a hub id (owner/name) is named. A folder is written whole or not at all; a conversion that was
interrupted starts again."""
EXAMPLES = """\
examples:
  ibllm convert imagebind imagebind_huge.pth -o models/imagebind
  ibllm convert point-bind imagebind_w3D.pth --into models/imagebind
  ibllm convert imagebind-llm 7B.pth --llama llama --imagebind models/imagebind -o models/imagebind-llm
  ibllm convert cache knn.index -o models/imagebind-llm
"""
ENCODER_TYPE = "imagebind"
_TOKENIZER_HELP = (
    "CLIP's bpe_simple_vocab_16e6.txt.gz, the folder of a CLIP tokenizer, or its hub id; by default that file beside "
    "the checkpoint"
)


@dataclass(frozen=True)
class _Kind:
    """Something that can be converted."""

    summary: str
    description: str
    examples: str
    licences: Sequence[str]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    convert: Callable[[argparse.Namespace], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to convert, each with arguments of its own."""
    kinds = parser.add_subparsers(title="what to convert", dest="kind", metavar="WHAT", required=True)
    for name, kind in _KINDS.items():
        kind.add_arguments(
            kinds.add_parser(
                name,
                help=kind.summary,
                description=kind.description,
                epilog=kind.examples,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )


def run(options: argparse.Namespace) -> int:
    """Say on which terms, convert, and say what there is now."""
    kind = _KINDS[options.kind]
    for licence in kind.licences:
        print(f"licence: {licence}", file=sys.stderr)
    kind.convert(options)
    return 0


def _add_output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help=what)


def _add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clip-tokenizer", metavar="PLACE", help=_TOKENIZER_HELP)
    _add_config(parser, "the joint embedding")


def _add_config(parser: argparse.ArgumentParser, part: str) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the ImageBindConfig, in JSON, of {part} in a checkpoint that is not of the published size",
    )


def _add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of all weights; each keeps that of its file by default",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the model in DIR, once the new one is complete"
    )


def _add_imagebind_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="imagebind_huge.pth or imagebind_w3D.pth")
    _add_output(parser, "the model's folder, new or empty")
    _add_encoder_arguments(parser)
    _add_writing_arguments(parser)


def _convert_imagebind(options: argparse.Namespace) -> None:
    with interrupted_at_once():
        from ibllm_tools.checkpoints import convert_imagebind

    conversion = convert_imagebind(
        options.checkpoint,
        options.output,
        tokenizer=options.clip_tokenizer,
        config=_config(options),
        dtype=options.dtype,
        overwrite=options.overwrite,
    )
    _summarise(conversion, f"ibllm embed FILE... --model {_quoted(options.output)} -o vectors.npy")


def _add_point_bind_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="Point-Bind's checkpoint with Point-BERT, or imagebind_w3D.pth"
    )
    parser.add_argument("--into", required=True, type=Path, metavar="DIR", help="the folder of the model")
    _add_config(parser, "the point tower")


def _convert_point_bind(options: argparse.Namespace) -> None:
    with interrupted_at_once():
        from ibllm_tools.checkpoints import convert_point_bind

    conversion = convert_point_bind(options.checkpoint, into=options.into, config=_config(options))
    _summarise(conversion, f"ibllm embed MESH.glb --model {_quoted(options.into)} -o vectors.npy")


def _add_imagebind_llm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="7B.pth, what training changed")
    parser.add_argument(
        "--llama",
        required=True,
        metavar="LLAMA",
        help="the base: Meta's folder (tokenizer.model, 7B/consolidated.*.pth, 7B/params.json), or a LLaMA of "
        "transformers, its folder or hub id",
    )
    parser.add_argument(
        "--imagebind",
        metavar="PLACE",
        help="imagebind_w3D.pth, imagebind_huge.pth, or the folder of a converted ImageBind; needless where ADAPTER "
        "holds it too",
    )
    _add_output(parser, "the model's folder, new or empty")
    parser.add_argument(
        "--keep-lora", action="store_true", help="keep the LoRA apart, as peft has it, instead of merging it"
    )
    _add_encoder_arguments(parser)
    _add_writing_arguments(parser)


def _convert_imagebind_llm(options: argparse.Namespace) -> None:
    with interrupted_at_once():
        from ibllm_tools.checkpoints import convert_imagebind_llm

    conversion = convert_imagebind_llm(
        options.adapter,
        options.output,
        llama=options.llama,
        imagebind=options.imagebind,
        tokenizer=options.clip_tokenizer,
        imagebind_config=_config(options),
        keep_lora=options.keep_lora,
        dtype=options.dtype,
        overwrite=options.overwrite,
    )
    _summarise(conversion, f'ibllm ask "What is this?" FILE --model {_quoted(options.output)}')


def _add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", help="knn.index, a FAISS index of image features")
    _add_output(parser, "the folder of the model that the cache belongs to, or, with --model, one for the cache alone")
    parser.add_argument("--model", metavar="MODEL_DIR", help="the folder of the model that the features come from")


def _convert_cache(options: argparse.Namespace) -> None:
    with interrupted_at_once():
        from ibllm_tools.checkpoints import convert_visual_cache
        from ibllm_tools.checkpoints.writing import model_type

    conversion = convert_visual_cache(options.index, options.output, model=options.model)
    _warn(conversion.warnings)
    print(f"{conversion.folder}: {conversion.features:,} image features of width {conversion.dimension:,}")
    encoder = options.model or options.output
    alone = model_type(Path(encoder).expanduser()) == ENCODER_TYPE  # which answers no questions by itself
    model = "MODEL_OF_THIS_ENCODER" if alone else _quoted(encoder)
    apart = f" --cache {_quoted(conversion.folder)}" if alone or options.model else ""
    print(f'next: ibllm ask "What is this?" FILE --model {model}{apart}')


def _config(options: argparse.Namespace) -> "ImageBindConfig | None":
    if options.config is None:
        return None
    from ibllm_tools.checkpoints.imagebind import read_imagebind_config

    return read_imagebind_config(options.config)


def _summarise(conversion: "Conversion", following: str) -> None:
    _warn(conversion.warnings)
    print(f"{conversion.folder}: {conversion.parameters:,} parameters, {conversion.bytes / 1e9:.2f} GB")
    print(f"next: {following}")


def _quoted(place: str | Path) -> str:
    """As a shell takes it, where there is a space in it."""
    return shlex.quote(str(place))


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"ibllm: warning: {' '.join(warning.split())}", file=sys.stderr)


_KINDS = {
    "imagebind": _Kind(
        summary="ImageBind: images, sounds, texts, ... into one space",
        description="""\
Turn ImageBind's official checkpoint into a model's folder. The file is 4.8 GB, and so is the folder; 3 GB of memory
do.""",
        examples="""\
examples:
  ibllm convert imagebind imagebind_huge.pth -o models/imagebind
  ibllm convert imagebind imagebind_w3D.pth --clip-tokenizer bpe_simple_vocab_16e6.txt.gz -o models/imagebind
""",
        licences=(known_files.IMAGEBIND_LICENCE, known_files.POINT_BIND_LICENCE, known_files.CLIP_LICENCE),
        add_arguments=_add_imagebind_arguments,
        convert=_convert_imagebind,
    ),
    "point-bind": _Kind(
        summary="Point-Bind: point clouds and meshes too, for a model that was converted before",
        description="""\
Give the point tower of Point-Bind to a converted ImageBind or ImageBind-LLM, or replace the one it has. Do so before
you add a visual cache: a cache holds the features of the model as it is.""",
        examples="""\
examples:
  ibllm convert point-bind pointbind_pointbert.pt --into models/imagebind
""",
        licences=(known_files.POINT_BIND_LICENCE,),
        add_arguments=_add_point_bind_arguments,
        convert=_convert_point_bind,
    ),
    "imagebind-llm": _Kind(
        summary="ImageBind-LLM: a LLaMA that answers questions about all of these",
        description="""\
Put an adapter of ImageBind-LLM, the LLaMA that it was trained on and ImageBind together into a model's folder. The 7
B model takes some 7 GB of memory, and 17 to 21 GB of disk.""",
        examples="""\
examples:
  ibllm convert imagebind-llm 7B.pth --llama llama --imagebind imagebind_w3D.pth -o models/imagebind-llm
  ibllm convert imagebind-llm 7B.pth --llama owner/llama-7b --imagebind models/imagebind --dtype bfloat16 -o models/7b
""",
        licences=(
            known_files.IMAGEBIND_LLM_LICENCE,
            known_files.LLAMA_LICENCE,
            known_files.IMAGEBIND_LICENCE,
            known_files.POINT_BIND_LICENCE,
            known_files.CLIP_LICENCE,
        ),
        add_arguments=_add_imagebind_llm_arguments,
        convert=_convert_imagebind_llm,
    ),
    "cache": _Kind(
        summary="the visual cache: a FAISS index of image features, into ChromaDB",
        description="""\
Turn ImageBind-LLM's visual cache, a FAISS index, into one in ChromaDB. In the folder of a model it is used from then
on; with --model it goes into a folder of its own.""",
        examples="""\
examples:
  ibllm convert cache knn.index -o models/imagebind-llm
  ibllm convert cache knn.index --model models/imagebind-llm -o caches/coco
""",
        licences=(known_files.VISUAL_CACHE_LICENCE,),
        add_arguments=_add_cache_arguments,
        convert=_convert_cache,
    ),
}

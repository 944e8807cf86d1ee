"""``ibllm ask``."""

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ibllm_tools.cli import options as shared
from ibllm_tools.errors import IbllmError, InvalidRequestError, one_line

if TYPE_CHECKING:
    from ibllm_tools.assistant.answer import Evidence

DESCRIPTION = """\
Ask a question about files. The answer appears as it is written. Several files are mixed into one impression,
equally or by the weights given; without a file the question goes to the language model alone. With --library the
answer builds on what a media library holds, found by the files or by the question's words, and the lines after it cite
that."""
EXAMPLES = """\
examples:
  ibllm ask "What is making this sound?" bell.wav
  ibllm ask "What do you see and hear?" street.jpg rain.wav=0.3
  ibllm ask "What rings?" --library library
  ibllm ask "What is this?" bell.wav --schema thing.json
  curl -s https://example.com/cat.png | ibllm ask "What is this?" - --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Question, files, options."""
    parser.add_argument("question", metavar="QUESTION", help="a question or an instruction")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE[=WEIGHT]",
        help=shared.FILES_HELP + "; bell.wav=0.7 gives it a weight (1 where others have one), -- -=0.7 does for stdin",
    )
    group = parser.add_argument_group("library")
    group.add_argument(
        "--library",
        metavar="LIBRARY",
        help="answer with what this media library holds, a folder or http://host:port, and say what was found",
    )
    shared.add_library_arguments(group)
    group.add_argument("-k", type=int, default=3, metavar="K", help="sources to take from it at most; 3 by default")
    answer = shared.add_answer_arguments(parser)
    answer.add_argument(
        "--schema",
        metavar="FILE",
        help="answer with JSON of the JSON schema in this file (needs the extra 'structured')",
    )
    answer.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end the answer before this text; can be given several times",
    )
    shared.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Answer the question."""
    if not options.question.strip():
        raise InvalidRequestError("the question is empty; ask something, or use ibllm describe")
    schema = shared.json_schema(options.schema)
    pairs = [shared.split_weight(argument) for argument in options.files]
    weights = None
    if any(weight is not None for _, weight in pairs):
        weights = [1.0 if weight is None else weight for _, weight in pairs]
    files = []
    for _, attachment in shared.open_files([file for file, _ in pairs], shared.access(options)):
        if isinstance(attachment, IbllmError):
            raise attachment
        files.append(attachment)
    if options.library:
        shared.open_library(options, create=False).close()  # what is wrong with it is said before a model is loaded
    with ExitStack() as opened:
        assistant = opened.enter_context(shared.load_assistant(options))
        asked = {"weights": weights, "k": options.k, **shared.sampling(options)}
        asked |= {"schema": schema, "stop": options.stop}
        if options.library:
            settings = {"embedder": assistant.embedder, "limits": assistant.access.limits, "create": False}
            asked["library"] = opened.enter_context(shared.open_library(options, **settings))
        if options.json:
            print(assistant.ask(options.question, *files, **asked).model_dump_json())
            return 0
        with assistant.stream(options.question, *files, **asked) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        print()
        for evidence in stream.answer.evidence if options.library else ():
            print(f"  {_citation(evidence)}")
    return 0


def _citation(evidence: "Evidence") -> str:
    """``bell.wav (audio, 0.0-3.0 s): It is a bell.``"""
    span = "" if evidence.start is None or evidence.end is None else f", {evidence.start:.1f}-{evidence.end:.1f} s"
    said = "" if evidence.caption is None else f": {one_line(evidence.caption)}"
    return f"{one_line(evidence.source)} ({evidence.modality}{span}){said}"

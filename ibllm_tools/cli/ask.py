"""``ibllm ask``."""

import argparse

from ibllm_tools.cli import options as shared
from ibllm_tools.errors import IbllmError, InvalidRequestError

DESCRIPTION = """\
Ask a question about files. The answer appears as it is written. Several files are mixed into one impression,
equally or by the weights given; without a file the question goes to the language model alone."""
EXAMPLES = """\
examples:
  ibllm ask "What is making this sound?" bell.wav
  ibllm ask "What do you see and hear?" street.jpg rain.wav=0.3
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
    shared.add_answer_arguments(parser)
    shared.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Answer the question."""
    if not options.question.strip():
        raise InvalidRequestError("the question is empty; ask something, or use ibllm describe")
    pairs = [shared.split_weight(argument) for argument in options.files]
    weights = None
    if any(weight is not None for _, weight in pairs):
        weights = [1.0 if weight is None else weight for _, weight in pairs]
    files = []
    for _, attachment in shared.open_files([file for file, _ in pairs], shared.access(options)):
        if isinstance(attachment, IbllmError):
            raise attachment
        files.append(attachment)
    with shared.load_assistant(options) as assistant:
        if options.json:
            answer = assistant.ask(options.question, *files, weights=weights, **shared.sampling(options))
            print(answer.model_dump_json())
            return 0
        with assistant.stream(options.question, *files, weights=weights, **shared.sampling(options)) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        print()
    return 0

"""``ibllm describe``."""

import argparse
from typing import TYPE_CHECKING

from ibllm_tools.cli import options as shared
from ibllm_tools.cli.terminal import report
from ibllm_tools.errors import IbllmError

if TYPE_CHECKING:
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.attachments import Attachment

DESCRIPTION = """\
Describe files, each by itself. A file that cannot be used is reported on stderr, the others are described, and the
exit code is 2."""
EXAMPLES = """\
examples:
  ibllm describe bell.glb
  ibllm describe holiday/*.jpg --json > descriptions.jsonl
"""
BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files and options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=shared.FILES_HELP)
    shared.add_answer_arguments(parser)
    shared.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Describe every file that can be used."""
    files = shared.open_files(options.files, shared.access(options))
    usable = [(file, item) for file, item in files if not isinstance(item, IbllmError)]
    for _, item in files:
        if isinstance(item, IbllmError):
            report(str(item))
    described = 0
    if usable:
        with shared.load_assistant(options) as assistant:
            for start in range(0, len(usable), BATCH):
                described += _describe(usable[start : start + BATCH], assistant, options)
    return 0 if described == len(files) else 2


def _describe(batch: "list[tuple[str, Attachment]]", assistant: "Assistant", options: argparse.Namespace) -> int:
    """Print the descriptions and return how many there are."""
    from ibllm_tools.assistant.answer import Question
    from ibllm_tools.assistant.assistant import DESCRIBE

    questions = [Question(text=DESCRIBE, attachments=(attachment,)) for _, attachment in batch]
    answers = assistant.ask_batch(questions, batch_size=BATCH, **shared.sampling(options))
    failures = 0
    for (file, _), answer in zip(batch, answers, strict=True):
        if isinstance(answer, IbllmError):
            report(str(answer))
            failures += 1
        elif options.json:
            print(answer.model_dump_json(), flush=True)
        else:
            print(answer.text if len(options.files) == 1 else f"{file}: {answer.text}", flush=True)
    return len(batch) - failures

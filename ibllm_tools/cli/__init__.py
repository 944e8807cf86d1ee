"""``ibllm``: ask about images, sounds, videos and 3D models from the terminal.

Exit codes: 0 all went well, 2 something that was handed in cannot be used (one line on stderr says what), 130
interrupted, 141 nobody reads the output any more.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from ibllm_tools.cli.terminal import INTERRUPTED, quiet_libraries, report
from ibllm_tools.errors import IbllmError

COMMANDS = {
    "ask": "ask a question about files",
    "describe": "describe files, one by one",
    "index": "add files to a media library",
    "search": "find files in a media library by text, by files or by both",
    "library": "look into a media library, check it, move it, tidy it up",
    "mcp": "serve the tools to agents over the Model Context Protocol",
    "embed": "write the joint embeddings of files to a .npy file",
    "cache": "build a visual cache from images or features, or look at one",
    "convert": "turn official weights into folders that --model takes",
    "doctor": "show what is installed, which extras are missing and where the model comes from",
}
DESCRIPTION = """\
Ask about images, sounds, videos, 3D models and text. The model that is shipped with the package answers offline;
--model takes a converted checkpoint instead."""
EXAMPLES = """\
examples:
  ibllm ask "What is this?" bell.png
  ibllm describe holiday/*.jpg
  ibllm index holiday --library library
  ibllm search "waves at night" --library library
  ibllm doctor
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that states an error as one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and exit with 2."""
        report(f"{message}; see {self.prog} --help")
        self.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        arguments: those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        parser = program_parser()
        parser.parse_args(words)  # --help, --version and errors end here
        parser.print_help()
        return 2
    try:
        options = parsed(command_parser(words[0]), words[1:])
        with quiet_libraries():
            code: int = import_module(f"{__name__}.{words[0]}").run(options)
            sys.stdout.flush()
    except IbllmError as error:
        report(str(error))
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # what is still buffered would fail again when Python exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def program_parser() -> argparse.ArgumentParser:
    """The parser of ``ibllm`` itself, which knows its commands by name only."""
    parser = Parser(
        prog="ibllm", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    module = import_module(f"{__name__}.{name}")
    parser = Parser(
        prog=f"ibllm {name}",
        description=module.DESCRIPTION,
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The options in the words: files may stand between them, except where there are commands below the command."""
    has_commands = any(isinstance(action.choices, dict) for action in parser._actions)
    return parser.parse_args(words) if has_commands else parser.parse_intermixed_args(words)


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from ibllm_tools import __version__

        print(f"ibllm-tools {__version__}")
        parser.exit(0)

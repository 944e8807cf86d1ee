"""``python -m ibllm_tools.mini train | evaluate | samples``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ibllm_tools.errors import IbllmError

SHIPPED = Path(__file__).parent / "weights"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ibllm_tools.mini", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run the recipe, stage by stage; an interrupted run goes on where it was")
    train.add_argument(
        "--folder", type=Path, default=Path("runs/mini"), help="data set, checkpoints and finished stages"
    )
    train.add_argument("--output", type=Path, help="folder of the finished model; FOLDER/model by default")
    train.add_argument("--stages", nargs="+", metavar="STAGE", help="only these stages")
    train.add_argument("--workers", type=int, default=2, help="processes that render")
    evaluate = commands.add_parser("evaluate", help="print the table of exact matches on held-out things and phrasings")
    evaluate.add_argument("--model", type=Path, default=SHIPPED, help="folder of the model; the shipped one by default")
    evaluate.add_argument("--split", choices=("validation", "test"), default="test")
    evaluate.add_argument("--folder", type=Path, default=Path("runs/mini"), help="where the split is rendered")
    evaluate.add_argument("--workers", type=int, default=2, help="processes that render")
    samples = commands.add_parser("samples", help="write the sample media")
    samples.add_argument("folder", type=Path, nargs="?", default=Path("examples/media"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 when it cannot be done."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "train":
            from ibllm_tools.mini.recipe import Recipe

            Recipe(options.folder, output=options.output, workers=options.workers).run(options.stages)
        elif options.command == "evaluate":
            from ibllm_tools.mini.evaluate import evaluate_folder, markdown

            print(markdown(evaluate_folder(options.model, options.folder, options.split, workers=options.workers)))
        else:
            from ibllm_tools.mini.samples import write_samples

            for path in write_samples(options.folder):
                print(path)
    except IbllmError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

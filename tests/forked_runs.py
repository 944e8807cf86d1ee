"""Runs of a library in processes that can be killed, forked from one that has imported everything and opened nothing"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SCRIPT = """if True:
    import os, resource, sys, traceback
    from pathlib import Path
    import chromadb
    from chromadb.api.rust import RustBindingsAPI
    from damaged_libraries import open_library
    from ibllm_tools.errors import IbllmError

    def add(library, media):
        "One source after the other; each is named once its call has returned."
        with open_library(Path(library)) as opened:
            print("opened", flush=True)
            for path in sorted(Path(media).iterdir()):
                report = opened.add(path, progress=False)
                assert not report.failures, report.failures
                print(path, flush=True)

    def compact(library):
        with open_library(Path(library)) as opened:
            opened.compact(progress=False)

    def limited(library, media):
        open_library(Path(library)).close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
        try:
            add(library, media)
        except IbllmError as error:
            print(f"{type(error).__name__}: {error}", flush=True)

    def fork(library, media):
        with open_library(Path(library)) as opened:
            opened.add(next(Path(media).iterdir()), progress=False)
            child = os.fork()
            if not child:
                try:
                    len(opened)
                except IbllmError as error:
                    print(f"{type(error).__name__}: {error}", flush=True)
                os._exit(0)
            os.waitpid(child, 0)

    for line in sys.stdin:
        output, name, *arguments = line.split()
        process = os.fork()
        if not process:
            code = 1
            try:
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
                globals()[name](*arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(process, flush=True)
        print(os.waitpid(process, 0)[1], flush=True)
"""


class Run(NamedTuple):
    """A run that is on its way."""

    process: int
    output: Path
    forker: "subprocess.Popen[str]"

    def kill(self) -> int:
        """End it on the spot, whatever it is doing, unless it has ended; its exit status."""
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        return self.wait()

    def has_ended(self) -> bool:
        """Whether it needs no killing."""
        return not Path(f"/proc/{self.process}").exists()

    def wait(self) -> int:
        """Its exit status, 9 when it was killed."""
        assert self.forker.stdout is not None
        return int(self.forker.stdout.readline())

    def acknowledged(self) -> list[str]:
        """The sources whose `add` had returned; whatever else it printed, too."""
        said = self.output.read_text().splitlines() if self.output.exists() else []
        return [line for line in said if line != "opened"]


class Runs:
    """Starts them, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._forker = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )

    def start(self, name: str, *arguments: Path) -> Run:
        """``add`` a folder of media to a library, ``limited`` in file sizes or not; ``compact`` it; ``fork``."""
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._count += 1
        output = self._folder / f"{self._count}.out"
        print(output, name, *arguments, file=self._forker.stdin, flush=True)
        process = int(self._forker.stdout.readline())
        return Run(process, output, self._forker)

    def close(self) -> None:
        """End the process that forks."""
        self._forker.communicate()

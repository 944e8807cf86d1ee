"""Index a folder of mixed media, search it by words, sounds and shapes, and ask about what is found."""

import tempfile
from pathlib import Path

from ibllm_tools import Assistant, MediaLibrary

MEDIA = Path(__file__).parent / "media"


def main() -> None:
    """Everything that a library does, on the sample media."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant.load() as assistant,
        MediaLibrary.open(folder, embedder=assistant.embedder, captioner=assistant) as library,
    ):
        report = library.add(
            MEDIA, caption=True, metadata=lambda source: {"suffix": Path(source).suffix}, progress=False
        )
        print(f"indexed {report.added} files as {report.entries} entries in {report.seconds:.1f} s")
        print(f"again: {library.add(MEDIA, progress=False).unchanged} of them are unchanged\n")

        queries = {
            "a dog barking": "a dog barking",
            "what sounds or looks like bell.wav": MEDIA / "bell.wav",
            "what is like piano.obj": MEDIA / "piano.obj",
            "bell.wav without the bell in it": [MEDIA / "bell.wav", "a bell"],
        }
        for title, query in queries.items():
            weights = [1.0, -0.7] if isinstance(query, list) else None
            print(title)
            for hit in library.search(query, k=3, query_weights=weights):
                print(f"  {hit.score:.2f}  {hit.modality:6} {hit.citation:28} {hit.caption}")

        print("\nonly what is a WAV file, by the words of the captions")
        for hit in library.search("siren", ranking="words", where={"suffix": ".wav"}):
            print(f"  {hit.citation}: {hit.caption}")

        answer = assistant.ask("a flying helicopter", library=library)
        print(f"\n{answer.text}")
        for evidence in answer.evidence:
            print(f"  {evidence.name}: {evidence.caption}")


if __name__ == "__main__":
    main()

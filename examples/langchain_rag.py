"""An existing RAG of texts hears: notes in langchain-chroma and recordings in a media library, merged by an ensemble.

The question is about a recording, and a recording has no colour; the notes know colours, and do not hear. Only both
together answer it, and the answer cites both. It needs ``pip install langchain-chroma langchain-classic``.
"""

import tempfile
from pathlib import Path
from typing import Any

from langchain_chroma import Chroma
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.retrievers import BaseRetriever

from ibllm_tools import Assistant, MediaLibrary
from langchain_ibllm import ChatImageBindLLM, ImageBindEmbeddings, ImageBindRetriever

MEDIA = Path(__file__).parent / "media"
NOTES = {"bell.txt": "The bell is red.", "car.txt": "The car is blue.", "dog.txt": "The dog is brown."}
Block = dict[str, Any]
SOUND, QUESTION = MEDIA / "bell.wav", "What colour is it?"


def notes_retriever(folder: Path, embeddings: ImageBindEmbeddings) -> BaseRetriever:
    """The RAG that was there before: texts in Chroma, each with its name as citation."""
    documents = [Document(page_content=text, metadata={"citation": name}) for name, text in NOTES.items()]
    return Chroma.from_documents(documents, embeddings, persist_directory=str(folder)).as_retriever(
        search_kwargs={"k": 1}
    )


def answer(chat: ChatImageBindLLM, retriever: BaseRetriever, query: str, *blocks: Block) -> str:
    """The question, answered from what is found and from what is heard, with the citations of what was read."""
    documents = retriever.invoke(query)
    read = "\n".join(document.page_content for document in documents)
    said = chat.invoke([SystemMessage(read), HumanMessage([QUESTION, *blocks])]).text
    return f"{said} [{'; '.join(document.metadata['citation'] for document in documents)}]"


def main() -> None:
    """Ask the notes, the recordings, and both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant.load() as assistant,
        MediaLibrary.open(Path(folder) / "library", embedder=assistant.embedder, captioner=assistant) as library,
    ):
        library.add(MEDIA / "*.wav", caption=True, progress=False)
        chat = ChatImageBindLLM(assistant=assistant, roots=[MEDIA])
        notes = notes_retriever(Path(folder) / "notes", ImageBindEmbeddings(assistant=assistant))
        recordings = ImageBindRetriever(library=library, k=1)
        both = EnsembleRetriever(retrievers=[recordings, notes], weights=[0.5, 0.5], id_key="citation")
        sound = {"type": "audio", "url": str(SOUND), "mime_type": "audio/wav"}
        heard = chat.invoke([HumanMessage(["What is it?", sound])]).text  # what the texts can be searched for
        print(f"{SOUND.name}: {heard} {QUESTION}")
        print("  notes, which do not hear:        ", answer(chat, notes, QUESTION))
        print("  recordings, which have no colour:", answer(chat, recordings, heard, sound))
        print("  both:                            ", answer(chat, both, heard, sound))


if __name__ == "__main__":
    main()

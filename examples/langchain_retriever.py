"""A folder of media as a LangChain retriever: found by words, by a sound, by a mix, and cited to the second."""

import tempfile
from pathlib import Path

from ibllm_tools import Assistant
from langchain_ibllm import ImageBindEmbeddings, ImageBindRetriever, ImageBindVectorStore

MEDIA = Path(__file__).parent / "media"


def main() -> None:
    """Index the sample media and two texts, and ask for them in every way."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant.load() as assistant,
        ImageBindVectorStore.open(folder, ImageBindEmbeddings(assistant=assistant), captioner=assistant) as store,
    ):
        store.add_media([MEDIA], caption=True)
        store.add_texts(
            ["The bell was cast in 1712.", "The dog of the miller barks at night."],
            [{"source": "chronicle.txt"}, {"source": "gossip.txt"}],
            ids=["chronicle-1", "gossip-1"],
        )

        retriever = ImageBindRetriever(library=store.library, k=3)
        asked = {
            "by words: a ringing bell": retriever.invoke("a ringing bell"),
            "by a sound: dog.wav": retriever.invoke(MEDIA / "dog.wav"),
            "by a sound, among pictures: bell.wav": retriever.invoke(MEDIA / "bell.wav", modality="image"),
            "by a mix: a duck, and bell.wav": retriever.invoke(["a duck", MEDIA / "bell.wav"], query_weights=[1, 0.7]),
            "by the words of texts and captions": retriever.invoke("cast in 1712", ranking="words"),
        }
        for title, documents in asked.items():
            print(title)
            for document in documents:
                said = document.metadata
                print(f"  {said['score']:.2f}  {said['modality']:6} {said['citation']:26} {document.page_content}")

        print("not all the same, as a vector store")
        diverse = store.as_retriever(search_type="mmr", search_kwargs={"k": 3, "lambda_mult": 0.9})
        for document in diverse.invoke("a ringing bell"):
            print(f"  {document.metadata.get('citation', document.id):34} {document.page_content}")


if __name__ == "__main__":
    main()

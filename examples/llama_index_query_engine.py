"""One question that needs a sound and a text: a media library beside a text index of LlamaIndex, with citations.

It needs ``pip install llama-index-vector-stores-chroma``.
"""

import tempfile
from pathlib import Path

import chromadb
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import QueryBundle
from llama_index.vector_stores.chroma import ChromaVectorStore

from ibllm_tools import Assistant, MediaLibrary
from llama_index.embeddings.ibllm import ImageBindEmbedding
from llama_index.llms.ibllm import ImageBindLLM
from llama_index.retrievers.ibllm import ImageBindRetriever, ImageBindSynthesizer

MEDIA = Path(__file__).parent / "media"
NOTES = {"bell.txt": "The bell is red.", "car.txt": "The car is blue.", "dog.txt": "The dog is brown."}
SOUND, QUESTION = MEDIA / "bell.wav", "What colour is it?"


def text_index(folder: Path, embedding: ImageBindEmbedding) -> VectorStoreIndex:
    """The notes in a store of Chroma that is LlamaIndex's own."""
    collection = chromadb.PersistentClient(str(folder)).get_or_create_collection("notes")
    return VectorStoreIndex.from_documents(
        [Document(text=text, metadata={"file_name": name}) for name, text in NOTES.items()],
        storage_context=StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection)),
        embed_model=embedding,
        transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0)],
    )


def main() -> None:
    """Ask the notes, which do not hear, the recordings, which have no colours, and both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant.load() as assistant,
        MediaLibrary.open(Path(folder) / "library", embedder=assistant.embedder, captioner=assistant) as library,
    ):
        library.add(MEDIA / "*.wav", caption=True, progress=False)
        llm, embedding = ImageBindLLM(assistant), ImageBindEmbedding(assistant, roots=[MEDIA])
        recordings = ImageBindRetriever(library, similarity_top_k=1)
        notes = text_index(Path(folder) / "notes", embedding).as_retriever(similarity_top_k=1)
        both = QueryFusionRetriever(
            [notes, recordings], llm=llm, num_queries=1, mode=FUSION_MODES.RECIPROCAL_RANK, use_async=False
        )
        # One space for sounds and texts: the notes, too, are found by what is heard.
        heard = QueryBundle(QUESTION, embedding=embedding.get_audio_embedding(SOUND))
        print(f"{SOUND.name}: {QUESTION}")
        for name, retriever, query in (
            ("notes", notes, QueryBundle(QUESTION)),
            ("recordings", recordings, heard),
            ("both", both, heard),
        ):
            response = RetrieverQueryEngine(retriever, ImageBindSynthesizer(llm, library)).query(query)
            print(f"  {name}: {response}")
            for node in response.source_nodes:
                print(f"    {node.metadata.get('citation', node.metadata.get('file_name'))}: {node.get_content()}")


if __name__ == "__main__":
    main()

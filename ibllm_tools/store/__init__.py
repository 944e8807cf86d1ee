"""Everything that lives in ChromaDB."""

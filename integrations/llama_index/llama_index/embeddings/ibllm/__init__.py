"""The joint embedding as an embedding model of LlamaIndex."""

"""ImageBind-LLM for LangChain: chat model, embeddings, retriever, vector store, tools and middleware."""

"""ImageBind-LLM as an LLM of LlamaIndex."""

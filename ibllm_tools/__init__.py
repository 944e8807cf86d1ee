"""Let an agent hear, watch and look: ImageBind-LLM as a composable plugin.

The public names are imported on first use, so ``import ibllm_tools`` loads neither torch nor chromadb.
"""

"""ImageBind-LLM as a server of the Model Context Protocol: ``ibllm mcp``."""

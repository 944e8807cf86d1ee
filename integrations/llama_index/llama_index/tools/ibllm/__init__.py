"""What an agent of LlamaIndex may do with media."""

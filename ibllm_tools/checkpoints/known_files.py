"""Published hashes of official files, and the licences of their content. Imports nothing.

A hash is here only if two independent public sources state it.
"""

# Stated by llama.cpp's SHA256SUMS, by Chinese-LLaMA-Alpaca's instructions and by Pygmalion's.
LLAMA_7B_WEIGHTS = "700df0d3013b703a806d2ae7f1bfb8e59814e3d06ae78be0c66368a50059f33d"
# Stated by Pygmalion's instructions and by Open-Chinese-LLaMA's SHA256.txt: both bases share it.
LLAMA_TOKENIZER = "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"

IMAGEBIND_LICENCE = (
    "ImageBind's weights: CC-BY-NC-SA 4.0, no commercial use "
    "(https://github.com/facebookresearch/ImageBind/blob/main/LICENSE)"
)
POINT_BIND_LICENCE = "Point-Bind's weights: no licence stated (https://github.com/ZiyuGuo99/Point-Bind_Point-LLM)"
CLIP_LICENCE = "CLIP's vocabulary: MIT (https://github.com/openai/CLIP/blob/main/LICENSE)"
LLAMA_LICENCE = (
    "LLaMA's weights, and all derived from them: Meta's LLaMA licence, for research without commercial use "
    "(https://github.com/facebookresearch/llama/tree/llama_v1)"
)
VISUAL_CACHE_LICENCE = (
    "ImageBind-LLM's visual cache, features of other people's pictures: no licence stated "
    "(https://huggingface.co/csuhan/knn)"
)
IMAGEBIND_LLM_LICENCE = (
    "ImageBind-LLM's adapter: published for research from a GPL-3.0 repository "
    "(https://github.com/OpenGVLab/LLaMA-Adapter/tree/main/imagebind_LLM)"
)

"""What the injection costs per generated token, against the same transformers model without it.

Both models hold the same weights and write the same number of tokens, in one process. They take turns, because the
clock of a shared machine drifts by more than what is measured.
"""

import copy
import statistics
import time
from functools import partial

import torch
from report import publish, table
from transformers import LlamaConfig, LlamaForCausalLM

from ibllm_tools.imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm import ImageBindLlmConfig, ImageBindLlmForConditionalGeneration

PROMPT_TOKENS, EMBEDDING = 32, 64
SIZES = {
    # layers, width, heads, tokens per run, runs
    "tiny Llama": (4, 128, 4, 64, 15),
    "mid-size Llama": (12, 1024, 16, 24, 9),
}


def language_model(layers: int, width: int, heads: int) -> LlamaForCausalLM:
    """A Llama with random weights that never ends of its own accord."""
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def bound(plain: LlamaForCausalLM) -> ImageBindLlmForConditionalGeneration:
    """The same language model with the injection in every layer, its gates half open."""
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 64, "max_position_embeddings": 8}
    config = ImageBindLlmConfig(
        imagebind_config=ImageBindConfig(projection_dim=EMBEDDING, text_config=text),
        text_config=copy.deepcopy(plain.config),
    )
    model = ImageBindLlmForConditionalGeneration(config).eval()
    model.language_model.load_state_dict(plain.state_dict())
    torch.nn.init.constant_(model.gates, 0.5)
    attentions = {each.config._attn_implementation for each in (plain, model.language_model)}
    assert len(attentions) == 1, f"not comparable: {attentions}"
    return model


def seconds_per_token(model: torch.nn.Module, tokens: int, **attachment: torch.Tensor) -> float:
    """Generate once, greedily, the reading of the prompt included."""
    prompt = torch.full((1, PROMPT_TOKENS), 5)
    began = time.perf_counter()
    ids = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        **attachment,
    )
    took = time.perf_counter() - began
    assert ids.shape[1] == PROMPT_TOKENS + tokens
    return took / tokens


def compare(name: str, layers: int, width: int, heads: int, tokens: int, runs: int) -> list[str]:
    """One row: both times, and the ratio of each pair of runs."""
    torch.manual_seed(0)
    plain = language_model(layers, width, heads)
    injected = bound(plain)
    sides = [
        partial(seconds_per_token, plain, tokens),
        partial(
            seconds_per_token, injected, tokens, embeddings=torch.nn.functional.normalize(torch.randn(1, EMBEDDING))
        ),
    ]
    times: list[list[float]] = [[], []]
    for run in range(runs + 1):
        for side in (0, 1) if run % 2 else (1, 0):
            took = sides[side]()
            if run:  # the first pair warms up
                times[side].append(took)
    ratios = [with_ / without for without, with_ in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    without, with_ = (f"{1000 * statistics.median(side):.2f} ms" for side in times)
    floor = min(times[1]) / min(times[0])
    size = f"{name}, {layers} x {width}"
    return [size, without, with_, f"{middle:.3f} ({low:.3f} to {high:.3f})", f"{floor:.3f}", f"{runs} x {tokens}"]


def measure() -> str:
    """The table."""
    rows = [compare(name, *size) for name, size in SIZES.items()]
    head = ["language model", "per token", "with injection", "ratio, median (quartiles)", "of the fastest", "tokens"]
    return (
        table(head, rows)
        + f"\n\nGreedy, batch of 1, prompt of {PROMPT_TOKENS} tokens, injection in every layer, float32, "
        f"{torch.get_num_threads()} threads; runs with and without alternate in one process."
    )


if __name__ == "__main__":
    publish("injection", measure)

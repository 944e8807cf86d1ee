"""Equality with the research code (OpenGVLab/LLaMA-Adapter, imagebind_LLM), on its tiny LLaMA_adapter."""

from collections.abc import Callable

import pytest
import torch
from golden_adapter import Golden, official_part
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from ibllm_tools.imagebind_llm import (
    ImageBindLlmForConditionalGeneration,
    image_generation_embedding,
    mix_embeddings,
)

Build = Callable[..., ImageBindLlmForConditionalGeneration]
TOLERANCE = 2e-5
MODALITIES = {"Image": "image", "Video": "video", "Text": "text", "Audio": "audio", "Depth": "depth"}
MODALITIES |= {"Thermal": "thermal", "IMU": "imu", "Point": "point"}
VISUAL = ["image", "image_w0.4", "text", "audio", "video", "point", "depth", "thermal", "imu", "image+audio"]
VISUAL += ["image+audio+text", "six", "batch2"]
KNN = [f"{case}.{index}" for case in ("image", "image+audio", "six") for index in range(5)]
MODELS = [("finetune", 4), ("finetune", 2), ("pretrain", 4), ("pretrain", 2)]
MODEL_IDS = [f"{phase}_{'full' if layers == 4 else 'part'}" for phase, layers in MODELS]
GREEDY = ["finetune", "finetune_ids_prompt", "finetune_part", "pretrain", "finetune_knn", "finetune_knn_w0.9"]
GREEDY += ["unicode_prompt", "custom_eos", "seq_limit", "max_gen_len_1"]


def close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def encode(model: ImageBindLlmForConditionalGeneration, golden: Golden, case: str, *, prenorm: bool = False):
    """The embeddings of one visual case as (modality, (B, E)), and their weights."""
    embeddings, weights = [], []
    for item in golden.facts["visual"][case]["inputs"]:
        modality = MODALITIES[item["type"]]
        values = golden.inputs[item["tensor"]][slice(*item["batch"])]
        starts = torch.zeros(len(values), dtype=torch.long) if modality == "point" else None
        output = model.imagebind.encode(modality, values, prenorm=prenorm, start_indices=starts)
        embeddings.append((modality, output))
        weights.append(item["weight"])
    return embeddings, weights


def retrieve(golden: Golden, embedding: Tensor, k: float, temperature: float, weight: float) -> Tensor:
    """The visual cache's formula over the stored prototypes (arXiv 2309.03905, section 3.4)."""
    scores, nearest = (embedding @ golden.visual["knn_prototypes"].T).topk(int(k))
    blend = (torch.softmax(temperature * scores, -1)[..., None] * golden.visual["knn_prototypes"][nearest]).sum(1)
    blend = blend / blend.norm(dim=-1, keepdim=True)
    mixed = (1 - weight) * embedding + weight * blend
    return mixed / mixed.norm(dim=-1, keepdim=True)


# --- visual features ---


@pytest.mark.parametrize("case", VISUAL)
def test_mixed_embedding_equals_the_official_one(golden: Golden, build: Build, case: str) -> None:
    with torch.no_grad():
        embeddings, weights = encode(build("finetune", 4), golden, case)
    close(mix_embeddings([value for _, value in embeddings], weights), golden.visual[f"visual.{case}.embed"][:, 0])


@pytest.mark.parametrize("case", [f"visual.{case}" for case in VISUAL] + [f"knn.{case}" for case in KNN])
def test_bind_network_equals_the_official_features(golden: Golden, build: Build, case: str) -> None:
    with torch.no_grad():
        features = build("finetune", 4).bind_network(golden.visual[f"{case}.embed"][:, 0])
    close(features, golden.visual[f"{case}.feats"][:, 0])


def test_inside_the_bind_network(golden: Golden, build: Build) -> None:
    network, seen = build("finetune", 4).bind_network, {}
    modules = {"proj": network.proj}
    for index, block in enumerate(network.blocks, start=1):
        modules |= {f"norm_{index}": block.norm, f"f2_{index}": block.down_proj}
    hooks = [
        module.register_forward_hook(lambda _module, _args, output, name=name: seen.update({name: output}))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        network(golden.visual["visual.image+audio.embed"][:, 0])
    for hook in hooks:
        hook.remove()
    assert len(seen) == 7
    for name, value in seen.items():
        close(value, golden.visual[f"bridge.{name}"][:, 0])


@pytest.mark.parametrize("case", ["image", "audio", "point", "image+audio", "six"])
@pytest.mark.parametrize("cache", [None, 0, 1, 2])
def test_image_generation_vectors(golden: Golden, build: Build, case: str, cache: int | None) -> None:
    name = f"{case}.noknn" if cache is None else f"{case}.knn{cache}"
    options = golden.facts["image_generate"][name]["cache"]
    with torch.no_grad():
        embeddings, weights = encode(build("finetune", 4), golden, case, prenorm=True)
    enhance = None if cache is None else lambda unit: retrieve(golden, unit, *options)
    close(image_generation_embedding(embeddings, weights, enhance=enhance), golden.image_generate[name])


# --- the language model ---


def run(model: ImageBindLlmForConditionalGeneration, tokens: Tensor, extra: Tensor, embeddings: Tensor):
    """Prefill, then one teacher-forced token per step: hidden states by name, and the logits of each step."""
    decoder, hidden = model.language_model.model, {}
    watched = {f"layer{index}": layer for index, layer in enumerate(decoder.layers)}
    watched |= {"layer0.attention_norm": decoder.layers[0].input_layernorm, "final_norm": decoder.norm}
    watched["layer0.ffn_norm"] = decoder.layers[0].post_attention_layernorm
    hooks = [
        module.register_forward_hook(lambda _module, _args, output, name=name: hidden.update({name: output}))
        for name, module in watched.items()
    ]
    with torch.no_grad():
        output = model(tokens, embeddings=embeddings, use_cache=True)
        for hook in hooks:
            hook.remove()
        logits = {"logits_prefill": output.logits[:, -1]}
        for step in range(extra.shape[1]):
            cache = output.past_key_values
            output = model(extra[:, step : step + 1], past_key_values=cache, embeddings=embeddings, use_cache=True)
            logits[f"logits_step{step}"] = output.logits[:, -1]
    return hidden, logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("phase", "layers"), MODELS, ids=MODEL_IDS)
def test_hidden_states_and_logits(golden: Golden, build: Build, phase: str, layers: int, attention: str) -> None:
    model, name = build(phase, layers, fresh=True), f"{phase}_{'full' if layers == 4 else 'part'}"
    model.language_model.set_attn_implementation(attention)
    embeddings = golden.visual["visual.image+audio.embed"][:, 0]
    hidden, logits = run(model, golden.inference["tokens"], golden.inference["extra"], embeddings)
    for part, value in {**hidden, **logits}.items():
        close(value, golden.inference[f"{name}.{part}"])


def test_hidden_states_and_logits_of_a_batch(golden: Golden, build: Build) -> None:
    embeddings = golden.visual["visual.batch2.embed"][:, 0]
    tokens, extra = golden.inference["tokens_b2"], golden.inference["extra_b2"]
    hidden, logits = run(build("finetune", 4), tokens, extra, embeddings)
    for part, value in {**hidden, **logits}.items():
        close(value, golden.inference[f"finetune_full_b2.{part}"])


@pytest.mark.parametrize(("phase", "layers"), MODELS, ids=MODEL_IDS)
def test_hidden_states_and_logits_with_the_lora_kept_apart(
    golden: Golden, build: Build, phase: str, layers: int
) -> None:
    model, name = build(phase, layers, keep_lora=True), f"{phase}_{'full' if layers == 4 else 'part'}"
    embeddings = golden.visual["visual.image+audio.embed"][:, 0]
    hidden, logits = run(model, golden.inference["tokens"], golden.inference["extra"], embeddings)
    for part, value in {**hidden, **logits}.items():
        close(value, golden.inference[f"{name}.{part}"])


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_ids(golden: Golden, build: Build, name: str) -> None:
    case = next(case for case in golden.facts["greedy"] if case["name"] == name)
    ids = {prompt["text"]: prompt["ids"] for prompt in golden.facts["prompts"]}
    prompt = torch.tensor([ids[case["prompt"]] if isinstance(case["prompt"], str) else case["prompt"]])
    embedding = golden.visual[f"visual.{case['visual']}.embed"][:, 0]
    if case["model"]["knn"]:
        embedding = retrieve(golden, embedding, *case["options"].get("knn", (10, 20, 0.5)))
    total = min(case["options"].get("seq", 512), prompt.shape[1] + case["max_gen_len"])
    eos = case["options"].get("eos", 2)
    model = build("finetune" if case["model"]["finetune"] else "pretrain", case["model"]["query_layer"])
    length = total - prompt.shape[1]
    options = {"do_sample": False, "max_new_tokens": length, "eos_token_id": eos}
    generated = model.generate(prompt, embeddings=embedding, **options)
    answer = generated[0, prompt.shape[1] :].tolist()
    assert (answer[: answer.index(eos)] if eos in answer else answer) == case["ids"]


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("top_p", [0.0, 0.75, 0.95, 1.0])
def test_sampling_distribution(golden: Golden, temperature: float, top_p: float) -> None:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
    logits = golden.inference["finetune_full.logits_prefill"]
    probabilities = torch.softmax(warpers(None, logits), dim=-1)
    close(probabilities, golden.inference[f"topp.t{temperature}.p{top_p}"])


# --- training ---

TRAINABLE = {"finetune": ("norm.weight", "layernorm.weight", "bias", "lora_A.default.weight", "lora_B.default.weight")}
TRAINABLE["pretrain"] = ("bind_network.", "prefix_queries", "gates")


def train_step(golden: Golden, model: ImageBindLlmForConditionalGeneration, phase: str) -> Tensor:
    model.train()
    for name, parameter in model.named_parameters():
        if phase == "finetune":
            parameter.requires_grad_(name.startswith("language_model.") and name.endswith(TRAINABLE[phase]))
        else:
            parameter.requires_grad_(name.startswith(TRAINABLE[phase]))
    labels = golden.training["labels"].masked_fill(golden.training["labels"] == 0, -100)
    embeddings = mix_embeddings([model.imagebind.encode("image", golden.inputs["vision"])], [1.0])
    output = model(golden.training["tokens"], embeddings=embeddings, labels=labels, use_cache=False)
    output.loss.backward()
    return output.loss


@pytest.mark.parametrize(("phase", "layers"), [("finetune", 4), ("pretrain", 4), ("pretrain", 2)])
def test_loss_and_gradients(golden: Golden, build: Build, phase: str, layers: int) -> None:
    name = f"{phase}_{'full' if layers == 4 else 'part'}"
    facts = golden.facts["training"][name]
    model = build(phase, layers, keep_lora=phase == "finetune", fresh=True)
    loss = train_step(golden, model, phase)
    assert loss.item() == pytest.approx(facts["loss"], rel=1e-5)
    for key, expected in facts["grads"].items():
        assert official_part(model, key, gradient=True).norm().item() == pytest.approx(expected["l2"], rel=1e-4), key
    stored = {
        key.split(".grad.")[1]: value for key, value in golden.training.items() if key.startswith(f"{name}.grad.")
    }
    assert stored
    for key, expected in stored.items():
        close(official_part(model, key, gradient=True), expected, 1e-4 * expected.abs().max().item())


def test_loss_is_zero_when_every_label_is_ignored(golden: Golden, build: Build) -> None:
    tokens = golden.training["tokens"]
    model = build("pretrain", 4, fresh=True)
    embeddings = golden.visual["visual.batch2.embed"][:, 0]
    loss = model(tokens, embeddings=embeddings, labels=torch.full_like(tokens, -100)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert not model.bind_network.proj.weight.grad.any()

"""The injection on other families: grouped-query attention, batches, streaming, saving, LoRA, checkpointing."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, TextIteratorStreamer

from ibllm_tools.checkpoints.llama_tokenizer import load_llama_tokenizer
from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind_llm import (
    ImageBindLlmConfig,
    ImageBindLlmForConditionalGeneration,
    image_generation_embedding,
    mix_embeddings,
)

Tiny = Callable[..., ImageBindLlmForConditionalGeneration]
PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
PROMPT = torch.tensor([[1, 5, 9, 33, 60, 7]])


def embeddings(count: int = 1, seed: int = 1) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def logits(model: ImageBindLlmForConditionalGeneration, ids: Tensor = PROMPT, **options) -> Tensor:
    with torch.no_grad():
        return model(ids, **options).logits


def reference_logits(model: ImageBindLlmForConditionalGeneration, ids: Tensor, embedding: Tensor) -> Tensor:
    """The injection written out: gated values are added to the heads' outputs, before the output projection."""
    decoder, config = model.language_model.model, model.config.text_config
    heads, groups = config.num_attention_heads, config.num_attention_heads // config.num_key_value_heads
    bound = model.bind_network(embedding)
    handles = []
    for index in range(len(model.prefix_queries)):
        attention = decoder.layers[index - len(model.prefix_queries)].self_attn
        values = (bound + model.prefix_queries[index]) @ attention.v_proj.weight.T
        per_head = []
        for head in range(heads):
            start = head // groups * config.head_dim
            per_head.append(torch.tanh(model.gates[index, head]) * values[:, start : start + config.head_dim])
        gated = torch.cat(per_head, dim=-1)[:, None]

        def add(_module: torch.nn.Module, args: tuple[Tensor], gated: Tensor = gated) -> tuple[Tensor]:
            return (args[0] + gated,)

        handles.append(attention.o_proj.register_forward_pre_hook(add))
    with torch.no_grad():
        result = model.language_model(ids).logits
    for handle in handles:
        handle.remove()
    return result


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_zero_gates_leave_the_language_model_exactly_as_it_is(tiny_model: Tiny, family: str) -> None:
    model = tiny_model(family, gate=0)
    assert torch.equal(logits(model, embeddings=embeddings()), model.language_model(PROMPT).logits)


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_injection_equals_the_formula_written_out(tiny_model: Tiny, family: str) -> None:
    model = tiny_model(family)
    expected = reference_logits(model, PROMPT, embeddings())
    torch.testing.assert_close(logits(model, embeddings=embeddings()), expected, atol=1e-4, rtol=1e-5)
    assert (expected - logits(model)).abs().max() > 0.1


@pytest.mark.parametrize("family", ["gemma2", "granite"])
def test_other_families_take_the_injection(tiny_model: Tiny, family: str) -> None:
    model = tiny_model(family)
    assert not torch.equal(logits(model, embeddings=embeddings()), logits(model))


def test_a_decoder_that_drops_keyword_arguments_is_refused(tiny_model: Tiny) -> None:
    model = tiny_model("stablelm", text={"head_dim": 8})
    assert logits(model).isfinite().all()
    with pytest.raises(IncompatibleModelError, match=r"StableLmForCausalLM .* nothing can be injected"):
        model(PROMPT, embeddings=embeddings())
    with pytest.raises(IncompatibleModelError, match="StableLm"):
        model.generate(PROMPT, embeddings=embeddings(), max_new_tokens=2)


def test_biases_of_the_projections_count_once(tiny_model: Tiny) -> None:
    model = tiny_model("qwen3", text={"attention_bias": True})
    for layer in model.language_model.model.layers:
        layer.self_attn.v_proj.bias.data.zero_()  # the research code has none
    expected = reference_logits(model, PROMPT, embeddings())
    torch.testing.assert_close(logits(model, embeddings=embeddings()), expected, atol=1e-4, rtol=1e-5)


def test_batch_with_different_and_missing_attachments_equals_single_runs(tiny_model: Tiny) -> None:
    model = tiny_model()
    prompts = [PROMPT[0], PROMPT[0, 2:], PROMPT[0, 1:]]
    given, present = embeddings(3), torch.tensor([True, False, True])
    given[1] = float("nan")
    padded = torch.stack([torch.cat([torch.zeros(6 - len(prompt), dtype=torch.long), prompt]) for prompt in prompts])
    mask = torch.tensor([[0] * (6 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2, "min_new_tokens": 8}
    batch = model.generate(padded, attention_mask=mask, embeddings=given, embedding_mask=present, **options)
    for row, prompt in enumerate(prompts):
        own = {"embeddings": given[row : row + 1]} if present[row] else {}
        single = model.generate(prompt[None], **own, **options)
        assert batch[row, 6:].tolist() == single[0, len(prompt) :].tolist()


def test_items_without_an_attachment_get_exactly_nothing(tiny_model: Tiny) -> None:
    vectors = tiny_model().layer_vectors(embeddings(2), torch.tensor([True, False]))
    assert vectors.shape == (2, 2, 32)
    assert vectors[0].abs().min() > 0
    assert not vectors[1].any()


def test_absent_rows_send_no_nan_into_the_gradients(tiny_model: Tiny) -> None:
    model, given = tiny_model(), embeddings(2)
    given[1] = float("nan")
    model(
        PROMPT.repeat(2, 1),
        embeddings=given,
        embedding_mask=torch.tensor([True, False]),
        labels=PROMPT.repeat(2, 1),
    ).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.bind_network.parameters())


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 3, "do_sample": True, "num_beams": 1}])
def test_layer_vectors_are_computed_once_per_request(
    tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
) -> None:
    model, calls = tiny_model(), []
    compute = model.bind_network.forward
    monkeypatch.setattr(model.bind_network, "forward", lambda e: calls.append(len(e)) or compute(e))
    model.generate(PROMPT.repeat(2, 1), embeddings=embeddings(2), max_new_tokens=6, pad_token_id=0, **options)
    assert calls == [2]


def test_beam_search_follows_the_attachment(tiny_model: Tiny) -> None:
    model = tiny_model()
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    pair = model.generate(PROMPT.repeat(2, 1), embeddings=embeddings(2), **options)
    single = model.generate(PROMPT, embeddings=embeddings(2)[1:], **options)
    assert pair[1, : single.shape[1]].tolist() == single[0].tolist()


def test_streaming_yields_the_same_text(reference: Path, tiny_model: Tiny) -> None:
    tokenizer = load_llama_tokenizer(reference / "adapter" / "tokenizer.model")
    model = tiny_model(text={"vocab_size": 512})
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    whole = model.generate(PROMPT, embeddings=embeddings(), **options)[0, PROMPT.shape[1] :]
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    thread = threading.Thread(
        target=model.generate, args=(PROMPT,), kwargs={"embeddings": embeddings(), "streamer": streamer, **options}
    )
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(whole)


def test_threads_do_not_see_each_others_attachment(tiny_model: Tiny) -> None:
    model, results = tiny_model(), {}
    given = [embeddings(seed=seed) for seed in range(4)]
    expected = [logits(model, embeddings=one) for one in given]

    def ask(index: int) -> None:
        results[index] = [logits(model, embeddings=given[index]) for _ in range(10)]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(value, expected[index]) for index in range(4) for value in results[index])


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load_round_trip(tiny_model: Tiny, tmp_path: Path, tied: bool) -> None:
    model = tiny_model(text={"tie_word_embeddings": tied}, prefix_value_rank=3)
    torch.nn.init.normal_(model.prefix_value_up.data, std=0.3)
    torch.nn.init.normal_(model.prefix_value_down.data, std=0.3)
    expected = logits(model, embeddings=embeddings())
    model.save_pretrained(tmp_path)
    loaded, report = ImageBindLlmForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    # equal weights that lie elsewhere in memory are summed in another order on some processors
    torch.testing.assert_close(logits(loaded, embeddings=embeddings()), expected)
    assert isinstance(loaded.config, ImageBindLlmConfig)


def test_auto_classes_find_it(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, ImageBindLlmForConditionalGeneration)
    torch.testing.assert_close(logits(loaded, embeddings=embeddings()), logits(model, embeddings=embeddings()))


def test_a_tuple_where_one_is_asked_for(tiny_model: Tiny) -> None:
    loss, *_ = tiny_model()(PROMPT, embeddings=embeddings(), labels=PROMPT, return_dict=False)
    assert loss.isfinite()


@pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")  # single parameters are in it
def test_layers_may_lie_on_other_devices(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    expected = logits(model, embeddings=embeddings())
    places = dict.fromkeys(["imagebind", "bind_network", "prefix_queries", "gates", "language_model.lm_head"], "cpu")
    places |= {f"language_model.model.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb")}
    places |= {f"language_model.model.layers.{index}": "disk" if index == 1 else "cpu" for index in range(3)}
    dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)
    assert model.injected_attentions()[0].v_proj.weight.is_meta
    assert torch.equal(logits(model, embeddings=embeddings()), expected)


def test_half_precision_runs(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    half = ImageBindLlmForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.gates.dtype == torch.bfloat16
    assert logits(half, embeddings=embeddings()).isfinite().all()


def test_a_new_model_starts_as_the_plain_language_model() -> None:
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 97}
    config = ImageBindLlmConfig(imagebind_config=ImageBindConfig(projection_dim=16), text_config=text)
    model = ImageBindLlmForConditionalGeneration(config).eval()
    assert config.text_config.model_type == "llama"
    assert config.num_prefix_layers == 2
    assert not model.gates.any()
    assert 0.5 < model.prefix_queries.std() < 1.5
    assert torch.equal(logits(model, embeddings=embeddings()), logits(model))


def test_parts_are_bound_without_touching_their_weights(tiny_model: Tiny) -> None:
    source = tiny_model()
    language_model = AutoModelForCausalLM.from_config(source.config.text_config)
    language_model.load_state_dict(source.language_model.state_dict())
    imagebind = ImageBindModel(source.config.imagebind_config)
    model = ImageBindLlmForConditionalGeneration.from_parts(imagebind, language_model.eval(), num_prefix_layers=1)
    assert torch.equal(logits(model.eval(), embeddings=embeddings()), logits(source))
    with pytest.raises(IncompatibleModelError, match="already part"):
        ImageBindLlmForConditionalGeneration.from_parts(imagebind, language_model)


def test_a_copy_injects_once(tiny_model: Tiny) -> None:
    model = tiny_model()
    assert torch.equal(
        logits(copy.deepcopy(model), embeddings=embeddings()),
        logits(model, embeddings=embeddings()),
    )


@PEFT
def test_prefix_bypasses_the_lora_of_the_value_projection(tiny_model: Tiny) -> None:
    model = tiny_model()
    before = model.layer_vectors(embeddings())
    model.language_model = get_peft_model(
        model.language_model, LoraConfig(r=4, target_modules=["v_proj"], init_lora_weights=False)
    )
    plain = logits(model)
    torch.testing.assert_close(model.layer_vectors(embeddings()), before)
    model.language_model.merge_adapter()
    torch.testing.assert_close(model.layer_vectors(embeddings()), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(model), plain, atol=1e-3, rtol=1e-4)


@PEFT
def test_prefix_passes_through_the_lora_of_the_output_projection(tiny_model: Tiny) -> None:
    model = tiny_model()
    before = model.layer_vectors(embeddings())
    lora = LoraConfig(r=4, target_modules=["o_proj"], init_lora_weights=False)
    model.language_model = get_peft_model(model.language_model, lora)
    assert (model.layer_vectors(embeddings()) - before).abs().max() > 1e-3


def test_gradient_checkpointing_changes_nothing(tiny_model: Tiny) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        loss = model(PROMPT, embeddings=embeddings(), labels=PROMPT, use_cache=False).loss
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert "gates" in gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_a_decoder_is_checked_before_it_is_changed(tiny_model: Tiny) -> None:
    source = tiny_model()
    language_model = AutoModelForCausalLM.from_config(source.config.text_config)
    del language_model.model.layers[2].self_attn.v_proj
    with pytest.raises(IncompatibleModelError, match="has no v_proj"):
        ImageBindLlmForConditionalGeneration.from_parts(source.imagebind, language_model)
    assert not any(hasattr(layer.self_attn, "injected_layer") for layer in language_model.model.layers)


def test_a_decoder_of_another_build_is_refused(tiny_model: Tiny) -> None:
    text = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=97)
    with pytest.raises(IncompatibleModelError, match="GPT2"):
        ImageBindLlmForConditionalGeneration(
            ImageBindLlmConfig(imagebind_config=ImageBindConfig(projection_dim=16), text_config=text)
        )


@pytest.mark.parametrize("layers", [-1, 4])
def test_prefix_layers_must_fit(tiny_model: Tiny, layers: int) -> None:
    with pytest.raises(Exception, match="expected 1 to 3"):
        tiny_model(num_prefix_layers=layers)


def test_wrong_requests_say_what_was_expected(tiny_model: Tiny) -> None:
    model = tiny_model()
    with pytest.raises(InvalidRequestError, match=r"expected \(batch, 16\)"):
        model.layer_vectors(torch.zeros(1, 15))
    with pytest.raises(InvalidRequestError, match="one per embedding"):
        model.layer_vectors(embeddings(2), torch.tensor([True]))
    with pytest.raises(InvalidRequestError, match="2 embeddings for 1 prompts"):
        model.generate(PROMPT, embeddings=embeddings(2))
    with pytest.raises(InvalidRequestError, match="2 embeddings for 1 prompts"):
        model(PROMPT, embeddings=embeddings(2))


def test_mix_makes_unit_vectors_first_and_not_after() -> None:
    one, other = embeddings(seed=1), embeddings(seed=2)
    mixed = mix_embeddings([5 * one, other], [3, 1])
    torch.testing.assert_close(mixed, 0.75 * one + 0.25 * other, atol=1e-6, rtol=0)
    torch.testing.assert_close(mix_embeddings([one, other]), (one + other) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidRequestError, match="weights"):
        mix_embeddings([embeddings(), embeddings()], weights)
    with pytest.raises(InvalidRequestError, match="weights"):
        image_generation_embedding([("image", embeddings()), ("audio", embeddings())], weights)


def test_nothing_to_mix_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at least one"):
        mix_embeddings([])


def test_binding_a_language_model_keeps_its_attention() -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=20
    )
    language_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ImageBindLlmForConditionalGeneration.from_parts(ImageBindModel(ImageBindConfig(projection_dim=8)), language_model)
    assert language_model.config._attn_implementation == "eager"

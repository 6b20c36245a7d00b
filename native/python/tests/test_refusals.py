"""What dropping cannot do is named, with what to do, and the model stays what it was."""

import json
import sys
import types

import pytest
import torch
import transformers
import uniprefill
from small_models import small
from test_models import DTYPES, generate, padded, prompts, schedule
from transformers.cache_utils import DynamicCache, StaticCache
from uniprefill import LibraryError, ScheduleError, UnsupportedError, library


@pytest.fixture
def enabled(device):
    """An enabled model, checked afterwards to be as good as before."""
    model, drops = small("llama", DTYPES[device], device)
    inputs = padded(prompts((430, 350)), device)
    uniprefill.enable(model, schedule(drops))
    before = generate(model, inputs)
    yield model, inputs
    after = generate(model, inputs)
    assert torch.equal(before[0], after[0]) and before[2].kept_lengths == after[2].kept_lengths


@pytest.mark.parametrize(
    "asked, named",
    [
        (dict(num_beams=2), "beam search"),
        (dict(prompt_lookup_num_tokens=3), "assisted decoding"),
        (dict(assistant_model="itself"), "assisted decoding"),
        (dict(assistant_early_exit=2), "assisted decoding"),
        (dict(use_mtp=True), "assisted decoding"),
        (dict(penalty_alpha=0.6), "contrastive search"),
        (dict(dola_layers="high"), "DoLa decoding"),
        (dict(guidance_scale=1.5), "classifier-free guidance"),
        (dict(custom_generate="transformers-community/dola"), "custom_generate"),
        (dict(prefill_chunk_size=128), "prefill in chunks"),
        (dict(cache_implementation="static"), "cache_implementation='static'"),
        (dict(cache_implementation="offloaded"), "cache_implementation='offloaded'"),
        (dict(cache_implementation="quantized"), "cache_implementation='quantized'"),
        (dict(output_attentions=True), "output_attentions"),
        (dict(output_hidden_states=True), "output_hidden_states"),
        (dict(past_key_values="empty"), "past_key_values without content"),
        (dict(generation_config="beams"), "beam search"),
    ],
    ids=str,
)
def test_a_way_to_generate_is_refused_by_name(enabled, asked, named):
    model, inputs = enabled
    if asked.get("assistant_model") == "itself":
        asked = dict(assistant_model=model)
    if asked.get("past_key_values") == "empty":
        asked = dict(past_key_values=DynamicCache(config=model.config))
    if asked.get("generation_config") == "beams":
        asked = dict(generation_config=transformers.GenerationConfig(num_beams=3))
    with pytest.raises(UnsupportedError, match=named) as caught:
        model.generate(**inputs, max_new_tokens=2, **asked)
    assert "uniprefill.disable(model)" in str(caught.value) or "leave past_key_values out" in str(caught.value)


def test_caches_of_other_classes_are_refused_by_name(enabled):
    model, inputs = enabled
    for cache, name in (
        (StaticCache(config=model.config, max_cache_len=512), "StaticCache"),
        (DynamicCache(config=model.config, offloading=True), "DynamicCache with offloading"),
    ):
        with pytest.raises(UnsupportedError, match=f"cache of class {name}"), torch.no_grad():
            model(**inputs, past_key_values=cache, logits_to_keep=1)


def test_a_cache_goes_on_by_one_token_a_request(enabled):
    model, inputs = enabled
    with torch.no_grad():
        cache = model(**inputs, logits_to_keep=1).past_key_values
        with pytest.raises(UnsupportedError, match=r"input of shape \(2, 3\) on a KeptCache of 2 requests"):
            model(input_ids=inputs["input_ids"][:, :3], past_key_values=cache)
        with pytest.raises(UnsupportedError, match=r"shape \(1, 1\)"):
            model(input_ids=inputs["input_ids"][:1, :1], past_key_values=cache)
        model(input_ids=inputs["input_ids"][:, :1], past_key_values=cache)
    for name, arguments in (("reorder_cache", [None]), ("crop", [-1]), ("batch_select_indices", [None]), ("update", [None, None, 0])):
        with pytest.raises(UnsupportedError, match=f"KeptCache.{name}"):
            getattr(cache, name)(*arguments)


def test_masks_that_are_no_padding_are_refused(enabled):
    model, inputs = enabled
    call = lambda mask: model(input_ids=inputs["input_ids"], attention_mask=mask, logits_to_keep=1)
    holes = inputs["attention_mask"].clone()
    holes[1, 200] = 0
    with torch.no_grad():
        with pytest.raises(UnsupportedError, match="has holes in prompt 1"):
            call(holes)
        with pytest.raises(UnsupportedError, match="masks out all of prompt 0"):
            call(inputs["attention_mask"] * torch.tensor([[0], [1]], device=holes.device))
        with pytest.raises(UnsupportedError, match=r"not \[batch, rows\]"):
            call(torch.ones(2, 1, 430, 430, device=holes.device))
        for name in ("output_attentions", "output_hidden_states"):
            with pytest.raises(UnsupportedError, match=name):
                model(**inputs, logits_to_keep=1, **{name: True})


def refused(model, error, match, *arguments, **more):
    """enable refuses, and nothing of the model has changed."""
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    with pytest.raises(error, match=match):
        uniprefill.enable(model, *arguments, **more)
    assert all(module.__dict__.keys() == was.keys() for module, was in attributes.items())
    assert not uniprefill.is_enabled(model)


def test_families_placements_and_attention_are_refused_by_name(device):
    shape = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    mistral = transformers.MistralForCausalLM(transformers.MistralConfig(**shape))
    refused(mistral, UnsupportedError, "MistralForCausalLM is not supported: LlamaForCausalLM, Qwen3ForCausalLM, Gemma3ForCausalLM")
    model, drops = small("llama", DTYPES[device], device)
    plan = schedule(drops)

    class LlamaForCausalLM(transformers.LlamaForCausalLM):
        """Somebody's own, which may compute anything."""

    derived = LlamaForCausalLM(transformers.LlamaConfig(**shape)).to(device, DTYPES[device])
    refused(derived, UnsupportedError, "test_refusals.LlamaForCausalLM is not supported: .* merge and unload an adapter", plan)
    model.config.use_bidirectional_attention = True
    refused(model, UnsupportedError, "use_bidirectional_attention", plan)
    model.config.use_bidirectional_attention = False
    if device == "cuda":
        odd = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, head_dim=96)).to(device, DTYPES[device])
        refused(odd, UnsupportedError, "head_dim 96 in layer 0 is not supported: 64, 128, 256", schedule((0,)))
    model.config._attn_implementation = "flex_attention"
    refused(model, UnsupportedError, "attention implementation 'flex_attention'.*attn_implementation='sdpa'", plan)
    model.config._attn_implementation = "eager"
    model.config.rope_parameters["rope_type"] = "dynamic"
    refused(model, UnsupportedError, "rope_type 'dynamic'", plan)
    model.config.rope_parameters["rope_type"] = "llama3"
    model.config.hidden_act = "relu"
    refused(model, UnsupportedError, "activation 'relu'", plan)
    model.config.hidden_act = "silu"
    refused(model.double(), UnsupportedError, "torch.float64", plan)
    small_model, drops = small("llama", DTYPES[device], device)
    small_model.lm_head.to("meta")
    refused(small_model, UnsupportedError, "several devices .*meta", plan)


def test_a_schedule_for_another_model_is_refused_by_its_fingerprint(device, tmp_path):
    model, drops = small("llama", DTYPES[device], device)
    model.save_pretrained(tmp_path)
    own = uniprefill.fingerprint(tmp_path)
    value = dict(format="uniprefill-schedule", version=1, dropLayers=[dict(layer=drops[0], p=0.5)], model="0123456789abcdef")
    refused(model, ScheduleError, "0123456789abcdef.*pass directory=", value)
    refused(model, ScheduleError, f"made for the model 0123456789abcdef, this one .* is {own}", value, directory=tmp_path)
    uniprefill.enable(model, {**value, "model": own}, directory=tmp_path)
    (tmp_path / "uniprefill.json").write_text(json.dumps({**value, "model": own}))
    again = type(model).from_pretrained(tmp_path, dtype=DTYPES[device]).to(device)
    uniprefill.enable(again)
    assert uniprefill.is_enabled(again)


def test_schedules_that_do_not_fit_are_refused(device):
    model, drops = small("qwen3_5", DTYPES[device], device)
    refused(model, ScheduleError, "layer 2 is of kind delta", schedule((2,)))
    refused(model, ScheduleError, "7 is the last layer", schedule((7,)))
    refused(model, ScheduleError, "preset unknown does not exist; there are gemma-3-12b, llama-3.1-8b", "preset:unknown")
    refused(model, ScheduleError, "no schedule was given")
    refused(model, ScheduleError, "keep: .*share", schedule(drops), keep=(0.5, 0.6))
    refused(model, ScheduleError, "keep: .*share", schedule(drops), keep=(1.5,))
    model, drops = small("llama", DTYPES[device], device)
    refused(model, ScheduleError, "the model has layers 0 to 5: the schedule is for another model", "preset:llama-3.1-8b")
    refused(model, ScheduleError, "keep: .*rises", schedule(drops), keep=(0.5, 0.6))


def test_a_missing_library_is_refused_and_the_model_generates_on(device, monkeypatch):
    model, drops = small("llama", DTYPES[device], device)
    inputs = padded(prompts((430,)), device)
    before = generate(model, inputs)
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setenv("UNIPREFILL_LIBRARY", "/nowhere/libuniprefill.so")
    refused(model, LibraryError, "/nowhere/libuniprefill.so", schedule(drops))
    assert torch.equal(generate(model, inputs)[0], before[0])


def test_another_transformers_is_refused_by_its_version(device, monkeypatch):
    model, drops = small("llama", DTYPES[device], device)
    for version in ("6.0.0", "5.9.1", "4.57.0"):
        monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
        refused(model, UnsupportedError, f"transformers {version}.*install transformers 5.17", schedule(drops))


def test_a_model_that_was_moved_is_told_to_be_enabled_again(device):
    model, drops = small("llama", DTYPES[device], device)
    uniprefill.enable(model, schedule(drops))
    model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.detach().clone())
    with pytest.raises(UnsupportedError, match="enable again"), torch.no_grad():
        model(**padded(prompts((430,)), device), logits_to_keep=1)


def test_a_method_that_was_wrapped_again_is_not_torn_off(device):
    model, drops = small("llama", DTYPES[device], device)
    uniprefill.enable(model, schedule(drops))
    own = model.forward
    model.forward = types.MethodType(lambda self, *a, **k: own(*a, **k), model)
    with pytest.raises(uniprefill.UniPrefillError, match="wrapped again"):
        uniprefill.disable(model)
    model.forward = own
    uniprefill.disable(model)

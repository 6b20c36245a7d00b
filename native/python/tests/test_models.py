"""Models of every family, enabled: against an oracle on transformers' own layers, against themselves dense, and switched off again."""

import pytest
import torch
import uniprefill
from oracle import prompt_and_output
from small_models import FAMILIES, small
from uniprefill import store

LENGTHS, SHORTEST, OUTPUT = (430, 390, 561), 400, 4
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
# Of a norm of logits: two orders of computing them, in f32 and in bf16 over up to 8 layers.
LIMIT = {"cpu": 1e-4, "cuda": 8e-2}


def schedule(drops, p=0.6, **more):
    return uniprefill.Schedule(tuple((layer, p) for layer in drops), min_prompt_tokens=SHORTEST, **more)


def prompts(lengths, vocabulary=256):
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def padded(of, device, side="left"):
    width = max(map(len, of))
    ids, mask = torch.zeros(len(of), width, dtype=torch.long), torch.zeros(len(of), width, dtype=torch.long)
    for i, prompt in enumerate(of):
        place = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        ids[i, place], mask[i, place] = torch.tensor(prompt), 1
    return dict(input_ids=ids.to(device), attention_mask=mask.to(device))


def generate(model, inputs, tokens=OUTPUT, **more):
    """Greedy output ids [batch, tokens], their logits [batch, tokens, vocabulary], and the cache."""
    out = model.generate(
        **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, return_dict_in_generate=True, output_logits=True, **more
    )
    return out.sequences[:, -tokens:], torch.stack(out.logits, 1).double(), out.past_key_values


def gap(got, expected):
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window_by", ["kept", "original"])
def test_a_ragged_batch_answers_as_the_oracle(family, window_by, device):
    if window_by == "original" and family != "gemma3":
        pytest.skip("no sliding windows: the same")
    model, drops = small(family, DTYPES[device], device)
    of = prompts(LENGTHS)
    uniprefill.enable(model, schedule(drops, window_by=window_by))
    ids, logits, cache = generate(model, padded(of, device))
    uniprefill.disable(model)
    # In bf16 a block at the cut may fall to either side: there the rows are checked apart, and the answer given the same rows.
    for b, prompt in enumerate(of):
        shares = {layer: 0.6 for layer in drops} if len(prompt) >= SHORTEST else {}
        kept = [positions[b].tolist() for positions in cache.kept_positions]
        given = kept if shares else []
        with torch.no_grad():
            expected, _ = prompt_and_output(model, prompt, ids[b, :-1].tolist(), shares, window_by, kept=given)
            _, sets = prompt_and_output(model, prompt, [], shares, window_by)
        assert gap(logits[b], expected) < LIMIT[device], f"prompt {b}"
        if not shares:
            assert all(len(rows) == len(prompt) for rows in kept)
        for rows, wanted in zip(kept, sets):
            assert set(range(128)) <= set(rows) and set(range(len(prompt) - 128, len(prompt))) <= set(rows)
            assert len(rows) < len(prompt)
            if device == "cpu":
                assert rows == wanted
            else:
                assert len(set(rows) ^ set(wanted)) <= 128
    # Every layer holds the rows of its segment, and those decoded.
    before = [list(LENGTHS), *cache.kept_lengths]
    for layer in range(model.config.num_hidden_layers):
        held = cache.layer_lengths(layer)
        if held is None or getattr(model.config, "layer_types", None) and model.config.layer_types[layer] == "sliding_attention":
            continue
        assert held == [n + OUTPUT - 1 for n in before[sum(drop < layer for drop in drops)]]


@pytest.mark.parametrize("family", FAMILIES)
def test_at_p_1_the_answer_is_the_dense_one(family, device):
    model, drops = small(family, DTYPES[device], device)
    inputs = padded(prompts(LENGTHS), device)
    dense_ids, dense, _ = generate(model, inputs)
    uniprefill.enable(model, schedule(drops, p=1))
    ids, logits, cache = generate(model, inputs)
    assert cache.kept_lengths == [list(LENGTHS)] * len(drops)
    # The first token's: afterwards the two may have gone apart.
    assert gap(logits[:, 0], dense[:, 0]) < LIMIT[device]
    if device == "cpu":
        assert torch.equal(ids, dense_ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_request_does_not_depend_on_its_batch(family, device):
    model, drops = small(family, DTYPES[device], device)
    of = prompts(LENGTHS)
    uniprefill.enable(model, schedule(drops))
    _, together, cache = generate(model, padded(of, device), tokens=2)
    for b, prompt in enumerate(of):
        if len(prompt) < SHORTEST:
            continue
        _, alone, own = generate(model, dict(input_ids=torch.tensor([prompt], device=device)), tokens=2)
        same = [positions[b].tolist() == mine[0].tolist() for positions, mine in zip(cache.kept_positions, own.kept_positions)]
        assert all(same) or device == "cuda"
        if all(same):
            assert gap(together[b, 0], alone[0, 0]) < LIMIT[device]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_long_answer_outgrows_the_room_made_for_it(family, device, monkeypatch):
    monkeypatch.setattr(store, "RESERVE", 8)
    model, drops = small(family, DTYPES[device], device)
    of = prompts((430, 60))
    for window_by in ("kept", "original"):
        uniprefill.enable(model, schedule(drops, window_by=window_by))
        ids, logits, cache = generate(model, padded(of, device), tokens=30)
        for b, prompt in enumerate(of):
            shares = {layer: 0.6 for layer in drops} if len(prompt) >= SHORTEST else {}
            kept = [positions[b].tolist() for positions in cache.kept_positions] if shares else []
            uniprefill.disable(model)
            with torch.no_grad():
                expected, _ = prompt_and_output(model, prompt, ids[b, :-1].tolist(), shares, window_by, kept=kept)
            assert gap(logits[b], expected) < LIMIT[device]


def test_padding_on_the_right_and_embeddings_and_positions_give_the_same(device):
    model, drops = small("llama", DTYPES[device], device)
    of = prompts((430, 400))
    uniprefill.enable(model, schedule(drops))
    left = padded(of, device)
    call = lambda **inputs: model(**inputs, use_cache=True, logits_to_keep=1)
    with torch.no_grad():
        expected = call(**left).logits
        assert expected.shape == (2, 1, 256)
        right = padded(of, device, "right")
        embeds = dict(inputs_embeds=model.model.embed_tokens(left["input_ids"]), attention_mask=left["attention_mask"])
        positions = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
        for inputs in (right, embeds, dict(**left, position_ids=positions)):
            assert gap(call(**inputs).logits, expected) < 1e-6


def test_short_prompts_and_asked_logits_run_as_before(device):
    model, drops = small("llama", DTYPES[device], device)
    short, long = padded(prompts((120, 90)), device), padded(prompts((430, 90)), device)
    with torch.no_grad():
        before = [model(**short, logits_to_keep=1).logits, model(**long).logits, model(**long, use_cache=False, logits_to_keep=1).logits]
    uniprefill.enable(model, schedule(drops))
    with torch.no_grad():
        out = model(**short, logits_to_keep=1)
        after = [out.logits, model(**long).logits, model(**long, use_cache=False, logits_to_keep=1).logits]
    assert type(out.past_key_values).__name__ == "DynamicCache"
    assert after[1].shape == (2, 430, 256)
    for one, other in zip(before, after):
        assert torch.equal(one, other)
    # With gradients it is the model's own code that runs.
    loss = model(**long, labels=long["input_ids"]).loss
    loss.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


def test_disable_leaves_the_model_as_it_was(device):
    model, drops = small("llama", DTYPES[device], device)
    inputs = padded(prompts((430, 200)), device)
    attributes = {module: set(module.__dict__) for module in (model, model.model)}
    forward, before = model.forward, generate(model, inputs)
    for _ in range(2):
        uniprefill.enable(model, schedule(drops))
        uniprefill.enable(model, schedule(drops[:1]))
        _, _, cache = generate(model, inputs)
        assert len(cache.kept_lengths) == 1
        assert uniprefill.disable(model) is model
    assert uniprefill.disable(model) is model
    assert {module: set(module.__dict__) for module in attributes} == attributes and model.forward == forward
    after = generate(model, inputs)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert type(after[2]).__name__ == "DynamicCache"


def test_sampling_and_several_sequences_go_on_from_what_is_kept(device):
    model, drops = small("qwen3", DTYPES[device], device)
    uniprefill.enable(model, schedule(drops))
    out = model.generate(**padded(prompts((430, 350)), device), max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert out.shape == (4, 433)


def test_a_synthetic_keep_keeps_its_share_and_warns(device):
    model, drops = small("llama", DTYPES[device], device)
    with pytest.warns(uniprefill.SyntheticKeepWarning, match="synthetic"):
        uniprefill.enable(model, schedule(drops), keep=(0.8, 0.6))
    _, _, cache = generate(model, padded(prompts((2000, 1500)), device), tokens=2)
    for lengths, share in zip(cache.kept_lengths, (0.8, 0.6)):
        assert all(abs(kept - share * prompt) <= 128 for kept, prompt in zip(lengths, (2000, 1500)))


def test_scores_that_are_not_finite_keep_everything(device):
    model, drops = small("llama", DTYPES[device], device)
    with torch.no_grad():
        model.model.layers[drops[0]].self_attn.q_proj.weight[5, 5] = float("nan")
    uniprefill.enable(model, schedule(drops[:1]))
    with torch.no_grad():
        out = model(**padded(prompts((430,)), device), logits_to_keep=1)
    assert out.past_key_values.kept_lengths == [[430]] and out.past_key_values.fallbacks == 1

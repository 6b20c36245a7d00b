"""What public libraries need for the prefill of a Llama-3.1-8B-shaped model on this machine, to be set beside steps_bench.

usage: peers.py [--transformers] [--json FILE] [LENGTH ...]

For every length: one layer as the sum of its library calls (cuBLAS matrix products, cuDNN causal attention, a fused SiLU·mul),
each the median of device events by itself, times 32; and the calls of 32 layers in a row, as a prompt makes them: under load a card
lowers its clocks, which calls that are timed one by one do not show. With --transformers also the time to the first token of Hugging Face transformers:
SDPA pinned to cuDNN, random weights of the same shape, the logits of the last row alone. Random data, bf16, batch 1.
"""

import argparse
import json
import statistics
import subprocess

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch.nn.attention import SDPBackend, sdpa_kernel

LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, INNER, VOCABULARY = 32, 4096, 32, 8, 128, 14336, 128256


def device_ms(function, repeats, warmups=2):
    for _ in range(warmups):
        function()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


@triton.jit
def silu_mul(both, out, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(both + row * 2 * inner + at, at < inner).to(tl.float32)
    up = tl.load(both + row * 2 * inner + inner + at, at < inner).to(tl.float32)
    tl.store(out + row * inner + at, (gate * tl.sigmoid(gate) * up).to(tl.bfloat16), at < inner)


def layer_calls(length):
    """The library calls of a layer by name. Long prompts are multiplied in pieces of 16,384 rows, as an engine would."""
    normal = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
    rows = min(length, 16384)

    def product(outputs, inputs):
        x, w = normal(rows, inputs), normal(outputs, inputs) / inputs**0.5
        out = torch.empty(rows, outputs, device="cuda", dtype=torch.bfloat16)

        def call():
            for _ in range(length // rows):
                torch.mm(x, w.t(), out=out)

        return call

    def activation():
        both, activated = normal(rows, 2 * INNER), torch.empty(rows, INNER, device="cuda", dtype=torch.bfloat16)

        def call():
            for _ in range(length // rows):
                silu_mul[(rows, triton.cdiv(INNER, 2048))](both, activated, INNER, BLOCK=2048)

        return call

    def attention():
        q, k, v = normal(1, HEADS, length, DIM), normal(1, KV_HEADS, length, DIM), normal(1, KV_HEADS, length, DIM)

        def call():
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        return call

    return {
        "qkv": product((HEADS + 2 * KV_HEADS) * DIM, HIDDEN),
        "attention": attention(),
        "o": product(HIDDEN, HEADS * DIM),
        "gate+up": product(2 * INNER, HIDDEN),
        "silu·mul": activation(),
        "down": product(HIDDEN, INNER),
    }


def library_ms(length):
    """Milliseconds of each call of a layer by itself, and of the calls of all layers in a row."""
    calls = layer_calls(length)
    repeats = 20 if length <= 16384 else 6
    parts = {name: device_ms(call, repeats) for name, call in calls.items()}

    def in_a_row():
        for _ in range(LAYERS):
            for call in calls.values():
                call()

    return parts, device_ms(in_a_row, 5 if length < 100000 else 2, 1)


def transformers_model():
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=131072, rope_theta=500000.0, attn_implementation="sdpa",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def transformers_ms(model, length):
    ids = torch.randint(0, VOCABULARY, (1, length), device="cuda")
    with torch.no_grad(), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return device_ms(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1), 3 if length < 100000 else 2, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("lengths", nargs="*", type=int)
    options = parser.parse_args()
    lengths = options.lengths or [8192, 32768, 131072]
    out = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "lengths": {}}
    a, b = (torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_() for _ in range(2))
    out["copyTbs"] = round(2 * a.numel() / device_ms(lambda: a.copy_(b), 10) / 1e9, 2)
    del a, b
    print(f"{out['device']}: copy {out['copyTbs']} TB/s, torch {out['torch']}, cuDNN {out['cudnn']}", flush=True)
    for length in lengths:
        parts, in_a_row = library_ms(length)
        total = LAYERS * sum(parts.values())
        clock, power = subprocess.run(
            ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader"], capture_output=True, text=True
        ).stdout.strip().split(", ")
        out["lengths"][length] = {"layer": {name: round(ms, 3) for name, ms in parts.items()}, "librarySumMs": round(total, 1), "libraryInARowMs": round(in_a_row, 1)}
        print(f"{length:7} tokens: library sum {total:9.1f} ms, in a row {in_a_row:9.1f} ms; " + ", ".join(f"{n} {ms:.3f}" for n, ms in parts.items()), clock, power, flush=True)
    if options.transformers:
        torch.cuda.empty_cache()
        model = transformers_model()
        for length in lengths:
            ms = transformers_ms(model, length)
            out["lengths"][length]["transformersMs"] = round(ms, 1)
            print(f"{length:7} tokens: transformers {ms:9.1f} ms", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(out, file, indent=1)
            file.write("\n")


main()

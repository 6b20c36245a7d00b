"""Time to the first token of a Llama-3.1-8B-shaped model in transformers: dense, and with token dropping enabled.

usage: time_to_first_token.py [--json FILE] [--repeats N] [LENGTH ...]

Random weights, so rows are kept at random, to the shares that the paper's schedule keeps at these lengths (synthetic); the selection
operator runs all the same. Dense is transformers at its best here: of torch's own choice of attention and cuDNN's, the faster at the
first length. Dense and enabled alternate; medians of host time, the device waited for, behind one run of each that warms up; logits of
the last row alone; batch 1, bf16. Also peak memory, what the caches hold, and the time of a token behind the first.
"""

import argparse
import contextlib
import json
import statistics
import time
import warnings

import torch
import transformers
import uniprefill
from torch.nn.attention import SDPBackend, sdpa_kernel

VOCABULARY = 128256
LAYERS = (7, 11, 15, 19, 23, 27)
KEEPS = {
    32768: (0.86, 0.80, 0.75, 0.69, 0.64, 0.58),
    65536: (0.82, 0.74, 0.67, 0.59, 0.52, 0.45),
    131072: (0.74, 0.64, 0.54, 0.44, 0.34, 0.24),
}


def make_model():
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, rope_theta=500000.0, attn_implementation="sdpa",
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def first_token(model, ids, attention):
    """Milliseconds, peak bytes allocated, and bytes that the cache holds afterwards."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    with torch.no_grad(), attention():
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    token = int(out.logits[0, -1].argmax())
    elapsed = (time.perf_counter() - begin) * 1e3
    assert 0 <= token < VOCABULARY and bool(torch.isfinite(out.logits).all())
    cache = out.past_key_values
    held = cache.nbytes() if hasattr(cache, "nbytes") else sum(2 * each.keys.numel() * each.keys.element_size() for each in cache.layers)
    return elapsed, torch.cuda.max_memory_allocated(), held


def next_tokens(model, ids, attention, count=16):
    """Milliseconds of a token behind the first, one request."""
    with torch.no_grad(), attention():
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for step in range(count + 2):
            if step == 2:
                torch.cuda.synchronize()
                begin = time.perf_counter()
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) * 1e3 / count


def enable(model, length):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", uniprefill.SyntheticKeepWarning)
        uniprefill.enable(model, uniprefill.Schedule(tuple((layer, 0.99) for layer in LAYERS)), keep=KEEPS[length])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("lengths", nargs="*", type=int)
    options = parser.parse_args()
    lengths = options.lengths or list(KEEPS)
    if not set(lengths) <= set(KEEPS):
        parser.error(f"lengths are among {', '.join(map(str, KEEPS))}")
    model = make_model()
    choices = {"torch's choice": contextlib.nullcontext, "cuDNN": lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION)}
    ids = torch.randint(0, VOCABULARY, (1, lengths[0]), device="cuda")
    tried = {name: min(first_token(model, ids, attention)[0] for _ in range(2)) for name, attention in choices.items()}
    best = min(tried, key=tried.get)
    out = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "denseAttention": best,
        "denseTriedMs": {name: round(ms, 1) for name, ms in tried.items()},
        "lengths": {},
    }
    print(f"{out['device']}, torch {out['torch']}, transformers {out['transformers']}, dense attention: {best} of {out['denseTriedMs']}", flush=True)
    for length in lengths:
        ids = torch.randint(0, VOCABULARY, (1, length), device="cuda")
        dense, dropped = [], []
        for repeat in range((options.repeats if length < 100000 else max(1, options.repeats - 1)) + 1):
            one = first_token(model, ids, choices[best])
            enable(model, length)
            other = first_token(model, ids, contextlib.nullcontext)
            uniprefill.disable(model)
            # The first of each warms up.
            if repeat > 0:
                dense.append(one)
                dropped.append(other)
        row = {}
        for name, runs in (("dense", dense), ("dropped", dropped)):
            row[f"{name}Ms"] = round(statistics.median(run[0] for run in runs), 1)
            row[f"{name}PeakGiB"] = round(max(run[1] for run in runs) / 2**30, 2)
            row[f"{name}CacheGiB"] = round(runs[0][2] / 2**30, 2)
        row["denseTokenMs"] = round(next_tokens(model, ids, choices[best]), 1)
        enable(model, length)
        row["droppedTokenMs"] = round(next_tokens(model, ids, contextlib.nullcontext), 1)
        uniprefill.disable(model)
        row["ratio"] = round(row["denseMs"] / row["droppedMs"], 3)
        out["lengths"][length] = row
        print(
            f"{length:7} tokens: dense {row['denseMs']:9.1f} ms, dropped {row['droppedMs']:9.1f} ms, {row['ratio']:.3f} x; peak "
            f"{row['densePeakGiB']:.1f} -> {row['droppedPeakGiB']:.1f} GiB, cache {row['denseCacheGiB']:.1f} -> {row['droppedCacheGiB']:.1f} GiB; "
            f"a token {row['denseTokenMs']:.1f} -> {row['droppedTokenMs']:.1f} ms",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(out, file, indent=1)
            file.write("\n")


main()

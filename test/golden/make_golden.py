"""Logits of needle-10m-deep in double precision with numpy, dense and with dropping: what golden.json holds.

    python3 test/golden/make_golden.py

Written from the equations and the Hugging Face names alone, so that it shares nothing with the code it checks. A drop
layer is computed for all rows and rows are dropped after it, the order of arXiv 2605.06221.
"""

import json
import math
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "../../packages/needle-10m-deep")
TOP = 8


def read_json(*path):
    with open(os.path.join(*path)) as file:
        return json.load(file)


def read_weights():
    weights = {}
    for name in sorted(set(read_json(MODEL, "model.safetensors.index.json")["weight_map"].values())):
        with open(os.path.join(MODEL, name), "rb") as file:
            data = file.read()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        for tensor, entry in header.items():
            assert entry["dtype"] == "BF16", (tensor, entry["dtype"])
            first, end = entry["data_offsets"]
            halves = np.frombuffer(data[8 + size + first : 8 + size + end], "<u2").astype(np.uint32)
            weights[tensor] = (halves << 16).view(np.float32).astype(np.float64).reshape(entry["shape"])
    return weights


CONFIG = read_json(MODEL, "config.json")
SCHEDULE = read_json(MODEL, "uniprefill.json")
WEIGHTS = read_weights()
HEADS, KV_HEADS, HEAD_DIM = (CONFIG[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + CONFIG["rms_norm_eps"]) * WEIGHTS[weight]


def rotate(x, positions):
    """[rows × heads × head_dim], by original position."""
    frequencies = CONFIG["rope_theta"] ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = np.outer(positions, frequencies)[:, None, :]
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)


def select(shares, p):
    """Rows that stay. `shares`: attention of the last queries, [heads × queries × rows]."""
    rows, block = shares.shape[2], SCHEDULE["block"]
    first_tail = rows - SCHEDULE["lastQ"]
    starts = np.arange(0, rows, block)
    ends = np.minimum(starts + block, rows)
    mass = np.add.reduceat(shares.sum((0, 1)), starts)
    forced = (ends <= SCHEDULE["sink"]) | (starts >= first_tail)
    order = [b for b in np.lexsort((-np.arange(len(mass)), -mass)) if not forced[b]]
    budget = p * mass[~forced].sum()
    kept, before = set(np.flatnonzero(forced)), 0.0
    for b in order:
        if before > budget:
            break
        kept.add(b)
        before += mass[b]
    blocks = sorted(int(b) for b in kept)
    stay = [r for r in range(rows) if r < SCHEDULE["sink"] or r >= first_tail or r // block in kept]
    return blocks, np.array(stay)


def forward(tokens, drop_layers):
    """Logits of the last row, and the blocks that each drop layer keeps."""
    positions = np.arange(len(tokens))
    x = WEIGHTS["model.embed_tokens.weight"][tokens]
    selections = []
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        normed = norm(x, prefix + "input_layernorm.weight")

        def heads(name, count):
            return (normed @ WEIGHTS[f"{prefix}self_attn.{name}_proj.weight"].T).reshape(len(x), count, HEAD_DIM)

        q = rotate(heads("q", HEADS), positions)
        k = rotate(heads("k", KV_HEADS), positions).repeat(HEADS // KV_HEADS, 1)
        v = heads("v", KV_HEADS).repeat(HEADS // KV_HEADS, 1)
        scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / math.sqrt(HEAD_DIM)
        scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = (shares @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(len(x), -1)
        x = x + mixed @ WEIGHTS[prefix + "self_attn.o_proj.weight"].T
        normed = norm(x, prefix + "post_attention_layernorm.weight")
        gate = normed @ WEIGHTS[prefix + "mlp.gate_proj.weight"].T
        up = normed @ WEIGHTS[prefix + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ WEIGHTS[prefix + "mlp.down_proj.weight"].T
        for drop in drop_layers:
            if drop["layer"] == layer:
                blocks, stay = select(shares[:, -SCHEDULE["lastQ"] :], drop["p"])
                selections.append({"layer": layer, "rows": len(x), "blocks": blocks})
                x, positions = x[stay], positions[stay]
    return norm(x[-1:], "model.norm.weight")[0] @ WEIGHTS["model.embed_tokens.weight"].T, selections


def describe(logits):
    top = np.argsort(-logits)[:TOP]
    return {
        "top": [[int(token), round(float(logits[token]), 5)] for token in top],
        "mean": round(float(logits.mean()), 5),
        "deviation": round(float(logits.std()), 5),
    }


def main():
    results = []
    for prompt in read_json(HERE, "prompts.json"):
        dense, _ = forward(np.array(prompt["tokens"]), [])
        result = {"name": prompt["name"], "dense": describe(dense)}
        if len(prompt["tokens"]) >= SCHEDULE["minPromptTokens"]:
            dropped, selections = forward(np.array(prompt["tokens"]), SCHEDULE["dropLayers"])
            result |= {"dropped": describe(dropped), "selections": selections}
        results.append(result)
    with open(os.path.join(HERE, "golden.json"), "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n")


if __name__ == "__main__":
    main()

"""Logits of the tiny models from transformers: what tiny_logits.json holds.

    node --conditions=source test/golden/tinyModels.ts DIRECTORY
    python3 test/golden/transformers_logits.py DIRECTORY [tiny_logits.json]

Needs torch and transformers 5.17; runs where they are installed, on a CPU or a GPU. Every model answers one fixed text,
longer than the windows and than a chunk of the recurrence, in float32 and in bf16, all positions. A tensor that
transformers does not find, or does not know, ends the script: then our names are wrong.

Logits are base64 of little-endian float32 and, of the bf16 run, of bfloat16 words, [positions × vocabulary].
"""

import base64
import json
import os
import sys

import numpy as np
import torch
import transformers

TOKENS = 80
# What a multimodal architecture has besides its language model; the tiny directories leave it out.
EYES = ("vision", "visual", "multi_modal_projector")


def text(vocabulary):
    """The same tokens for every model: a 32-bit congruential sequence."""
    state, tokens = 12345, []
    for _ in range(TOKENS):
        state = (state * 1664525 + 1013904223) % 2**32
        tokens.append((state >> 16) % vocabulary)
    return tokens


def load(directory, dtype):
    with open(os.path.join(directory, "config.json")) as file:
        architecture = json.load(file)["architectures"][0]
    model, info = getattr(transformers, architecture).from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        wrong = [name for name in info.get(kind) or [] if not any(eye in str(name) for eye in EYES)]
        # A tied output projection has no tensor of its own.
        wrong = [name for name in wrong if not str(name).endswith("lm_head.weight")]
        if wrong:
            sys.exit(f"{directory}: {kind}: {wrong}")
    if dtype == torch.float32:
        # The weights are bf16, and so is what a Gemma scales its embedding by.
        for module in model.modules():
            if hasattr(module, "embed_scale"):
                module.embed_scale = module.embed_scale.to(torch.bfloat16).to(torch.float32)
    return model.eval()


def logits(directory, dtype, device):
    model = load(directory, dtype).to(device)
    config = model.config.get_text_config()
    tokens = text(config.vocab_size)
    with torch.no_grad():
        ids = torch.tensor([tokens], device=device)
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    return tokens, out.float().cpu().numpy()


def encode(array):
    return base64.b64encode(array.tobytes()).decode()


def bf16_words(array):
    """Exact: the bf16 model's logits are bf16, but for a soft cap computed in float32, which is rounded here."""
    bits = array.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def main():
    directory = sys.argv[1]
    target = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny_logits.json")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Products in full float32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    models = {}
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if not os.path.exists(os.path.join(path, "config.json")):
            continue
        tokens, exact = logits(path, torch.float32, device)
        _, rounded = logits(path, torch.bfloat16, device)
        assert exact.shape == rounded.shape and np.isfinite(exact).all() and np.isfinite(rounded).all(), name
        error = np.abs(exact - rounded).max() / np.abs(exact).max()
        print(f"{name}: {exact.shape[0]} positions × {exact.shape[1]}, bf16 differs by up to {error:.2%}")
        models[name] = {
            "tokens": tokens,
            "vocabulary": exact.shape[1],
            "float32": encode(exact.astype("<f4")),
            "bf16": encode(bf16_words(rounded)),
        }
    made = {"transformers": transformers.__version__, "torch": torch.__version__, "device": device}
    with open(target, "w") as file:
        json.dump({"made": made, "models": models}, file, separators=(",", ":"))
        file.write("\n")
    print(f"{target}: {os.path.getsize(target)} bytes")


main()

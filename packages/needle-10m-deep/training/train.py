"""Trains needle-10m-deep from corpus.txt in about six minutes on one H200. Needs torch, numpy, tokenizers, safetensors.

    python train.py corpus.txt OUTPUT_FOLDER

Writes tokenizer.json, config.json and four safetensors shards in the Hugging Face Llama layout.
"""

import json
import math
import multiprocessing
import os
import random
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from sequences import ANSWER_WEIGHT, Tasks, make_sequence

SECONDS = 350
SEED = 23
HELD_OUT_TOKENS = 400_000
WORKERS = 14
TOKENS_PER_BATCH = 65_536
BATCHES_PER_STEP = 2
LEARNING_RATE = 2e-3
# (sequence length, share of the time after which it begins)
PHASES = [(2048, 0.0), (4096, 0.45), (16384, 0.78), (32768, 0.93)]
SHARDS = 4
CONFIG = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    hidden_size=256,
    num_hidden_layers=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=640,
    vocab_size=4096,
    rope_theta=1e6,
    rms_norm_eps=1e-5,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
    hidden_act="silu",
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
    torch_dtype="bfloat16",
    attention_bias=False,
    mlp_bias=False,
)
HIDDEN, HEADS, KV_HEADS, HEAD_DIM = (
    CONFIG[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
)


def train_tokenizer(chunks):
    """Byte-level BPE; digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=["<|bos|>", "<|eos|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(chunks[::6], trainer)
    return tokenizer


class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return F.rms_norm(x, (HIDDEN,), self.weight, CONFIG["rms_norm_eps"])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape

        def heads(rows, count):
            return rows.view(batch, length, count, HEAD_DIM).transpose(1, 2)

        def rotate(rows):
            a, b = rows.chunk(2, -1)
            return rows * cos + torch.cat((-b, a), -1) * sin

        q = rotate(heads(self.q_proj(x), HEADS))
        k = rotate(heads(self.k_proj(x), KV_HEADS)).repeat_interleave(HEADS // KV_HEADS, 1)
        v = heads(self.v_proj(x), KV_HEADS).repeat_interleave(HEADS // KV_HEADS, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        inner = CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(HIDDEN, inner, bias=False)
        self.up_proj = nn.Linear(HIDDEN, inner, bias=False)
        self.down_proj = nn.Linear(inner, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()
        self.mlp = Mlp()
        self.input_layernorm = RmsNorm()
        self.post_attention_layernorm = RmsNorm()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = RmsNorm()

    def forward(self, ids, cos, sin):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


def initialise(model):
    """Normal with 0.02; projections that write to the residual stream are smaller, as there are two a layer."""
    residual = 0.02 / math.sqrt(2 * CONFIG["num_hidden_layers"])
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            writes = "o_proj" in name or "down_proj" in name
            nn.init.normal_(parameter, std=residual if writes else 0.02)


def rotary(length, device):
    """cos and sin, [length × head_dim]."""
    frequencies = CONFIG["rope_theta"] ** -(torch.arange(0, HEAD_DIM, 2, device=device).float() / HEAD_DIM)
    angles = torch.outer(torch.arange(length, device=device).float(), frequencies)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)


def produce(worker, queue, length, ids, tasks, tokenizer):
    """Fills the queue with batches of the length that training is at."""
    generator = random.Random(SEED * 1000 + worker)
    torch.set_num_threads(1)

    def encode(text):
        return np.array(tokenizer.encode(text).ids, dtype=np.int64)

    while True:
        rows = length.value
        batch = [make_sequence(generator, rows, ids, tasks, encode) for _ in range(max(1, TOKENS_PER_BATCH // rows))]
        tokens, weights = zip(*batch)
        queue.put((rows, np.stack(tokens), np.stack(weights)))


def train(model, queue, length, seconds):
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )

    def loss_of(inputs, targets, weights, cos, sin):
        hidden = model(inputs, cos, sin)
        logits = F.linear(hidden, model.embed_tokens.weight.to(hidden.dtype)).view(-1, CONFIG["vocab_size"])
        losses = F.cross_entropy(logits.float(), targets.view(-1), reduction="none")
        weights = weights.view(-1).float()
        answers = weights > ANSWER_WEIGHT / 2
        return (losses * weights).sum() / weights.sum(), (losses * answers).sum() / answers.sum().clamp(min=1)

    compiled = torch.compile(loss_of, dynamic=False)
    start = time.time()
    step = 0
    while (progress := (time.time() - start) / seconds) < 1:
        length.value = [rows for rows, after in PHASES if progress >= after][-1]
        warmup = min(1, (step + 1) / 100)
        cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, progress)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warmup * cosine
        for _ in range(BATCHES_PER_STEP):
            rows, tokens, weights = queue.get()
            ids = torch.from_numpy(tokens.astype(np.int64)).to(device, non_blocking=True)
            weights = torch.from_numpy(weights).to(device)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss, answers = compiled(
                    ids[:, :-1], ids[:, 1:].contiguous(), weights[:, 1:].contiguous(), *rotary(rows, device)
                )
            (loss / BATCHES_PER_STEP).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            print(f"{time.time() - start:.0f} s, step {step}, {rows} rows, loss {loss.item():.3f}, answers {answers.item():.3f}")


def save(model, folder):
    tensors = {
        "model." + name: tensor.detach().to(torch.bfloat16).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    shards = [[] for _ in range(SHARDS)]
    sizes = [0] * SHARDS
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].numel()):
        smallest = sizes.index(min(sizes))
        shards[smallest].append(name)
        sizes[smallest] += tensor.numel() * 2
    places = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
        save_file({name: tensors[name] for name in names}, os.path.join(folder, file), metadata={"format": "pt"})
        places |= {name: file for name in names}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": places}
    for name, content in (("model.safetensors.index.json", index), ("config.json", CONFIG)):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file, indent=1)


def main(corpus, folder):
    start = time.time()
    os.makedirs(folder, exist_ok=True)
    with open(corpus) as file:
        text = file.read()
    chunks = [text[i : i + 20_000] for i in range(0, len(text), 20_000)]
    tokenizer = train_tokenizer(chunks)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    ids = np.concatenate([np.array(e.ids, dtype=np.uint16) for e in tokenizer.encode_batch(chunks)])
    ids = ids[:-HELD_OUT_TOKENS]

    length = multiprocessing.Value("i", PHASES[0][0])
    queue = multiprocessing.Queue(maxsize=40)
    arguments = (queue, length, ids, Tasks(text), tokenizer)
    workers = [multiprocessing.Process(target=produce, args=(i, *arguments), daemon=True) for i in range(WORKERS)]
    for worker in workers:
        worker.start()

    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    model = Llama().to("cuda")
    initialise(model)
    train(model, queue, length, SECONDS - (time.time() - start))
    for worker in workers:
        worker.terminate()
    save(model, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

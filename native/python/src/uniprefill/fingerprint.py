"""Names the weights of a model directory, as schedule files do: 16 hexadecimal digits over config.json and a sample of every tensor.

The same number as the engine's (native/src/weights/checkpoint.cpp): FNV-1a of 64 bits over the bytes of config.json, then for each
tensor of the language model, in the order of the engine's roles, its name, its shape and 64 bytes at each of 16 places.
"""

import json
import os
import struct

from .errors import ScheduleError, UnsupportedError

_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
_DELTA = ["in_proj_qkv.weight", "in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight", "conv1d.weight", "A_log", "dt_bias"]
_DELTA += ["norm.weight", "out_proj.weight"]


def fingerprint(directory):
    """The fingerprint of a directory in the Hugging Face layout. Fails with ScheduleError, UnsupportedError."""
    with open(_file(directory, "config.json"), "rb") as file:
        raw = file.read()
    tensors = _tensors(directory)
    state = _fnv(raw)
    seen = set()
    for name in _names(json.loads(raw), tensors):
        if name in seen:
            continue
        seen.add(name)
        if name not in tensors:
            raise ScheduleError(f"{directory}: {name} is missing, so that its fingerprint cannot be told")
        path, shape, begin, end = tensors[name]
        size, stride = end - begin, (end - begin) // 16
        state = _fnv(name.encode() + struct.pack(f"<{len(shape)}q", *shape), state)
        with open(path, "rb") as file:
            for i in range(16):
                file.seek(begin + i * stride)
                state = _fnv(file.read(min(64, size - i * stride)), state)
    return f"{state:016x}"


def _fnv(data, state=0xCBF29CE484222325):
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return state


def _file(directory, name):
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        raise ScheduleError(f"{directory}: {name} is missing, so that its fingerprint cannot be told")
    return path


def _tensors(directory):
    """Name → (file, shape, first byte, byte behind the last) of every tensor in the directory's safetensors."""
    found = {}
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".safetensors"):
            continue
        path = os.path.join(directory, name)
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        for tensor, entry in header.items():
            if tensor != "__metadata__":
                begin, end = entry["data_offsets"]
                found[tensor] = (path, entry["shape"], 8 + length + begin, 8 + length + end)
    if not found:
        raise ScheduleError(f"{directory}: no *.safetensors, so that its fingerprint cannot be told")
    return found


def _names(config, present):
    """Names of the tensors in the order of the engine's roles."""
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in ("LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "Qwen3_5ForCausalLM"):
        raise UnsupportedError(f"{architecture} is not supported: Llama, Qwen3, Gemma 3 and Qwen3.5 language models are")
    gemma, hybrid = architecture == "Gemma3ForCausalLM", architecture == "Qwen3_5ForCausalLM"
    prefixes = ["model.", "model.language_model."] if hybrid else ["model."]
    prefix = next((one for one in prefixes if f"{one}embed_tokens.weight" in present), prefixes[0])
    tied = config.get("tie_word_embeddings", gemma)
    yield f"{prefix}embed_tokens.weight"
    yield f"{prefix}norm.weight"
    yield f"{prefix}embed_tokens.weight" if tied else "lm_head.weight"
    bias = config.get("attention_bias") is True
    for layer in range(config["num_hidden_layers"]):
        at = f"{prefix}layers.{layer}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        if gemma:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        yield from (f"{at}{norm}.weight" for norm in norms)
        recurrent = hybrid and f"{at}linear_attn.A_log" in present
        if recurrent:
            yield from (f"{at}linear_attn.{name}" for name in _DELTA)
        else:
            yield from (f"{at}self_attn.{name}.weight" for name in _ATTENTION)
            if architecture != "LlamaForCausalLM":
                yield from (f"{at}self_attn.{name}.weight" for name in ("q_norm", "k_norm"))
        yield from (f"{at}{name}.weight" for name in _MLP)
        if bias and not recurrent:
            yield from (f"{at}self_attn.{name}.bias" for name in _ATTENTION)
        if architecture == "LlamaForCausalLM" and config.get("mlp_bias") is True:
            yield from (f"{at}{name}.bias" for name in _MLP)

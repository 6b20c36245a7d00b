"""The models that can drop: what each layer of a transformers model is made of, as a table of modules and numbers.

The forward pass (`forward.py`) reads this table and knows no family. Linear layers are called as modules, so that
quantised ones and adapters merged into them work; norms are read as weights, because the operators fuse them.
"""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from .errors import UnsupportedError

# Class of the model → what its family has. `gemma`: norms behind mixer and MLP as well.
FAMILIES = {
    "LlamaForCausalLM": dict(norm_offset=0.0, activation="silu"),
    "Qwen3ForCausalLM": dict(norm_offset=0.0, activation="silu"),
    "Gemma3ForCausalLM": dict(norm_offset=1.0, activation="gelu_pytorch_tanh"),
    "Qwen3_5ForCausalLM": dict(norm_offset=1.0, activation="silu"),
}
HEAD_DIMS = (64, 128, 256)
# Attention that is plain softmax attention, which the operators compute in its place.
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4")


@dataclass(frozen=True)
class Norm:
    """x / sqrt(mean(x²) + eps) · (offset + weight)."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class Attention:
    module: Any
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    soft_cap: float
    window: int  # 0: full attention
    rope: str  # which table of angles
    query_norm: Optional[Norm]
    key_norm: Optional[Norm]
    gated: bool  # q_proj gives [q | gate] a head


@dataclass(frozen=True)
class Delta:
    module: Any
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    weight: Tensor  # of the convolution, [channels, kernel]
    a_log: Tensor  # f32
    dt_bias: Tensor  # f32
    norm: Norm


@dataclass(frozen=True)
class Layer:
    kind: str  # full, sliding, delta
    mixer: Any  # Attention or Delta
    mlp: Any
    input_norm: Norm
    mlp_norm: Norm
    post_attention_norm: Optional[Norm]  # Gemma's
    post_mlp_norm: Optional[Norm]


@dataclass(frozen=True)
class Model:
    """A transformers model as a table. `base`: the module that has the layers, `embed`: token ids → rows."""

    layers: tuple
    final_norm: Norm
    norm_offset: float
    activation: str
    base: Any
    rope_types: tuple
    device: Any
    dtype: Any


def describe(model):
    """The table of a transformers model. Fails with UnsupportedError, which names what is not supported; changes nothing."""
    name = type(model).__name__
    if name not in FAMILIES or not type(model).__module__.startswith("transformers."):
        raise UnsupportedError(
            f"{type(model).__module__}.{name} is not supported: {', '.join(FAMILIES)} of transformers are. Load the text model of a "
            "multimodal checkpoint; merge and unload an adapter"
        )
    family, config = FAMILIES[name], model.config
    device, dtype = _placement(model)
    implementation = config._attn_implementation
    if implementation not in ATTENTION:
        raise UnsupportedError(
            f"attention implementation {implementation!r} is not supported: {', '.join(ATTENTION)} are; load the model with "
            "attn_implementation='sdpa'"
        )
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation != family["activation"]:
        raise UnsupportedError(f"{name} with activation {activation!r} is not supported: {family['activation']} is")
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedError(f"{name} with use_bidirectional_attention is not supported: dropping needs causal attention")
    layers = tuple(_layer(layer, i, config, name, device) for i, layer in enumerate(model.model.layers))
    _check_rope(config)
    return Model(
        layers=layers,
        final_norm=_norm(model.model.norm),
        norm_offset=family["norm_offset"],
        activation=activation,
        base=model.model,
        rope_types=tuple(sorted({layer.mixer.rope for layer in layers if layer.kind != "delta"})),
        device=device,
        dtype=dtype,
    )


def _placement(model):
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:
        named = ", ".join(sorted(str(each) for each in devices))
        raise UnsupportedError(f"a model over several devices ({named}) is not supported: load it on one, device_map={{'': 0}}")
    device = devices.pop()
    if device.type not in ("cuda", "cpu"):
        raise UnsupportedError(f"a model on device {device} is not supported: move it to cuda")
    dtype = model.model.norm.weight.dtype
    allowed = (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.bfloat16, torch.float16, torch.float32)
    if dtype not in allowed:
        raise UnsupportedError(f"a model of {dtype} on {device.type} is not supported: load it with dtype=torch.bfloat16")
    return device, dtype


def _norm(module):
    return Norm(module.weight.data, float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))))


def _layer(layer, index, config, name, device):
    types = getattr(config, "layer_types", None)
    kind = {"full_attention": "full", "sliding_attention": "sliding", "linear_attention": "delta"}.get(
        types[index] if types else "full_attention"
    )
    if kind is None:
        raise UnsupportedError(f"layer {index} is of type {types[index]!r}, which is not supported")
    gemma = name == "Gemma3ForCausalLM"
    if kind == "delta":
        mixer = _delta(layer.linear_attn)
    else:
        mixer = _attention(layer.self_attn, kind, config, name, index, device)
    return Layer(
        kind=kind,
        mixer=mixer,
        mlp=layer.mlp,
        input_norm=_norm(layer.input_layernorm),
        mlp_norm=_norm(layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm),
        post_attention_norm=_norm(layer.post_attention_layernorm) if gemma else None,
        post_mlp_norm=_norm(layer.post_feedforward_layernorm) if gemma else None,
    )


def _attention(module, kind, config, name, index, device):
    head_dim = module.head_dim
    if device.type == "cuda" and head_dim not in HEAD_DIMS:
        raise UnsupportedError(f"head_dim {head_dim} in layer {index} is not supported: {', '.join(map(str, HEAD_DIMS))} are")
    rope = "full_attention" if kind == "full" else "sliding_attention"
    return Attention(
        module=module,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        scale=float(module.scaling),
        soft_cap=float(getattr(module, "attn_logit_softcapping", None) or 0.0),
        window=int(config.sliding_window) if kind == "sliding" else 0,
        rope=rope if name == "Gemma3ForCausalLM" else "",
        query_norm=_norm(module.q_norm) if hasattr(module, "q_norm") else None,
        key_norm=_norm(module.k_norm) if hasattr(module, "k_norm") else None,
        gated=name == "Qwen3_5ForCausalLM",
    )


def _delta(module):
    return Delta(
        module=module,
        key_heads=module.num_k_heads,
        value_heads=module.num_v_heads,
        key_dim=module.head_k_dim,
        value_dim=module.head_v_dim,
        kernel=module.conv_kernel_size,
        weight=module.conv1d.weight.data.squeeze(1).contiguous(),
        a_log=module.A_log.data.float().contiguous(),
        dt_bias=module.dt_bias.data.float().contiguous(),
        norm=_norm(module.norm),
    )


def _check_rope(config):
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [each for each in parameters.values() if isinstance(each, dict)]
    for each in nested or [parameters]:
        kind = each.get("rope_type", "default")
        if kind in ("dynamic", "longrope"):
            raise UnsupportedError(f"rope_type {kind!r} is not supported: its angles depend on the length of the sequence")


class Angles:
    """Cosines and sines of every position below a limit that grows, f32 [limit, rotary_dim / 2], from the model's own rotary module."""

    STEP = 4096

    def __init__(self, model):
        self._model, self._limit, self._tables = model, 0, {}

    def tables(self, limit):
        """Makes the tables hold the positions 0 … limit - 1. Returns rope type → (cosines, sines)."""
        if limit > self._limit:
            self._limit = -(-limit // self.STEP) * self.STEP
            self._tables = {rope: self._make(rope) for rope in self._model.rope_types}
        return self._tables

    def _make(self, rope):
        rotary, device = self._model.base.rotary_emb, self._model.device
        positions = torch.arange(self._limit, device=device)[None]
        # The module answers in the type of its first argument.
        like = torch.empty(1, dtype=torch.float32, device=device)
        if rope:
            cosines, sines = rotary(like, positions, rope)
        elif hasattr(rotary, "mrope_section"):
            cosines, sines = rotary(like, positions[None].expand(3, 1, -1))
        else:
            cosines, sines = rotary(like, positions)
        half = cosines.shape[-1] // 2
        return tuple(each.reshape(self._limit, -1)[:, :half].contiguous() for each in (cosines, sines))

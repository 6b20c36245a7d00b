"""Small random models of every family, as transformers makes them."""

import torch
import transformers

SHAPE = dict(
    vocab_size=256, hidden_size=128, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    max_position_embeddings=8192, pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
)  # fmt: skip


def small(family, dtype, device):
    """A model of 6 layers (Gemma 3: 7, Qwen3.5: 8), f32 or bf16, the same weights each time, and layers that may drop."""
    torch.manual_seed(3)
    if family == "llama":
        scaling = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
        scaling["original_max_position_embeddings"] = 512
        config = transformers.LlamaConfig(num_hidden_layers=6, rope_parameters=scaling, **SHAPE)
        model, drops = transformers.LlamaForCausalLM(config), (2, 4)
    elif family == "qwen3":
        config = transformers.Qwen3Config(num_hidden_layers=6, attention_bias=True, tie_word_embeddings=True, **SHAPE)
        model, drops = transformers.Qwen3ForCausalLM(config), (1, 3)
    elif family == "gemma3":
        types = ["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"]
        config = transformers.Gemma3TextConfig(
            num_hidden_layers=7, layer_types=types, sliding_window=100, query_pre_attn_scalar=96, final_logit_softcapping=30.0, **SHAPE
        )
        model, drops = transformers.Gemma3ForCausalLM(config), (2, 5)
    else:
        config = transformers.Qwen3_5TextConfig(
            num_hidden_layers=8, linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=64, linear_value_head_dim=64,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25), **SHAPE,
        )  # fmt: skip
        model, drops = transformers.Qwen3_5ForCausalLM(config), (3,)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Attention that has something to say, and norms that are not all alike.
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(6)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.to(device=device, dtype=dtype).eval(), drops


FAMILIES = ("llama", "qwen3", "gemma3", "qwen3_5")

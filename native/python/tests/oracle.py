"""Dropping on transformers' own layers, one prompt at a time, the slow way: every layer runs on the rows kept so far with an explicit
mask, a drop layer on all of them, and its own attention weights decide what is thrown away behind it."""

import torch


def prompt_and_output(model, prompt, output, drops, window_by="kept", kept=None, block=64, sink=128, last_q=128):
    """Runs a prompt and output tokens (lists), dropping of the prompt alone. drops: layer → share, exclusive. kept: positions to keep
    behind each drop layer, in place of what it selects.

    Returns logits [1 + len(output), vocabulary] of the last prompt row and the output rows, and the kept positions of each drop layer.
    """
    base, config = model.model, model.config
    device = base.norm.weight.device
    ids = torch.tensor([prompt + output], device=device)
    hidden = base.embed_tokens(ids)
    positions = torch.arange(ids.shape[1], device=device)
    extra, sets = len(output), []
    types = getattr(config, "layer_types", None) or ["full_attention"] * len(base.layers)
    for i, layer in enumerate(base.layers):
        arguments = dict(position_embeddings=_angles(base, hidden, positions, types[i]), past_key_values=None)
        seen = []
        if types[i] != "linear_attention":
            arguments["attention_mask"] = _mask(hidden, positions, config, types[i], window_by)
            hook = layer.self_attn.register_forward_hook(lambda module, given, result: seen.append(result[1]))
        after = layer(hidden, **arguments)
        after = after[0] if isinstance(after, tuple) else after
        if types[i] != "linear_attention":
            hook.remove()
        if i in drops:
            n = hidden.shape[1] - extra
            if kept is None:
                keep = _keep(seen[0][0, :, n - last_q : n, :n].double(), n, drops[i], block, sink, last_q)
            else:
                place = {position: row for row, position in enumerate(positions.tolist())}
                keep = [place[position] for position in kept[len(sets)]]
            index = torch.cat([torch.tensor(keep), torch.arange(n, n + extra)]).to(device)
            after, positions = after[:, index], positions[index]
            sets.append(positions[: len(keep)].tolist())
        hidden = after
    rows = base.norm(hidden)[0, len(hidden[0]) - extra - 1 :]
    logits = model.lm_head(rows)
    cap = getattr(config, "final_logit_softcapping", None)
    return (logits if cap is None else torch.tanh(logits / cap) * cap), sets


def _angles(base, hidden, positions, kind):
    rotary = base.rotary_emb
    if hasattr(rotary, "mrope_section"):
        return rotary(hidden, positions[None, None].expand(3, 1, -1))
    return rotary(hidden, positions[None], kind) if type(rotary).__name__.startswith("Gemma3") else rotary(hidden, positions[None])


def _mask(hidden, positions, config, kind, window_by):
    rows = torch.arange(hidden.shape[1], device=hidden.device)
    seen = rows[None] <= rows[:, None]
    if kind == "sliding_attention":
        place = rows if window_by == "kept" else positions
        seen &= place[:, None] - place[None] < config.sliding_window
    return torch.where(seen, 0.0, torch.finfo(hidden.dtype).min)[None, None].to(hidden.dtype)


def _keep(weights, n, p, block, sink, last_q):
    if n <= sink + last_q:
        return list(range(n))
    mass = torch.nn.functional.pad(weights.sum((0, 1)), (0, -n % block)).reshape(-1, block).sum(-1).tolist()
    forced = set(range(sink)) | set(range(n - last_q, n))
    free = [b for b in range(len(mass)) if not set(range(b * block, min((b + 1) * block, n))) <= forced]
    rows, before, total = set(forced), 0.0, sum(mass[b] for b in free)
    for b in sorted(free, key=lambda b: (-mass[b], -b)):
        if before <= p * total:
            rows |= set(range(b * block, min((b + 1) * block, n)))
        before += mass[b]
    return sorted(rows)

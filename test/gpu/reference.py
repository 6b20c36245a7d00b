"""Double-precision references of the operators, in torch."""

import torch


def capped(scores, scale, soft_cap):
    scores = scores * scale
    return torch.tanh(scores / soft_cap) * soft_cap if soft_cap else scores


def attention(q, k, v, lo, hi, scale, soft_cap=0.0, seen=None):
    """q [rows, heads, d], k and v [keys, kv_heads, d], lo and hi [rows] inclusive; seen [kv_heads, rows, keys] lets keys through."""
    rows, heads, _ = q.shape
    group = heads // k.shape[1]
    key = torch.arange(k.shape[0], device=q.device)
    visible = (key >= lo[:, None]) & (key <= hi[:, None])
    out = []
    for kv_head in range(k.shape[1]):
        own = q[:, kv_head * group : (kv_head + 1) * group].double()
        scores = capped(torch.einsum("qhd,kd->hqk", own, k[:, kv_head].double()), scale, soft_cap)
        hidden = ~visible if seen is None else ~(visible & seen[kv_head])
        shares = torch.softmax(scores.masked_fill_(hidden, float("-inf")), -1).nan_to_num_(0.0)
        out.append(torch.einsum("hqk,kd->qhd", shares, v[:, kv_head].double()))
    return torch.cat(out, 1)


def block_masses(q, k, block, scale, soft_cap=0.0):
    """Mass of each block as a float64 tensor; q [q_rows, heads, d] are the last rows of k [rows, kv_heads, d]."""
    q_rows, heads, _ = q.shape
    rows, kv_heads, _ = k.shape
    masses = torch.zeros(-(-rows // block), dtype=torch.float64, device=q.device)
    last = torch.arange(rows - q_rows, rows, device=q.device)
    hidden = torch.arange(rows, device=q.device)[None] > last[:, None]
    for head in range(heads):
        scores = capped(q[:, head].double() @ k[:, head // (heads // kv_heads)].double().T, scale, soft_cap)
        shares = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1).sum(0)
        masses += torch.nn.functional.pad(shares, (0, -rows % block)).reshape(-1, block).sum(-1)
    return masses


def cut(masses, rows, block, sink, last_q, p_q32, exclusive):
    """The rule of docs on integer masses (a list): the set of blocks kept and the rows kept, ascending."""
    forced = set(range(min(sink, rows))) | set(range(max(rows - last_q, 0), rows))
    blocks = range(-(-rows // block))
    spans = [range(b * block, min((b + 1) * block, rows)) for b in blocks]
    whole = [all(r in forced for r in span) for span in spans]
    candidates = [b for b in blocks if not (exclusive and whole[b])]
    total = sum(masses[b] for b in candidates)
    if rows <= sink + last_q or total == 0:
        kept = set(blocks)
    else:
        threshold = (total * p_q32) >> 32
        kept, before = {b for b in blocks if b not in candidates}, 0
        for b in sorted(candidates, key=lambda b: (masses[b], b), reverse=True):
            if before <= threshold:
                kept.add(b)
            before += masses[b]
    rows_kept = sorted(forced | {r for b in kept for r in spans[b]})
    return kept, rows_kept

"""Random inputs on the device: caches that are paged in shuffled order or strided, their unused rows filled with NaN."""

import torch

from backend import Kv


class Cache:
    """K or V of `requests` × `capacity` rows. `rows[b]` is the dense [length, kv_heads, head_dim] content of request b."""

    def __init__(self, lengths, capacity, kv_heads, head_dim, dtype, page_size, generator, scale=1.0, spare=float("nan")):
        device = "cuda"
        self.rows = [
            (torch.randn(n, kv_heads, head_dim, generator=generator, device=device) * scale).to(dtype) for n in lengths
        ]
        self.page_size = page_size
        requests = len(lengths)
        if page_size:
            per_request = -(-capacity // page_size)
            count = requests * per_request + 3
            self.data = torch.full((count, kv_heads, page_size, head_dim), spare, dtype=dtype, device=device)
            order = torch.randperm(count, generator=generator, device=device)[: requests * per_request]
            self.pages = order.reshape(requests, per_request).to(torch.int32).contiguous()
            for b, content in enumerate(self.rows):
                n = content.shape[0]
                if n == 0:
                    continue
                index = torch.arange(n, device=device)
                self.data[self.pages[b].long()[index // page_size], :, index % page_size] = content
            # Entries that no row needs may point anywhere.
            for b, n in enumerate(lengths):
                self.pages[b, -(-n // page_size) :] = 0x7FFFFFF0 + b % 8
            self.kv = Kv(
                self.data.data_ptr(),
                self.pages.data_ptr(),
                per_request,
                kv_heads * page_size * head_dim,
                head_dim,
                page_size * head_dim,
                page_size,
                count,
            )
        else:
            self.data = torch.full((requests, capacity, kv_heads, head_dim), spare, dtype=dtype, device=device)
            for b, content in enumerate(self.rows):
                self.data[b, : content.shape[0]] = content
            self.kv = Kv(
                self.data.data_ptr(), None, 0, capacity * kv_heads * head_dim, kv_heads * head_dim, head_dim, 0, requests
            )


def relative_error(out, reference):
    """‖out − reference‖ / ‖reference‖ in double; NaN where anything is."""
    out, reference = out.double(), reference.double()
    norm = reference.norm()
    return float((out - reference).norm() / norm) if norm > 0 else float(out.norm())


def int32(values):
    return torch.tensor(values, dtype=torch.int32, device="cuda")

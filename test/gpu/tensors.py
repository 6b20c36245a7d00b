"""Random inputs on the device: caches that are paged in shuffled order or strided, their unused rows filled with NaN."""

import torch

from backend import Kv


class Cache:
    """K or V of `requests` × `capacity` rows. `rows[b]` is the dense [length, kv_heads, head_dim] content of request b.

    In half of the caches requests find their tables (or their part of a strided cache) through `table_rows`, in random order.
    """

    def __init__(self, lengths, capacity, kv_heads, head_dim, dtype, page_size, generator, scale=1.0, spare=float("nan")):
        device = "cuda"
        self.rows = [
            (torch.randn(n, kv_heads, head_dim, generator=generator, device=device) * scale).to(dtype) for n in lengths
        ]
        self.page_size = page_size
        requests = len(lengths)
        indirect = bool(torch.randint(0, 2, (1,), generator=generator, device=device))
        tables = requests + 2 if indirect else requests
        self.places = torch.randperm(tables, generator=generator, device=device)[:requests] if indirect else torch.arange(requests)
        self.places = self.places.tolist()
        if page_size:
            per_request = -(-capacity // page_size)
            count = requests * per_request + 3
            self.data = torch.full((count, kv_heads, page_size, head_dim), spare, dtype=dtype, device=device)
            order = torch.randperm(count, generator=generator, device=device)[: requests * per_request]
            # Entries that no row needs may point anywhere.
            self.pages = torch.full((tables, per_request), 0x7FFFFFF0, dtype=torch.int32, device=device)
            for b, content in enumerate(self.rows):
                n, place = content.shape[0], self.places[b]
                own = order[b * per_request : b * per_request + -(-n // page_size)]
                self.pages[place, : own.numel()] = own.to(torch.int32)
                index = torch.arange(n, device=device)
                self.data[own[index // page_size], :, index % page_size] = content
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
            self.data = torch.full((tables, capacity, kv_heads, head_dim), spare, dtype=dtype, device=device)
            for place, content in zip(self.places, self.rows):
                self.data[place, : content.shape[0]] = content
            self.kv = Kv(
                self.data.data_ptr(), None, 0, capacity * kv_heads * head_dim, kv_heads * head_dim, head_dim, 0, tables
            )
        self.table_rows = None
        if indirect:
            self.table_rows = int32(self.places)
            self.kv.table_rows, self.kv.table_count = self.table_rows.data_ptr(), tables


def relative_error(out, reference):
    """‖out − reference‖ / ‖reference‖ in double; NaN where anything is."""
    out, reference = out.double(), reference.double()
    norm = reference.norm()
    return float((out - reference).norm() / norm) if norm > 0 else float(out.norm())


def int32(values):
    return torch.tensor(values, dtype=torch.int32, device="cuda")

"""Convolution, gates, the delta rule and the gated norm against double precision."""

import torch

import backend as up
from check_run import LIMIT, POISON, CheckRun
from tensors import int32, relative_error


class DeltaChecks(CheckRun):
    def states(self, lengths, size, dtype, scale=1.0):
        """Random states for requests of `lengths`, in shuffled slots; some begin with zeros, go on in place, or leave nothing.

        Returns up_states, the tensor, and what the checks must know: sources, targets and snapshots [(request, rows, slot)].
        """
        r, requests = self.random, len(lengths)
        snapshots = [(b, 64 * (i + 1)) for b, n in enumerate(lengths) for i in range(n // 64) if r.random() < 0.5]
        slots = 2 * requests + len(snapshots) + 2
        order = r.sample(range(slots), slots)
        data = self.normal(slots, size, dtype=dtype, scale=scale)
        source = [order.pop() if r.random() < 0.7 else r.choice([-1, slots]) for _ in lengths]
        target = [s if 0 <= s < slots and r.random() < 0.5 else order.pop() if r.random() < 0.8 else -1 for s in source]
        taken = [(b, rows, order.pop()) for b, rows in snapshots]
        starts = [sum(b < request for b, _, _ in taken) for request in range(requests + 1)]
        held = [int32(x) for x in (source, target, starts, [t[1] for t in taken] + [0], [t[2] for t in taken] + [0])]
        states = up.States(data.data_ptr(), size, slots, len(taken), *(t.data_ptr() for t in held))
        return states, data, (source, target, taken, held)

    def expected_states(self, before, lengths, leave):
        """The pool after the call: leave(request, rows) is the state after so many rows."""
        data, (_, target, taken, _) = before
        expected = data.double()
        for b, n in enumerate(lengths):
            if n and 0 <= target[b] < data.shape[0]:
                expected[target[b]] = leave(b, n).flatten()
        for b, rows, slot in taken:
            expected[slot] = leave(b, rows).flatten()
        return expected

    def delta_input(self, lengths, channels, kernel, heads, dtype):
        rows, spare = sum(lengths), self.random.choice([0, 3])
        x = self.normal(rows + spare, channels + 16, dtype=dtype)
        weight = self.normal(channels, kernel, dtype=dtype, scale=0.5)
        states, data, book = self.states(lengths, (kernel - 1) * channels, dtype)
        before = data.clone()
        starts = int32([sum(lengths[:b]) for b in range(len(lengths) + 1)])
        out = torch.full((rows + spare, channels + 8), POISON, dtype=dtype, device="cuda")
        gates = self.normal(rows + spare, 2 * max(heads, 1) + 1, dtype=dtype, scale=4)
        a_log, dt_bias = self.normal(max(heads, 1)), self.normal(max(heads, 1))
        decay, beta = (torch.full((rows + spare, max(heads, 1)), POISON, device="cuda") for _ in range(2))
        p = up.DeltaInput(
            dtype=up.DTYPES[dtype], requests=len(lengths), max_rows=rows + spare, channels=channels, kernel=kernel, input=x,
            input_row_stride=channels + 16, weight=weight, row_starts=starts, states=states, output=out,
            output_row_stride=channels + 8, heads=heads, decay_input=gates[:, heads:], decay_input_stride=gates.shape[1],
            beta_input=gates, beta_input_stride=gates.shape[1], a_log=a_log, dt_bias=dt_bias, decay=decay, beta=beta,
        )
        self.backend.delta_prepare(p)
        inputs = []  # [kernel - 1 + length, channels] of each request
        for b, n in enumerate(lengths):
            slot = book[0][b]
            past = before[slot].reshape(kernel - 1, channels) if 0 <= slot < data.shape[0] else torch.zeros(kernel - 1, channels, device="cuda")
            first = int(starts[b])
            inputs.append(torch.cat([past, x[first : first + n, :channels]]).double())
        expected = torch.full(out.shape, POISON, dtype=torch.float64, device="cuda")
        for b, n in enumerate(lengths):
            sums = sum(inputs[b][t : t + n] * weight[:, t].double() for t in range(kernel))
            expected[int(starts[b]) : int(starts[b]) + n, :channels] = torch.nn.functional.silu(sums)
        error = relative_error(out[:rows, :channels], expected[:rows, :channels])
        exact = torch.equal(data.double(), self.expected_states((before, book), lengths, lambda b, n: inputs[b][n : n + kernel - 1]))
        exact = exact and bool((out[rows:] == POISON).all()) and bool((out[:, channels:] == POISON).all())
        if heads:
            b, a = gates[:rows, :heads].double(), gates[:rows, heads : 2 * heads].double()
            expected_decay = -a_log.double().exp() * torch.nn.functional.softplus(a + dt_bias.double())
            error = max(error, relative_error(decay[:rows], expected_decay), relative_error(beta[:rows], torch.sigmoid(b)))
            exact = exact and bool((decay[rows:] == POISON).all()) and torch.equal(beta[:rows], beta[:rows].to(dtype).float())
        detail = f"lengths {lengths} channels {channels} kernel {kernel} heads {heads} {dtype}"
        self.report("delta in", detail, error if exact else float("inf"), LIMIT[dtype] / 2)

    def delta_rows(self, rows, key_heads, value_heads, key_dim, value_dim, dtype, alike):
        """q|k|v side by side in one tensor, and gates; `alike`: keys that resemble each other, hardly forgotten."""
        wide = 2 * key_heads * key_dim + value_heads * value_dim
        x = self.normal(rows, wide + 8, dtype=dtype)
        if alike:
            keys = x[:, key_heads * key_dim : 2 * key_heads * key_dim]
            keys[:] = (keys[:1].float() + 0.05 * keys.float()).to(dtype)
        decay = -self.normal(rows, value_heads).exp() * (1e-3 if alike else 0.2)
        beta = torch.sigmoid(self.normal(rows, value_heads) + (4 if alike else 0)).to(dtype).float()
        return x, decay, beta

    def recur(self, x, decay, beta, shape, initial, scale):
        """Row by row in double: outputs [rows, value_heads, value_dim] and the state after every 64 rows and at the end."""
        key_heads, value_heads, key_dim, value_dim = shape
        d, at = x.double(), key_heads * key_dim
        group = value_heads // key_heads

        def unit(t):
            t = t.reshape(-1, key_heads, key_dim)
            return (t / (t.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt()).repeat_interleave(group, 1)

        q, k = unit(d[:, :at]) * scale, unit(d[:, at : 2 * at])
        v = d[:, 2 * at : 2 * at + value_heads * value_dim].reshape(-1, value_heads, value_dim)
        grown, rate = decay.double().exp()[..., None, None], beta.double()[..., None]
        s, out, states = initial.double().clone(), torch.empty_like(v), {0: initial.double()}
        for i in range(x.shape[0]):
            s = s * grown[i]
            change = rate[i] * (v[i] - torch.einsum("hkv,hk->hv", s, k[i]))
            s = s + k[i][..., None] * change[:, None]
            out[i] = torch.einsum("hkv,hk->hv", s, q[i])
            if (i + 1) % 64 == 0 or i + 1 == x.shape[0]:
                states[i + 1] = s.clone()
        return out, states

    def recur_prefill(self, lengths, key_heads, value_heads, key_dim, value_dim, dtype, alike=False):
        rows, spare = sum(lengths), self.random.choice([0, 70])
        shape = (key_heads, value_heads, key_dim, value_dim)
        x, decay, beta = self.delta_rows(rows + spare, *shape, dtype, alike)
        x[rows:], decay[rows:], beta[rows:] = float("nan"), float("nan"), float("nan")
        wide, at = x.shape[1], key_heads * key_dim
        size = value_heads * key_dim * value_dim
        states, data, book = self.states(lengths, size, torch.float32, 0.3)
        before, scale = data.clone(), key_dim**-0.5
        starts = [sum(lengths[:b]) for b in range(len(lengths) + 1)]

        def call(states, parts):
            """One call of the operator; parts [(first row, rows)] of x are its requests."""
            index = [i for first, n in parts for i in range(first, first + n)] + list(range(rows, rows + spare))
            own = int32([sum(n for _, n in parts[:b]) for b in range(len(parts) + 1)])
            index = torch.tensor(index, dtype=torch.long, device="cuda")
            y, g, r = x[index].contiguous(), decay[index].contiguous(), beta[index].contiguous()
            out = torch.full((len(index), value_heads * value_dim + 8), POISON, dtype=dtype, device="cuda")
            p = up.DeltaPrefill(
                dtype=up.DTYPES[dtype], requests=len(parts), max_rows=len(index), key_heads=key_heads, value_heads=value_heads,
                key_dim=key_dim, value_dim=value_dim, normalise=1, norm_eps=1e-6, scale=scale, queries=y, query_row_stride=wide,
                keys=y[:, at:], key_row_stride=wide, values=y[:, 2 * at :], value_row_stride=wide, decay=g, beta=r, row_starts=own,
                states=states, output=out, output_row_stride=out.shape[1],
            )
            self.backend.recur_prefill(p)
            used = len(index) - spare
            clean = bool((out[used:] == POISON).all()) and bool((out[:, -8:] == POISON).all())
            return out[:used, :-8], clean

        def initial(b):
            slot = book[0][b]
            return before[slot] if 0 <= slot < data.shape[0] else torch.zeros_like(before[0])

        out, clean = call(states, list(zip(starts, lengths)))
        expected, kept = [], []
        for b, n in enumerate(lengths):
            own = slice(starts[b], starts[b] + n)
            o, s = self.recur(x[own], decay[own], beta[own], shape, initial(b).reshape(value_heads, key_dim, value_dim), scale)
            expected.append(o.reshape(n, value_heads * value_dim))
            kept.append(s)
        # Where keys resemble each other, most of what is added to a state cancels, and the rounding of its parts does not: the
        # chunked form with operands of this dtype, emulated in double, is off by up to 2.0e-2 (outputs) and 2.6e-2 (states) in bf16.
        error = relative_error(out, torch.cat(expected)) / (3.2 if alike else 1)
        whole = self.expected_states((before, book), lengths, lambda b, n: kept[b][n])
        targets = {t for t, n in zip(book[1], lengths) if n and 0 <= t < data.shape[0]} | {slot for _, _, slot in book[2]}
        others = [i for i in range(data.shape[0]) if i not in targets]
        if targets:
            error = max(error, relative_error(data[sorted(targets)], whole[sorted(targets)]) / (5 if alike else 1))
        if not clean or not torch.equal(data[others], before[others]):
            error = float("inf")
        detail = f"lengths {lengths} heads {key_heads}/{value_heads} d {key_dim}/{value_dim} {dtype} alike {alike} snapshots {len(book[2])}"
        self.report("delta", detail, error, LIMIT[dtype])

        # Alone, and in two calls that are cut at a multiple of 64 rows: the same bits.
        for b, n in enumerate(lengths):
            cut = 64 * self.random.randint(0, n // 64)
            pool = torch.stack([initial(b), torch.full_like(before[0], POISON)])
            held = [int32([0]), int32([1])]
            found = []
            for first, count in ((0, cut), (cut, n - cut)):
                if count == 0:
                    continue
                own = up.States(pool.data_ptr(), size, 2, 0, held[0].data_ptr(), held[1].data_ptr(), None, None, None)
                found.append(call(own, [(starts[b] + first, count)])[0])
                pool[0] = pool[1]
            same = n == 0 or torch.equal(torch.cat(found), out[starts[b] : starts[b + 1]])
            if n and 0 <= book[1][b] < data.shape[0]:
                same = same and torch.equal(pool[1], data[book[1][b]])
            self.report("delta cut", f"request {b} cut at {cut} of {detail}", 0.0 if same else float("inf"), 0)

    def recur_decode(self, requests, key_heads, value_heads, key_dim, value_dim, dtype):
        shape = (key_heads, value_heads, key_dim, value_dim)
        x, decay, beta = self.delta_rows(requests, *shape, dtype, False)
        wide, at, size = x.shape[1], key_heads * key_dim, value_heads * key_dim * value_dim
        states, data, book = self.states([1] * requests, size, torch.float32, 0.3)
        before, scale = data.clone(), 0.11
        out = torch.full((requests, value_heads * value_dim), POISON, dtype=dtype, device="cuda")
        p = up.DeltaDecode(
            dtype=up.DTYPES[dtype], requests=requests, key_heads=key_heads, value_heads=value_heads, key_dim=key_dim,
            value_dim=value_dim, normalise=1, norm_eps=1e-6, scale=scale, queries=x, query_row_stride=wide, keys=x[:, at:],
            key_row_stride=wide, values=x[:, 2 * at :], value_row_stride=wide, decay=decay, beta=beta, states=states, output=out,
            output_row_stride=value_heads * value_dim,
        )
        self.backend.recur_decode(p)
        outputs, after = [], []
        for b in range(requests):
            slot = book[0][b]
            initial = before[slot] if 0 <= slot < data.shape[0] else torch.zeros_like(before[0])
            o, s = self.recur(x[b : b + 1], decay[b : b + 1], beta[b : b + 1], shape, initial.reshape(value_heads, key_dim, value_dim), scale)
            outputs.append(o.reshape(-1))
            after.append(s[1])
        whole = self.expected_states((before, book), [1] * requests, lambda b, n: after[b])
        error = relative_error(out, torch.stack(outputs))
        if relative_error(data, whole) > 1e-6:
            error = float("inf")
        self.report("delta one", f"{requests} requests heads {key_heads}/{value_heads} d {key_dim}/{value_dim} {dtype}", error, LIMIT[dtype] / 2)

    def gated_norm(self, rows, heads, head_dim, dtype):
        x, both = self.normal(rows, heads * head_dim, dtype=dtype, scale=3), self.normal(rows, heads * head_dim + 24, dtype=dtype, scale=2)
        weight = self.normal(head_dim, dtype=dtype)
        in_place = self.random.random() < 0.5
        expected = x.double().reshape(rows, heads, head_dim)
        expected = expected * (expected.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
        z = both[:, : heads * head_dim].double().reshape(rows, heads, head_dim)
        expected = expected.to(dtype).double() * weight.double() * torch.nn.functional.silu(z)
        out = x if in_place else torch.full_like(x, POISON)
        p = up.GatedNorm(
            dtype=up.DTYPES[dtype], rows=rows, heads=heads, head_dim=head_dim, eps=1e-6, input=x, input_row_stride=heads * head_dim,
            gate=both, gate_row_stride=both.shape[1], weight=weight, output=out, output_row_stride=heads * head_dim,
        )
        self.backend.normalise_gated(p)
        error = relative_error(out.reshape(expected.shape), expected)
        self.report("gated norm", f"{rows} rows heads {heads} d {head_dim} {dtype} in place {in_place}", error, LIMIT[dtype] / 2)


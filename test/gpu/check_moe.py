"""Routing and experts against double precision."""

import torch

import backend as up
from check_run import LIMIT, POISON, CheckRun
from tensors import int32, relative_error


class MoeChecks(CheckRun):
    def route(self, rows, experts, top_k, dtype):
        logits = self.normal(rows, experts + 5, dtype=dtype, scale=2)
        if experts > 1 and rows > 2:
            logits[0, :experts] = 0.5  # all alike
            logits[1, self.random.randrange(experts)] = self.random.choice([float("nan"), float("inf")])
        renormalise = self.random.choice([0, 1])
        chosen = torch.full((rows, top_k), -9, dtype=torch.int32, device="cuda")
        weights = torch.full((rows, top_k), POISON, device="cuda")
        p = up.MoeRouter(
            dtype=up.DTYPES[dtype], rows=rows, experts=experts, top_k=top_k, renormalise=renormalise, logits=logits,
            logits_stride=experts + 5, chosen=chosen, weights=weights,
        )
        self.backend.route(p)
        x = logits[:, :experts].double()
        broken = ~torch.isfinite(x).all(-1)
        order = torch.argsort(x, dim=-1, descending=True, stable=True)[:, :top_k]
        order[broken] = torch.arange(top_k, device="cuda")
        shares = torch.softmax(x, -1).gather(1, order)
        if renormalise:
            shares = shares / shares.sum(-1, keepdim=True)
        good = torch.equal(chosen.long(), order) and bool(weights[broken].isnan().all())
        error = relative_error(weights[~broken], shares[~broken]) if good else float("inf")
        self.report("route", f"{rows} × {experts}, top {top_k} {dtype} renormalise {renormalise}", error, 1e-5)

    def experts(self, rows, hidden, inner, experts, top_k, dtype, shared):
        r = self.random
        x = self.normal(rows, hidden + 8, dtype=dtype)
        gate_up = self.normal(experts, 2 * inner, hidden, dtype=dtype, scale=hidden**-0.5)
        down = self.normal(experts, hidden, inner, dtype=dtype, scale=inner**-0.5)
        favourite = r.randrange(experts)
        chosen = torch.stack([torch.randperm(max(experts, top_k), generator=self.generator, device="cuda")[:top_k] for _ in range(rows)])
        chosen = torch.where(torch.rand(rows, top_k, generator=self.generator, device="cuda") < r.choice([0, 0.5]), favourite, chosen)
        chosen = chosen.to(torch.int32)
        if rows > 3:
            chosen[1, 0], chosen[2, top_k - 1] = -1, experts
        weights = torch.rand(rows, top_k, generator=self.generator, device="cuda")
        extra, gate = self.normal(rows, hidden, dtype=dtype), self.normal(rows, 3, dtype=dtype)
        out = torch.full((rows, hidden + 16), POISON, dtype=dtype, device="cuda")
        kind = r.choice([0, 1])
        p = up.Moe(
            dtype=up.DTYPES[dtype], activation=kind, rows=rows, hidden=hidden, inner=inner, experts=experts, top_k=top_k, input=x,
            input_stride=hidden + 8, chosen=chosen, weights=weights, gate_up=gate_up, down=down, shared=extra if shared else None,
            shared_stride=hidden, shared_gate=gate[:, 1:] if shared == "gated" else None, shared_gate_stride=3, output=out,
            output_stride=hidden + 16,
        )
        self.backend.run_experts(p)
        first = out.clone()
        y = torch.zeros(rows, hidden, dtype=torch.float64, device="cuda")
        for e in range(experts):
            row, k = (chosen == e).nonzero(as_tuple=True)
            if row.numel() == 0:
                continue
            g, u = (x[row, :hidden].double() @ gate_up[e].double().T).chunk(2, -1)
            f = torch.nn.functional
            h = (f.silu(g) if kind == 0 else f.gelu(g, approximate="tanh")) * u
            y.index_add_(0, row, weights[row, k, None].double() * (h @ down[e].double().T))
        if shared:
            y += extra.double() * (torch.sigmoid(gate[:, 1:2].double()) if shared == "gated" else 1)
        error = relative_error(out[:, :hidden], y)
        self.backend.run_experts(p)
        if not torch.equal(out, first) or not bool((out[:, hidden:] == POISON).all()):
            error = float("inf")
        # A row alone has the same bits as among the others.
        alone, i = torch.full((1, hidden), POISON, dtype=dtype, device="cuda"), r.randrange(rows)
        one_chosen, one_weights = chosen[i].clone(), weights[i].clone()
        q = up.Moe(
            dtype=up.DTYPES[dtype], activation=kind, rows=1, hidden=hidden, inner=inner, experts=experts, top_k=top_k,
            input=x[i].clone(), input_stride=hidden + 8, chosen=one_chosen, weights=one_weights, gate_up=gate_up, down=down,
            shared=extra[i].clone() if shared else None, shared_stride=hidden,
            shared_gate=gate[i, 1:] if shared == "gated" else None, shared_gate_stride=3, output=alone, output_stride=hidden,
        )
        self.backend.run_experts(q)
        if not torch.equal(alone[0], out[i, :hidden]):
            error = float("inf")
        detail = f"{rows} × {hidden} × {inner}, top {top_k} of {experts} {dtype} kind {kind} shared {shared}"
        self.report("experts", detail, error, LIMIT[dtype])

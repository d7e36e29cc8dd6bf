"""Times what the device machine's PyTorch brings, for comparison in the same call as ours.

    python3 bench/cuda/peers.py [FAMILY …] [--json FILE]

A family is a function `peers_<family>(report)`; each case is one call of `report(kernel, label, run, sets, ...)`.
"""

import argparse
import datetime
import json

import torch

L2_BYTES = torch.cuda.get_device_properties(0).L2_cache_size


class Report:
    def __init__(self):
        self.cases = []

    def __call__(self, kernel, label, run, sets, *, bytes=None, flop=None, launches=20, samples=100):
        """`run(i)` launches the kernel on input set `i`; graph replays, sets rotated, median of `samples`."""
        launches = -(-max(launches, sets) // sets) * sets
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for i in range(sets):
                run(i)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(launches):
                run(i % sets)
        for _ in range(5):
            graph.replay()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(samples + 1)]
        events[0].record()
        for event in events[1:]:
            graph.replay()
            event.record()
        torch.cuda.synchronize()
        times = sorted(a.elapsed_time(b) / launches for a, b in zip(events, events[1:]))
        ms = times[samples // 2]
        rate = {"gb_s": bytes / ms * 1e-6} if bytes else {"tflop_s": flop / ms * 1e-9} if flop else {}
        self.cases.append({"kernel": kernel, "case": label, "ms": round(ms, 6), "p5_ms": round(times[samples // 20], 6),
                           "p95_ms": round(times[-samples // 20], 6), **{k: round(v, 1) for k, v in rate.items()}})
        shown = " ".join(f"{v:9.1f} {k}" for k, v in rate.items())
        print(f"{kernel:24} {label:40} {ms * 1e3:9.2f} us {shown}", flush=True)


def rotation(bytes):
    """Input sets so that all together exceed twice L2."""
    return 2 * L2_BYTES // bytes + 2


def random_bf16(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def peers_int4(report):
    """cuBLAS in bf16 and tinygemm (PyTorch's int4 matmul, group 128)."""
    for k, n, ms in ((4096, 4096, (1, 16, 64, 512, 4096)), (4096, 14336, (1, 16, 64, 128, 512, 4096)),
                     (8192, 28672, (1, 16, 64, 512))):
        sets = rotation(2 * n * k)
        weights = [random_bf16(n, k) for _ in range(sets)]
        for m in ms:
            x, y = random_bf16(m, k), torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
            size = {"bytes": 2 * (n * k + m * (n + k))} if m <= 16 else {"flop": 2 * m * n * k}
            report("cublas bf16", f"{k}x{n} m={m}", lambda i: torch.mm(x, weights[i].t(), out=y), sets, **size)
        del weights
        sets = rotation(n * k // 2)
        q = torch.randint(0, 256, (n, k // 2), device="cuda", dtype=torch.uint8)
        packed = [torch.ops.aten._convert_weight_to_int4pack(q, 8) for _ in range(sets)]
        scales = random_bf16(k // 128, n, 2)
        for m in ms[:2]:
            x = random_bf16(m, k)
            report("tinygemm int4", f"{k}x{n} g128 m={m}",
                   lambda i: torch.ops.aten._weight_int4pack_mm(x, packed[i], 128, scales), sets,
                   bytes=n * k // 2 + n * k // 128 * 4 + 2 * m * (n + k))


def peers_matmul(report):
    """cuBLAS in bf16."""
    for m, n, k in ((4096, 4096, 4096), (8192, 8192, 8192), (512, 14336, 4096), (4096, 14336, 4096)):
        sets = rotation(2 * (m * k + n * k))
        x, w = [random_bf16(m, k) for _ in range(sets)], [random_bf16(n, k) for _ in range(sets)]
        y = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        report("cublas bf16", f"m={m} n={n} k={k}", lambda i: torch.mm(x[i], w[i].t(), out=y), sets,
               flop=2 * m * n * k, launches=4)


def peers_ssm_step(report):
    """A plain decode step of ssd in Triton (Δ and decay given): one read and one write of the f32 state."""
    try:
        import triton
        import triton.language as tl
    except ImportError as error:
        return print(f"ssm_step: no peer: {error}")

    @triton.jit
    def step(state, x, b, c, delta, decay, y, HEADS: tl.constexpr, ROWS: tl.constexpr, STATES: tl.constexpr,
             BLOCK: tl.constexpr):
        seq, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
        rows, n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, STATES)
        at = state + (tl.program_id(0) * ROWS + rows[:, None]) * STATES + n[None, :]
        dx = tl.load(delta + seq * HEADS + head) * tl.load(x + tl.program_id(0) * ROWS + rows).to(tl.float32)
        s = tl.load(at) * tl.load(decay + seq * HEADS + head)
        s += dx[:, None] * tl.load(b + seq * STATES + n).to(tl.float32)[None, :]
        tl.store(at, s)
        out = tl.sum(s * tl.load(c + seq * STATES + n).to(tl.float32)[None, :], 1)
        tl.store(y + tl.program_id(0) * ROWS + rows, out.to(tl.bfloat16))

    heads, rows, states, block = 80, 64, 128, 16
    for seqs in (1, 64, 256):
        size = 8 * seqs * heads * rows * states
        sets = rotation(size)
        state = [torch.randn(seqs, heads, rows, states, device="cuda") for _ in range(sets)]
        x, y = random_bf16(seqs, heads, rows), random_bf16(seqs, heads, rows)
        b, c = random_bf16(seqs, states), random_bf16(seqs, states)
        delta, decay = torch.rand(seqs, heads, device="cuda"), torch.rand(seqs, heads, device="cuda")
        report("triton ssd step", f"H80 P64 N128 B{seqs}",
               lambda i: step[(seqs * heads, rows // block)](state[i], x, b, c, delta, decay, y, heads, rows, states,
                                                             block, num_warps=4), sets, bytes=size)


def peers_attention_decode(report):
    """Scaled dot-product attention of PyTorch, one query a sequence: FlashAttention-2 and cuDNN. Contiguous keys."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    heads, kv_heads, dim = 32, 8, 128
    for seqs, ctx in ((1, 1024), (1, 8192), (1, 32768), (1, 131072), (16, 8192), (64, 4096)):
        size = 4 * seqs * ctx * kv_heads * dim
        sets = rotation(size)
        q = random_bf16(seqs, heads, 1, dim)
        kv = [random_bf16(2, seqs, kv_heads, ctx, dim) for _ in range(sets)]
        for name, backend in (("fa2", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            def step(i):
                with sdpa_kernel(backend):
                    torch.nn.functional.scaled_dot_product_attention(q, kv[i][0], kv[i][1], enable_gqa=True)
            try:
                step(0)
            except RuntimeError as error:
                print(f"attention_decode: no {name}: {error}")
                continue
            report(name, f"{heads}/{kv_heads} d{dim} B{seqs} ctx {ctx}", step, sets, bytes=size)
        del kv


def peers_moe(report):
    """One grouped GEMM of the three that a gated expert has (`torch._grouped_mm`), rows already sorted by expert."""
    if not hasattr(torch, "_grouped_mm"):
        return print("moe: no torch._grouped_mm")
    for experts, dim, ff, top_k in ((128, 2048, 768, 8), (64, 2048, 1408, 6), (8, 4096, 14336, 2)):
        weight = random_bf16(experts, dim, ff)
        for t in (1, 16):
            ids = torch.stack([torch.randperm(experts, device="cuda")[:top_k] for _ in range(t)]).flatten()
            counts = torch.bincount(ids, minlength=experts)
            offsets = counts.cumsum(0).to(torch.int32)
            x = random_bf16(t * top_k, dim)
            report("grouped_mm", f"E{experts} {dim}->{ff} top-{top_k} T{t}", lambda i: torch._grouped_mm(x, weight, offs=offsets),
                   1, bytes=2 * dim * ff * int((counts > 0).sum()))


def peers_moe_prefill(report):
    """One grouped GEMM of the three that a gated expert has, rows already sorted; and the whole MLP from it: gather,
    gate and up in one GEMM, silu, down, weighted sum."""
    if not hasattr(torch, "_grouped_mm"):
        return print("moe_prefill: no torch._grouped_mm")
    t = 4096
    for experts, dim, ff, top_k in ((128, 2048, 768, 8), (64, 2048, 1408, 6), (8, 4096, 14336, 2)):
        label, flop = f"E{experts} {dim}->{ff} top-{top_k} T{t}", 2 * t * top_k * dim * ff
        ids = torch.stack([torch.randperm(experts, device="cuda")[:top_k] for _ in range(t)]).flatten()
        offsets = torch.bincount(ids, minlength=experts).cumsum(0).to(torch.int32)
        rows = random_bf16(t * top_k, dim)
        gate = random_bf16(experts, ff, dim).transpose(1, 2)
        report("grouped_mm", label, lambda i: torch._grouped_mm(rows, gate, offs=offsets), 1, flop=flop, launches=4)
        del gate, rows
        x, weights = random_bf16(t, dim), torch.rand(t, top_k, 1, device="cuda", dtype=torch.bfloat16)
        gate_up = random_bf16(experts, 2 * ff, dim).transpose(1, 2)
        down = random_bf16(experts, dim, ff).transpose(1, 2)
        y = torch.empty(t, dim, device="cuda", dtype=torch.bfloat16)

        def mlp(i):
            order = ids.argsort(stable=True)
            h = torch._grouped_mm(x[order // top_k], gate_up, offs=offsets)
            h = torch.nn.functional.silu(h[:, :ff]) * h[:, ff:]
            out = torch._grouped_mm(h, down, offs=offsets)
            torch.sum(out[order.argsort()].view(t, top_k, dim) * weights, 1, out=y)

        report("grouped_mm MLP", label, mlp, 1, flop=3 * flop, launches=4)
        del gate_up, down


def peers_attention_prefill(report):
    """Scaled dot-product attention of PyTorch over whole prompts: FlashAttention-2 and cuDNN. Causal counts half."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    heads, kv_heads = 32, 8
    cases = [(128, True, s) for s in (512, 2048, 8192, 32768)] + [(128, False, s) for s in (512, 2048, 8192)]
    for dim, causal, tokens in cases + [(64, True, 2048), (64, True, 8192), (64, False, 8192)]:
        seqs = max(1, 16384 // tokens)
        sets = rotation(4 * seqs * tokens * (heads + kv_heads) * dim)
        q = [random_bf16(seqs, heads, tokens, dim) for _ in range(sets)]
        kv = [random_bf16(2, seqs, kv_heads, tokens, dim) for _ in range(sets)]
        flop = 4 * seqs * heads * tokens * tokens * dim // (2 if causal else 1)
        for name, backend in (("fa2", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            def step(i):
                with sdpa_kernel(backend):
                    torch.nn.functional.scaled_dot_product_attention(q[i], kv[i][0], kv[i][1], is_causal=causal,
                                                                     enable_gqa=True)
            try:
                step(0)
            except RuntimeError as error:
                print(f"attention_prefill: no {name}: {error}")
                continue
            report(name, f"{heads}/{kv_heads} d{dim} {'causal' if causal else 'full'} B{seqs} S{tokens}", step, sets,
                   flop=flop, launches=min(20, max(2, int(4e12 / flop))), samples=40)
        del q, kv


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*")
    parser.add_argument("--json")
    args = parser.parse_args()
    known = {name[len("peers_"):]: function for name, function in globals().items() if name.startswith("peers_")}
    report = Report()
    for family in args.families or known:
        if family in known:
            with torch.no_grad():
                known[family](report)
    if args.json:
        result = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "device": torch.cuda.get_device_name(),
                  "torch": torch.__version__, "cases": report.cases}
        with open(args.json, "w") as file:
            file.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

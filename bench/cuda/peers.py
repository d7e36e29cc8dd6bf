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

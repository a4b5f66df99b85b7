"""What the machine can do at best: the ceilings that everything else is measured by."""

import importlib.metadata
import os
import platform
import statistics
import time

import torch

N = 2048  # of the square matrices


def about(device: str) -> dict:
    """Names and versions, for whoever reads the figures later."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":")[1].strip() for line in file if "model name" in line), cpu)
    card = torch.cuda.get_device_name() if device == "cuda" else None
    peers = ("torch", "transformers", "tokenizers", "tiktoken", "gpt2lib")
    return {
        "cpu": cpu,
        "bf16": sorted(k for k, has in torch.cpu.get_capabilities().items() if has and "bf16" in k),
        "threads": torch.get_num_threads(),
        "device": card or "cpu",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in peers},
    }


def ceilings(device: str) -> dict[str, float]:
    """ "float32" and "bf16": FLOPs a second of a matrix product; "memory": bytes read a second."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(N, N, device=device, dtype=dtype) for _ in "ab")
        found[name] = 2 * N**3 / _seconds(lambda a=a, b=b: a @ b, device)
    x = torch.ones(2**27, device=device)  # 512 MiB: larger than any cache
    found["memory"] = 4 * x.numel() / _seconds(lambda: x.sum(), device)
    return found


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def _seconds(run, device: str) -> float:
    """The median of nine calls."""
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])

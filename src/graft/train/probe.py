"""Which arithmetic trains a backbone faster on this machine: a few measured steps, remembered."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.config.schema import Config
from graft.data.measured import measure_once
from graft.model.backbone import build_network
from graft.train.statistics import runs_on_gpu

#: A gain below this is not worth other numbers, and may be noise.
_WORTH_IT = 1.1

_CLASSES, _LEAST_REPEATS, _MOST_REPEATS, _SECONDS = 10, 3, 9, 3.0


def choose_precision(config: Config, *, channels: int, image_size: int, cache_root: Path) -> tuple[str, str]:
    """Return the arithmetic of a run, and how ``auto`` came to it, in words; empty without ``auto``.

    The whole backbone is measured, whatever a run freezes, and always with as many images: so all arms,
    twins and trials with one backbone compute alike.

    Args:
        config: A valid configuration.
        channels: Channels of the preprocessed images.
        image_size: Side of the preprocessed images, in px.
        cache_root: Folder of the cache, where the measurement is remembered.
    """
    if config.trainer.precision != "auto":
        return config.trainer.precision, ""
    device = torch.device("cuda" if runs_on_gpu(config.trainer) else "cpu")
    chosen = config.backbone
    options = [chosen.name, chosen.hidden_size, chosen.layers, channels, image_size]
    laid_out = config.trainer.channels_last
    same = (_name_machine(device), torch.__version__, *options, laid_out)

    def measure() -> dict[str, float]:
        return {"gain": _measure_gain(config, device, channels, image_size)}

    gain = measure_once(cache_root / "measured", "precision", same, measure)["gain"]
    precision = "bf16-mixed" if gain >= _WORTH_IT else "32"
    said = f"{chosen.name} trains {gain:.2f} times as fast with bf16-mixed here"
    if gain == 0:
        said = f"{chosen.name} cannot train with bf16-mixed here"
    return precision, f"`trainer.precision=auto` is {precision}: {said}."


def _measure_gain(config: Config, device: torch.device, channels: int, image_size: int) -> float:
    """Return how many times faster bf16 trains than float32, 0 where it does not work."""
    chosen = config.backbone
    count = 32 if image_size <= 64 or device.type == "cuda" else 8
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(
            chosen.name,
            num_classes=_CLASSES,
            image_size=image_size,
            channels=channels,
            hidden_size=chosen.hidden_size,
            layers=chosen.layers,
        )
        if config.trainer.channels_last:
            network = network.to(memory_format=torch.channels_last)
        network = network.train().to(device)
        images = torch.rand(count, channels, image_size, image_size, device=device)
        labels = torch.arange(count, device=device) % _CLASSES
        try:
            return _compare(network, images, labels)
        except RuntimeError:  # bf16 is missing for a layer, or memory
            return 0.0


def _compare(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Take steps in turn with both, so that what else the machine does meets both."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for mixed in seconds:
        _take_step(network, images, labels, mixed)  # the first one costs more than those that follow
    started = time.perf_counter()
    for repeat in range(_MOST_REPEATS):
        if repeat >= _LEAST_REPEATS and time.perf_counter() - started > _SECONDS:
            break
        for mixed, taken in seconds.items():
            taken.append(_take_step(network, images, labels, mixed))
    # The quickest of each: whatever else the machine does only ever slows a step down.
    return min(seconds[False]) / min(seconds[True])


def _take_step(network: nn.Module, images: Tensor, labels: Tensor, mixed: bool) -> float:
    """Return the seconds of one forward and backward pass."""
    started = time.perf_counter()
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=mixed):
        outputs = network(images)
        scores = outputs if isinstance(outputs, Tensor) else outputs[0]
    loss: Tensor = functional.cross_entropy(scores.float(), labels)
    torch.autograd.backward(loss)
    network.zero_grad(set_to_none=True)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started


def _name_machine(device: torch.device) -> str:
    """Return what computes: the name of the GPU, or of the processor and its instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"

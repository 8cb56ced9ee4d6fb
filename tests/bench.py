"""How fast everything is on this machine: `make bench`. Medians after warm-up; compare only within one run of one machine."""
import os
import platform
import resource
import statistics
import time

import numpy as np
import torch

from common.run import markdown
from common.scenes import Scenes
from tests import bench_metrics
from turn.config import TINY
from turn.data import Steps, domains
from turn.losses import losses
from turn.model import Turn
from turn.train import parameter_groups, tokenizer_of


def per_second(make, count=200) -> float:
    """Median over five rounds of how many samples are made in a second."""
    rates = []
    for r in range(5):
        start = time.perf_counter()
        for i in range(count):
            make(r * count + i)
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


def turn_step(device, steps=25, warmup=5) -> tuple[float, float]:
    """Median seconds of a training step of TURN's tiny preset, and of making its batch."""
    config = TINY
    source, intermediate = domains(config.__class__(scenes=256, sounds=128, held_out=8), "train")
    tokenizer = tokenizer_of(config, source, intermediate)
    batches = Steps(source, intermediate, tokenizer, config)
    model = Turn(config, tokenizer).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(model, config), config.lr)
    step_s, data_s = [], []
    for s in range(steps + warmup):
        start = time.perf_counter()
        batch = {k: v.to(device) for k, v in batches[s].items()}
        made = time.perf_counter()
        loss = losses(model(batch), batch, config)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
        step_s.append(time.perf_counter() - made)
        data_s.append(made - start)
    return statistics.median(step_s[warmup:]), statistics.median(data_s[warmup:])


def main():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}\n")
    scenes = Scenes(0)
    rows = [["scenes: pairs of 96 px and 1 s, one core", f"{per_second(scenes.pair):.0f} a second"],
            ["scenes: phrases with pictures", f"{per_second(scenes.grounding):.0f} a second"],
            ["scenes: captioned sounds", f"{per_second(scenes.caption):.0f} a second"]]
    step_s, data_s = turn_step(device)
    rows += [["turn, tiny: training step", f"{1000 * step_s:.0f} ms, {TINY.batch_size / (step_s + data_s):.0f} source samples a second"],
             ["turn, tiny: its batch", f"{1000 * data_s:.0f} ms, {100 * data_s / (step_s + data_s):.0f} % of the time"],
             ["peak memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"]]
    print(markdown(rows, ["what", "median"]) + "\n")
    bench_metrics.main(["--samples", "1024"])


if __name__ == "__main__":
    main()

"""How fast everything is on this machine: `make bench`.

Medians after warm-up; compare only within one run of one machine.
"""

import os
import platform
import resource
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from common.training import Parser
from common.training import markdown_table
from common.scenes import Scenes
from tests import bench_metrics

RESNET18 = {
    "image_size": 224,
    "blocks": (2, 2, 2, 2),
    "width": 64,
    "last_stride": 2,
    "audio": "vggish",
    "audio_width": 64,
    "C": 256,
}


def per_second(make, count=200) -> float:
    """Median over five rounds of how many samples are made in a second."""
    rates = []
    for r in range(5):
        start = time.perf_counter()
        for i in range(count):
            make(r * count + i)
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


def turn(device):
    """TURN's tiny preset: batch size, batches, optimizer, and a function batch → loss."""
    from turn import config, data, domains, model, train
    from turn.backbones.tokenizer import WordPiece

    settings = config.TINY
    both = domains.load_domains(replace(settings, scenes=256, sounds=128, held_out=8), "train")
    tokenizer = WordPiece.from_texts(both[0].all_texts() + both[1].all_texts())
    net = model.Turn(settings, tokenizer).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(train.parameter_groups(net, settings), settings.lr)
    batches = data.TrainingBatches(*both, tokenizer, settings)
    return (
        settings.batch_size,
        batches,
        optimizer,
        lambda batch: train.loss_terms(net(batch), batch, settings)["loss"],
    )


def sslalign(device):
    """sslalign's, with all nine pairs."""
    from common.benchmarks import pairs
    from sslalign import config, data, model, train

    settings = replace(config.TINY, scenes=256, easy=0)
    net = model.Sslalign(settings).to(device, memory_format=torch.channels_last)
    batches = data.TrainingBatches(pairs.ScenePairs(0, settings.scenes, settings), settings)
    batches.neighbours = 2 * [np.arange(settings.scenes)[:, None].repeat(settings.k, 1)]

    def loss(batch):
        return train.loss_terms(*net(batch["images"], batch["waveforms"]), settings)["loss"]

    return settings.batch_size, batches, torch.optim.Adam(net.parameters(), settings.lr), loss


def avkd(device):
    """avkd's, with both teachers' hints."""
    from avkd import config, data, model, teachers, train
    from common.benchmarks import pairs

    settings = replace(config.TINY, scenes=256)
    net = model.Avkd(settings).to(device, memory_format=torch.channels_last)
    e_v, e_a = (
        np.random.default_rng(0).random(shape, np.float32).astype(np.float16)
        for shape in (teachers.hint_shape(settings, name, 256) for name in ("e_v", "e_a"))
    )
    batches = data.TrainingBatches(
        pairs.ScenePairs(0, settings.scenes, settings), settings, e_v, e_a
    )
    return (
        settings.batch_size,
        batches,
        torch.optim.Adam(net.parameters(), settings.lr),
        lambda batch: train.loss_terms(
            *net(batch["images"], batch["waveforms"]), batch["e_v"], batch["e_a"], settings
        )["loss"],
    )


def stmnet(device):
    """stmnet's; a sample is a clip of four frames."""
    from stmnet import config, data, losses, model

    settings = replace(config.TINY, scenes=64)
    source = data.SceneClips(0, settings.scenes, settings)
    net = model.Stmnet(settings, len(source.classes)).to(device, memory_format=torch.channels_last)

    def loss(batch):
        logits = net(batch["frames"], batch["segments"]).logits
        return losses.event_loss(logits, batch["labels"], of_clip=False).mean()

    optimizer = torch.optim.Adam(net.parameters(), settings.lr)
    return settings.batch_size, data.TrainingBatches(source, settings), optimizer, loss


def live(device, **changes) -> float:
    """Frames a second of stmnet's stream, one by one, with a model of random weights."""
    import io

    from common.io import append_jsonl
    from stmnet import config, evaluate, localize, model
    from stmnet.backbones.vggish import AudioStream

    settings = replace(config.TINY, **changes)
    classes = [str(k) for k in range(13)]
    net = model.Stmnet(settings, len(classes)).to(device)
    predictor = evaluate.Predictor(net, settings, device, classes)
    shape = settings.image_size, settings.image_size
    frames = np.random.default_rng(0).integers(0, 256, (40, *shape, 3), np.uint8)
    audio = np.random.default_rng(1).integers(-3000, 3000, 16000 * 10).astype("<i2").tobytes()
    for count in (8, 40):  # the first time to warm up
        start, out = time.perf_counter(), io.StringIO()
        stream = AudioStream(io.BytesIO(audio), settings.samples)
        frames_file = io.BytesIO(frames[:count].tobytes())
        blocks = localize.blocks_of_stream(frames_file, stream, *shape, 4.0)
        for *_, record in localize.localize(predictor, blocks, 4.0):
            append_jsonl(out, record)
    return 40 / (time.perf_counter() - start)


def step(batches, optimizer, loss, device, steps=25, warmup=5) -> tuple[float, float]:
    """Median seconds of a training step, and of making its batch."""
    step_s, data_s = [], []
    for s in range(steps + warmup):
        start = time.perf_counter()
        batch = {k: v.to(device) for k, v in batches[s % batches.steps_per_epoch].items()}
        made = time.perf_counter()
        value = loss(batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        value.item()
        step_s.append(time.perf_counter() - made)
        data_s.append(made - start)
    return statistics.median(step_s[warmup:]), statistics.median(data_s[warmup:])


def main(argv=None):
    Parser(prog="python -m tests.bench", description=__doc__.splitlines()[0]).parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    print(
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, numpy {np.__version__}\n"
    )
    scenes = Scenes(0)
    rows = [
        ["scenes: pairs of 96 px and 1 s, one core", f"{per_second(scenes.pair):.0f} a second"],
        ["scenes: phrases with images", f"{per_second(scenes.grounding):.0f} a second"],
        ["scenes: captioned audio", f"{per_second(scenes.caption):.0f} a second"],
    ]
    for method in (turn, sslalign, avkd, stmnet):
        size, batches, *parts = method(device)
        step_s, data_s = step(batches, *parts, device)
        rows += [
            [
                f"{method.__name__}, tiny: training step",
                f"{1000 * step_s:.0f} ms, {size / (step_s + data_s):.0f} samples a second",
            ],
            [
                f"{method.__name__}, tiny: its batch",
                f"{1000 * data_s:.0f} ms, {100 * data_s / (step_s + data_s):.0f} % of the time",
            ],
        ]
    rows += [
        ["stmnet, tiny: live, a frame after the other", f"{live(device):.0f} frames a second"],
        [
            "stmnet, ResNet-18 and VGGish at 224 px: live",
            f"{live(device, **RESNET18):.0f} frames a second",
        ],
    ]
    rows += [["peak memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"]]
    print(markdown_table(rows, ["what", "median"]) + "\n")
    bench_metrics.main(["--samples", "1024"])


if __name__ == "__main__":
    main()

"""Train sslalign: `python -m sslalign.train` on scenes, `--preset paper --root DIR` as in 4.1.3.

It reads image–audio pairs, but no label and no box.
"""
import zlib
from dataclasses import replace

import torch

from common import metrics
from common.benchmarks.pairs import cropped_waveform, training_pairs
from common.evaluation import FileTestSet
from common.training import (Run, autocast, cli, configure, cosine_schedule, dist, progress_bar,
                             training_steps)

from .backbones.views import test_view
from .config import PRESETS
from .data import TrainingBatches
from .evaluate import evaluate_best
from .losses import contrast, losses, s_L
from .model import Sslalign
from .neighbors import load_neighbours, scene_neighbours

BATCH = 64  # of a validation


@torch.no_grad()
def validate(model, held_out, config, device) -> dict:
    """Eq. (2) with s_L over all held-out pairs, by which best.pt is chosen, and their retrieval."""
    model.eval()
    rows, v_bar, a = list(dist.split(len(held_out.ids))), [], []
    for start in progress_bar(range(0, len(rows), BATCH), name="validation"):
        batch = rows[start:start + BATCH]
        images = torch.stack([test_view(held_out.image(i), config.image_size) for i in batch])
        waveforms = torch.stack([cropped_waveform(held_out.waveform(i), config) for i in batch])
        v_bar.append(model.image_features(model.encode_image(images.to(device))).mean.cpu())
        a.append(model.encode_audio(waveforms.to(device)).float().cpu())
    v_bar, a = (dist.merge_rows(x, len(held_out.ids)) for x in (v_bar, a))  # (N, c) each
    loss = contrast(s_L(v_bar, a), 1, 1, config.tau).mean().item()
    recall = metrics.retrieval(v_bar, a, k=(10,))
    return {"validation/score": -loss,
            "validation/i2a_r@10": recall["forward"][10],
            "validation/a2i_r@10": recall["backward"][10]}


def loss_terms(image, audio, config) -> dict:
    """The terms of Eq. (5) and their sum `loss`: this process's part of them.

    Eq. (5) compares each sample with all of the batch, so those of other processes too."""
    def gather(x):  # (P, B, d) of this process → (P, B, d) of all
        return dist.gather_rows(x.transpose(0, 1)).transpose(0, 1)

    features = image.mean, audio.a, image.projected, audio.projected
    terms = losses(*map(gather, features), config)
    return {name: dist.mean(loss) for name, loss in terms.items()}


def train(config) -> dict:
    run = Run("sslalign", config)
    source, held_out = training_pairs(config)
    benchmarks = [FileTestSet(config, *pair)
                  for pair in zip(config.benchmark, config.benchmark_root)]
    for test_set in benchmarks:
        test_set.prefix = f"{test_set.name}/" * (len(benchmarks) > 1)
    batches = TrainingBatches(source, config)
    weights = {} if not config.resume else {"vision_weights": ""}  # in last.pt
    model = dist.sync_batchnorm(Sslalign(replace(config, **weights)))
    model = model.to(run.device, memory_format=torch.channels_last)
    has_semantic = config.semantic_image or config.semantic_audio
    if has_semantic and config.sampling != "anchor":
        if config.neighbours == "encoders":
            sources = [source]
            if config.semantic_from < batches.easy_epochs:
                sources.append(batches.easy_source)
            batches.neighbours = {x: scene_neighbours(x, config, run.device) for x in sources}
        else:
            batches.neighbours = {source: load_neighbours(config.neighbours, source.ids, config.k)}

    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    run.start({"model": model, "optimizer": optimizer},
              {"pairs": zlib.crc32("\n".join(source.ids).encode())})
    forward = torch.compile(model) if config.compile else model
    if not run.is_validated:
        run.keep_best(validate(model, held_out, config, run.device))
        run.end_step(True)

    for batch in training_steps(run, batches):
        model.train()
        rate = 1.0
        if config.schedule == "cosine":
            rate = cosine_schedule(run.step, batches.total_steps, batches.steps_per_epoch // 2)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        with autocast(run):
            image, audio = forward(batch["images"], batch["waveforms"])
        terms = loss_terms(image, audio, config)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        dist.sum_gradients(model.parameters())
        optimizer.step()
        run.step += 1
        run.log(terms, lr=config.lr * rate)
        is_last = run.step == batches.total_steps
        if is_last or run.step % (config.validate_every * batches.steps_per_epoch) == 0:
            run.start_validation()
            run.keep_best(validate(model, held_out, config, run.device))
        run.end_step(run.step % batches.steps_per_epoch == 0 or is_last)
    return evaluate_best(run, benchmarks)


def main(argv=None):
    with cli("python -m sslalign.train"):
        train(configure("sslalign", PRESETS, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()

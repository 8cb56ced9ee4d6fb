"""Train stmnet: `python -m stmnet.train` on embedded scenes, `--preset paper --root AVE` as in the paper.

It learns from seconds of videos and what sounds in them: no box is read, neither in the loop nor for the choice of best.pt.
"""
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.training import dist
from common.io import InputError
from common.training import Run, autocast, cli, configure, cosine_schedule, progress_bar

from . import small
from .clips import clips
from .config import PRESETS
from .data import Steps, clip, stack
from .encoders import Stmnet
from .evaluate import finish
from .losses import losses
from .videos import FileVideos


@torch.no_grad()
def validate(model, held_out, config, device) -> dict:
    """The score by which best.pt is chosen, from a fixed second of every held-out video and its label: the mean cross-entropy over
    steps; and the share of steps whose label is found."""
    model.eval()
    own, found = list(dist.split(len(held_out.ids))), []
    for i in progress_bar(range(0, len(own), 16), name="validation"):
        batch = stack([clip(held_out, j, replace(config, augment=False), np.random.default_rng([22, j])) for j in own[i:i + 16]])
        batch = {k: v.to(device) for k, v in batch.items()}
        logits, labels = model(batch["frames"], batch["segments"]).logits.float(), batch["labels"]  # (B, T, classes), (B, T)
        loss = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)
        found.append(torch.stack([loss, (logits.argmax(-1) == labels).float().mean(1)], 1))
    loss, accuracy = dist.merge_rows(found, len(held_out.ids)).mean(0).tolist()
    return {"validation/score": -loss, "validation/accuracy": accuracy}


def train(config) -> dict:
    run = Run("stmnet", config)
    source, held_out = clips(config)
    benchmark = FileVideos(config, config.benchmark, config.benchmark_root) if config.benchmark else None
    if config.proposals and not Path(config.proposals).is_file():  # read at the end, missed now
        raise InputError(config.proposals, "no such file")
    steps = Steps(source, config)

    weights = {} if not config.resume else {"vision_weights": "", "audio_weights": ""}  # a checkpoint holds them
    model = dist.sync_batchnorm(Stmnet(replace(config, **weights), len(source.classes)))
    model = model.to(run.device, memory_format=torch.channels_last)
    if config.encoders == "frozen" and not config.resume:
        small.begin(model, config, run.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, config.lr, fused=True)
    run.start({"model": model, "optimizer": optimizer},
              {"videos": zlib.crc32("\n".join(source.ids).encode()), "classes": source.classes})
    forward = torch.compile(model) if config.compile else model

    bar = progress_bar(total=steps.total, name="training", initial=run.step)
    before = time.perf_counter()
    for batch in steps.loader(run.step, steps.total):
        fetched = time.perf_counter()
        model.train()
        batch = {k: v.to(run.device, non_blocking=True) for k, v in batch.items()}
        rate = cosine_schedule(run.step, steps.total, steps.per_epoch // 2) if config.schedule == "cosine" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        with autocast(run):
            logits = forward(batch["frames"], batch["segments"]).logits
        terms = losses(logits, batch["labels"], config.batch_size)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        dist.sum_gradients(parameters)
        optimizer.step()
        run.step += 1
        now = time.perf_counter()
        run.log(terms, lr=config.lr * rate, data_s=round(fetched - before, 4), step_s=round(now - fetched, 4))
        before = now
        bar.update()
        ended = run.step % steps.per_epoch == 0 or run.step == steps.total
        if ended and (run.step == steps.total or run.step // steps.per_epoch % config.validate_every == 0):
            report = validate(model, held_out, config, run.device)
            run.log_metrics(report)
            if report["validation/score"] > run.best:
                run.best, run.extra["report"] = report["validation/score"], report
                run.save("best.pt")
                del run.extra["report"]  # of best.pt alone: last.pt is the same whether the run was continued or not
        run.end_step(ended)
    bar.close()
    return finish(run, benchmark)


def main(argv=None):
    with cli("python -m stmnet.train"):
        train(configure("stmnet", PRESETS, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()

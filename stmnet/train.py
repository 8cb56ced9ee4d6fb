"""Train stmnet: `python -m stmnet.train` on scenes, `--preset paper --root AVE` as in the paper.

It reads seconds of videos and the category of what sounds in them, but no box.
"""
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from common.io import InputError
from common.training import (Run, autocast, cli, configure, cosine_schedule, dist, progress_bar,
                             training_steps)

from .backbones import small
from .config import PRESETS
from .data import VALIDATION_CLIP, TrainingBatches, load_clip, training_clips
from .evaluate import evaluate_best
from .losses import event_accuracy, event_loss
from .model import Stmnet
from .test_sets import FileVideos


@torch.no_grad()
def validate(model, held_out, config, device) -> dict:
    """Loss and accuracy of a fixed second of each held-out video; best.pt has the least loss."""
    model.eval()
    config, rows, scores = replace(config, augment=False), list(dist.split(len(held_out.ids))), []
    for i in progress_bar(range(0, len(rows), 16), name="validation"):
        rngs = {j: np.random.default_rng([VALIDATION_CLIP, j]) for j in rows[i:i + 16]}
        batch = default_collate([load_clip(held_out, j, config, rng) for j, rng in rngs.items()])
        batch = {k: v.to(device) for k, v in batch.items()}
        logits = model(batch["frames"], batch["segments"]).logits  # (B, T, classes)
        terms = logits, batch["labels"], not config.background
        scores.append(torch.stack([event_loss(*terms), event_accuracy(*terms)], 1))
    loss, accuracy = dist.merge_rows(scores, len(held_out.ids)).mean(0).tolist()
    return {"validation/score": -loss, "validation/accuracy": accuracy}


def train(config) -> dict:
    run = Run("stmnet", config)
    source, held_out = training_clips(config)
    benchmark = config.benchmark and FileVideos(config, config.benchmark, config.benchmark_root)
    if config.proposals and not Path(config.proposals).is_file():  # read at the end, missed now
        raise InputError(config.proposals, "no such file")
    batches = TrainingBatches(source, config)

    weights = {} if not config.resume else {"vision_weights": "", "audio_weights": ""}  # in last.pt
    model = dist.sync_batchnorm(Stmnet(replace(config, **weights), len(source.classes)))
    model = model.to(run.device, memory_format=torch.channels_last)
    if config.data == "scenes" and not config.resume:
        small.load_encoders(model, config, run.device)
    new = [*model.space_time.parameters()]
    encoders = [p for e in (model.visual_encoder, model.audio_encoder) for p in e.parameters()
                if p.requires_grad]
    parameters, groups = [*new, *encoders], [{"params": new, "rate": config.lr}]
    groups += [{"params": encoders, "rate": config.lr_encoders}] if encoders else []
    optimizer = torch.optim.Adam(groups, config.lr, fused=True)
    run.start({"model": model, "optimizer": optimizer},
              {"videos": zlib.crc32("\n".join(source.ids).encode()), "classes": source.classes})
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
            group["lr"] = group["rate"] * rate
        with autocast(run):
            logits = forward(batch["frames"], batch["segments"]).logits
        outcome = logits, batch["labels"], not config.background
        terms = {"loss": dist.mean(event_loss(*outcome)),
                 "accuracy": dist.mean(event_accuracy(*outcome))}
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        dist.sum_gradients(parameters)
        optimizer.step()
        run.step += 1
        run.log(terms, lr=config.lr * rate)
        is_last = run.step == batches.total_steps
        if is_last or run.step % (config.validate_every * batches.steps_per_epoch) == 0:
            run.start_validation()
            run.keep_best(validate(model, held_out, config, run.device))
        run.end_step(run.step % batches.steps_per_epoch == 0 or is_last)
    return evaluate_best(run, benchmark)


def main(argv=None):
    with cli("python -m stmnet.train"):
        train(configure("stmnet", PRESETS, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()

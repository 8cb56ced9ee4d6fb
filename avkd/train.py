"""Train avkd: `python -m avkd.train` on scenes, `--preset paper --root DIR --hints DIR` as in 3.6.

It reads image–audio pairs and the teachers' hints on them, but no label and no box.
"""
import sys
import zlib
from dataclasses import replace

import torch

from common.benchmarks.pairs import cropped_waveform, training_pairs
from common.io import load_published
from common.training import (Run, autocast, cli, configure, cosine_schedule, dist, progress_bar,
                             training_steps)

from .backbones import small
from .backbones.views import test_view
from .config import PRESETS, SMALL
from .data import TrainingBatches
from .evaluate import evaluate_best, load_test_sets
from .losses import L_a, L_S, L_total, L_v, L_v_attention, similarity
from .model import Avkd, resnet
from .repeats import train_repeatedly
from .teachers import hint_cosines, training_hints


@torch.no_grad()
def validate(model, held_out, config, device) -> dict:
    """Eq. (1) over all held-out pairs, by which best.pt is chosen, and how often it finds them."""
    model.eval()
    rows, f_v, f_a = list(dist.split(len(held_out.ids))), [], []
    for start in progress_bar(range(0, len(rows), 64), name="validation"):
        batch = rows[start:start + 64]
        images = torch.stack([test_view(held_out.image(i), config.image_size) for i in batch])
        waveforms = torch.stack([cropped_waveform(held_out.waveform(i), config) for i in batch])
        f_v.append(model.encode_image(images.to(device)))
        f_a.append(model.encode_audio(waveforms.to(device)).cpu())
    f_a = dist.merge_rows(f_a, len(held_out.ids)).to(device)
    S = [similarity(x, f_a, config.chunk).cpu() for x in f_v]
    S = dist.merge_rows(S, len(held_out.ids))  # (N, N)
    is_found = S.argmax(1) == torch.arange(len(S))
    return {"validation/score": -L_S(S, config.tau).mean().item(),
            "validation/i2a_r@1": is_found.float().mean().item()}


def loss_terms(f_v, f_a, e_v, e_a, config) -> dict:
    """The weighted terms of L_total and their sum `loss`: this process's part of them.

    Each process computes the maps of its own images with all audio, and so its rows of S; all take
    part in Eq. (1). e_v, e_a: hints, or None without that teacher."""
    S = dist.gather_rows(similarity(f_v, dist.gather_rows(f_a), config.chunk))  # (k, k)
    terms = {"contrast": dist.mean(L_S(S, config.tau))}
    if e_a is not None:
        terms["audio_hint"] = dist.mean(L_a(f_a, e_a))
    if e_v is not None:  # NaN: without a confident query
        has_hint, e_v = e_v.isfinite().flatten(1).all(1), e_v.nan_to_num()
        is_attention = config.visual_hint == "attention"
        loss = L_v_attention(f_v, e_v) if is_attention else L_v(f_v, e_v, config.visual_norm)
        terms["visual_hint"] = dist.mean(loss, has_hint)
    return L_total(terms, config)


def start_vision(model, config, device) -> None:
    """Start F_v from --vision-weights, or say that it starts from scratch."""
    if config.vision_weights == SMALL and config.data == "scenes":
        net = dist.main_process_first(lambda: small.make_network("objects", config, device))
        model.start_vision(net.body.state_dict())
    elif config.vision_weights not in ("", SMALL):
        published = resnet(replace(config, last_stride=2))
        model.start_vision(load_published(published, config.vision_weights).state_dict())
    elif config.data != "scenes" and dist.rank() == 0:
        print("warning: F_v starts from scratch, in the authors' code from ImageNet's weights: "
              "--vision-weights names resnet18-f37072fd.pth", file=sys.stderr)


def train(config) -> dict:
    run = Run("avkd", config)
    source, held_out = training_pairs(config)
    benchmarks = load_test_sets(config) if config.benchmark else []  # faults show at once
    batches = TrainingBatches(source, config)

    model = dist.sync_batchnorm(Avkd(config))
    if not config.resume:  # then it is in last.pt
        start_vision(model, config, run.device)
    model = model.to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    batches.e_v, batches.e_a = training_hints(config, source, run.device)
    cosines = hint_cosines(batches.e_v, batches.e_a, source) if config.data == "scenes" else {}
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
            f_v, f_a = forward(batch["images"], batch["waveforms"])
        terms = loss_terms(f_v, f_a, batch.get("e_v"), batch.get("e_a"), config)
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
    return evaluate_best(run, benchmarks, cosines)


def main(argv=None):
    with cli("python -m avkd.train"):
        config = configure("avkd", PRESETS, __doc__.splitlines()[0], argv)
        train(config) if config.repeats == 1 else train_repeatedly(train, config)


if __name__ == "__main__":
    main()

"""Train sslalign: `python -m sslalign.train` on embedded scenes, `--preset paper --data vggsound --root DIR` as in the paper.

No label and no box is read: what is learned comes from pairs of a picture and a sound alone.
"""
import time
import zlib
from dataclasses import replace

import torch
from torch import nn

from common import metrics
from common.training import dist
from common.io import InputError
from common.training import Run, autocast, cli, configure, cosine_schedule, progress_bar, step_loader

from . import neighbors
from .config import PRESETS
from .data import TrainingBatches
from .evaluate import evaluate_best
from .losses import losses, s_L
from .model import AudioFeatures, ImageFeatures, Sslalign
from common.benchmarks.pairs import cropped_waveform, training_pairs
from common.evaluation.test_sets import FileTestSet
from .backbones.views import test_view


class Mined(nn.Module):
    """The neighbours that the model's own features gave at the beginning of an epoch: checkpoints carry them."""

    def __init__(self, count: int, k: int):
        super().__init__()
        self.register_buffer("image", torch.zeros(count, k, dtype=torch.int32))
        self.register_buffer("audio", torch.zeros(count, k, dtype=torch.int32))

    def arrays(self):
        return self.image.cpu().numpy(), self.audio.cpu().numpy()


@torch.no_grad()
def features(model, source, config, device, name: str):
    """All pairs of a source as they are in evaluation → model.ImageFeatures and model.AudioFeatures of them, on the CPU, in every process."""
    model.eval()
    own, parts = list(dist.split(len(source.ids))), [[] for _ in (*ImageFeatures._fields, *AudioFeatures._fields)]
    for i in progress_bar(range(0, len(own), 64), name=name):
        rows = own[i:i + 64]
        seen = model.image_features(model.encode_image(torch.stack([test_view(source.image(j), config.image_size) for j in rows]).to(device)))
        played = model.audio_features(model.encode_audio(torch.stack([cropped_waveform(source.waveform(j), config) for j in rows]).to(device)))
        for part, x in zip(parts, (*seen, *played)):
            part.append(x.float().cpu())
    parts = [dist.merge_rows(part, len(source.ids)) for part in parts]
    return ImageFeatures(*parts[:3]), AudioFeatures(*parts[3:])


def mine(model, source, mined, config, device) -> None:
    """Semantically similar samples by the model itself: the k nearest in each modality, from the features as they are now; from
    the projected ones, which know more of the meaning (4.4), unless nothing trains the projections. With --sampling anchor each
    sample is its own neighbour."""
    if config.sampling == "anchor":
        mined.image.copy_(torch.arange(len(mined.image))[:, None])
        mined.audio.copy_(torch.arange(len(mined.audio))[:, None])
        return
    seen, played = features(model, source, config, device, "mining neighbours")
    v, a = (seen.projected, played.projected) if config.align or config.intra else (seen.pooled, played.a)
    mined.image.copy_(neighbors.own(v, mined.image.shape[1]))
    mined.audio.copy_(neighbors.own(a, mined.audio.shape[1]))


def validate(model, held_out, config, device) -> dict:
    """The score by which best.pt is chosen, from held-out pairs without a label: how well pictures tell their sounds apart
    (Eq. (2) with s_L over all of them), and retrieval beside it."""
    seen, played = features(model, held_out, config, device, "validation")
    S = s_L(seen.mean, played.a)
    loss = torch.nn.functional.cross_entropy(S / config.tau, torch.arange(len(S))).item()
    recall = metrics.retrieval(seen.mean, played.a, k=(10,))
    return {"validation/score": -loss, "validation/i2a_r@10": recall["forward"][10], "validation/a2i_r@10": recall["backward"][10]}


def train(config) -> dict:
    run = Run("sslalign", config)
    source, held_out = training_pairs(config)
    steps = TrainingBatches(source, config)
    semantic = config.semantic_image or config.semantic_audio
    own = semantic and config.neighbours == "own"
    mined = Mined(len(source.ids) if own else 0, min(config.k, len(source.ids) - 1))
    if semantic and not own:
        steps.neighbours = neighbors.load(config.neighbours, source.ids)
        if (found := min(part.shape[1] for part in steps.neighbours)) < config.k:
            raise InputError(config.neighbours, f"holds {found} neighbours of each sample, --k asks for {config.k}")
    benchmark = FileTestSet(config, config.benchmark, config.benchmark_root) if config.benchmark else None

    weights = "" if config.resume else config.vision_weights  # a checkpoint holds them
    model = dist.sync_batchnorm(Sslalign(replace(config, vision_weights=weights)))
    model = model.to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)  # 4.1.3
    run.start({"model": model, "optimizer": optimizer, "mined": mined}, {"pairs": zlib.crc32("\n".join(source.ids).encode())})
    mine_from = steps.easy + config.mine_from
    if own and mine_from * steps.steps_per_epoch >= steps.total_steps and run.is_main:
        print(f"no semantic positives: the training ends before --easy and --mine-from, {mine_from} epochs, are over")
    forward = torch.compile(model) if config.compile else model

    bar = progress_bar(total=steps.total_steps, name="training", initial=run.step)
    before = time.perf_counter()
    while run.step < steps.total_steps:
        epoch, done = divmod(run.step, steps.steps_per_epoch)
        if own and epoch >= mine_from:  # what an untrained network finds similar means nothing
            if not done:
                mine(model, source, mined, config, run.device)
            steps.neighbours = mined.arrays()
        for batch in step_loader(steps, run.step, min((epoch + 1) * steps.steps_per_epoch, steps.total_steps), config.workers):
            fetched = time.perf_counter()
            model.train()
            batch = {k: v.to(run.device, non_blocking=True) for k, v in batch.items()}
            rate = cosine_schedule(run.step, steps.total_steps, steps.steps_per_epoch // 2) if config.schedule == "cosine" else 1.0
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate
            with autocast(run):
                seen, played = forward(batch["images"], batch["waveforms"])
            terms = losses(seen, played, len(batch["images"]), len(batch["waveforms"]), config)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            dist.sum_gradients(model.parameters())
            optimizer.step()
            run.step += 1
            now = time.perf_counter()
            run.log(terms, lr=config.lr * rate, data_s=round(fetched - before, 4), step_s=round(now - fetched, 4))
            before = now
            bar.update()
            ended = run.step % steps.steps_per_epoch == 0 or run.step == steps.total_steps
            if ended and (run.step == steps.total_steps or run.step // steps.steps_per_epoch % config.validate_every == 0):
                report = validate(model, held_out, config, run.device)
                run.log_metrics(report)
                if report["validation/score"] > run.best:
                    run.best, run.extra["report"] = report["validation/score"], report
                    run.save("best.pt")
                    del run.extra["report"]  # last.pt is the same whether the run was continued or not
            run.end_step(ended)
    bar.close()
    return evaluate_best(run, benchmark)


def main(argv=None):
    with cli("python -m sslalign.train"):
        train(configure("sslalign", PRESETS, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()

"""Train TURN: `python -m turn.train` on embedded scenes, `--preset paper --data refcocog+clotho --root DIR` as in the paper.

No sample that the loop sees holds a picture and a sound together: localization is learned from pictures with phrases,
and what a sound means from captions (zero-resource, section 3.1).
"""
import time
from dataclasses import replace

import torch
from torch import nn

from common.training import dist
from common.training import Run, autocast, cli, configure, cosine_schedule, progress_bar

from .config import PRESETS
from .data import Steps, domains
from .evaluate import TestFiles, finish, validate
from .losses import losses
from .model import Turn
from .sampling import adaptive_weights
from .tokenizer import WordPiece


def tokenizer_of(config, source, intermediate) -> WordPiece:
    """The vocabulary file that is named, or the words of the training texts."""
    if config.vocabulary:
        return WordPiece.from_file(config.vocabulary)
    return WordPiece.from_texts(t for domain in (source, intermediate) for item in domain.texts for t in item)


def parameter_groups(model, config) -> list:
    """The DETR at its own rate (frozen at 0); no weight decay for norms and biases."""
    detr = {id(p) for p in model.localization.detr.parameters()}
    if not config.visual_lr_scale:
        model.localization.detr.requires_grad_(False)
    groups = []
    for scale, inside in ((1.0, False), (config.visual_lr_scale, True)):
        chosen = [p for p in model.parameters() if p.requires_grad and (id(p) in detr) == inside]
        for decay, matrices in ((config.weight_decay, True), (0.0, False)):
            groups.append({"params": [p for p in chosen if (p.dim() > 1) == matrices], "weight_decay": decay, "scale": scale})
    return [g for g in groups if g["params"]]


class Usage(nn.Module):
    """How often each code was chosen in the epoch; collapse of a codebook is the first thing to go wrong."""

    def __init__(self, config):
        super().__init__()
        self.register_buffer("counts", torch.zeros(config.groups, config.codes // config.groups))

    def report(self) -> dict:
        """Perplexity of each book, and the share of its codes that were chosen at all."""
        perplexity = torch.special.entr(self.counts / self.counts.sum(1, keepdim=True)).sum(1).exp().tolist()
        active = (self.counts > 0).float().mean(1).tolist()
        return {f"codebook/{name}_{i}": value for name, values in (("perplexity", perplexity), ("active", active))
                for i, value in enumerate(values)}


def train(config) -> dict:
    run = Run("turn", config)
    source, intermediate = domains(config, "train")
    tokenizer = tokenizer_of(config, source, intermediate)
    steps = Steps(source, intermediate, tokenizer, config)
    held_out = domains(config, "validation")
    dev = TestFiles(config, "flickr", config.dev_root) if config.select == "flickr" else None
    benchmark = TestFiles(config, config.benchmark, config.benchmark_root) if config.benchmark else None

    weights = "" if config.resume else config.detr_weights  # a checkpoint holds them
    model = dist.sync_batchnorm(Turn(replace(config, detr_weights=weights), tokenizer)).to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(model, config), config.lr, fused=True)
    used = Usage(config).to(run.device)
    run.start({"model": model, "optimizer": optimizer, "usage": used}, {"tokens": tokenizer.tokens})
    if config.adaptive:
        steps.weights = adaptive_weights(source, intermediate, tokenizer, config, run)
    forward = torch.compile(model) if config.compile else model

    bar = progress_bar(total=steps.total, name="training", initial=run.step)
    before = time.perf_counter()
    for batch in steps.loader(run.step):
        fetched = time.perf_counter()
        model.train()
        if not config.visual_lr_scale:
            model.localization.detr.eval()  # frozen: its dropout and running statistics too
        batch = {k: v.to(run.device, non_blocking=True) for k, v in batch.items()}
        rate = cosine_schedule(run.step, steps.total, round(config.warmup_epochs * steps.per_epoch))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate * group["scale"]
        with autocast(run):
            output = forward(batch)
        terms = losses(output, batch, config)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        dist.sum_gradients(model.parameters())
        if config.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        used.counts += output.info["counts"]
        run.step += 1
        now = time.perf_counter()
        run.log(terms, lr=config.lr * rate, data_s=round(fetched - before, 4), step_s=round(now - fetched, 4))
        before = now
        bar.update()
        ended = run.step % steps.per_epoch == 0 or run.step == steps.total
        if ended:
            report = used.report()
            if run.step == steps.total or run.step // steps.per_epoch % config.validate_every == 0:
                report |= validate(model, tokenizer, held_out, dev, config, run.device)
            run.log_metrics(report)
            if report.get("validation/score", run.best) > run.best:
                run.best, run.extra["report"] = report["validation/score"], report
                run.save("best.pt")
                del run.extra["report"]  # last.pt is the same whether the run was continued or not
            used.counts.zero_()
        run.end_step(ended)
    bar.close()
    return finish(run, benchmark)


def main(argv=None):
    with cli("python -m turn.train"):
        train(configure("turn", PRESETS, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()

"""Train avkd: `python -m avkd.train` on embedded scenes, `--preset paper --root DIR --hints DIR` as in the paper.

The students learn from pairs of a picture and a sound and from the teachers' hints on them: no label and no box is read.
"""
import json
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.training import dist
from common.training import as_dict, fields_free_on_resume
from common.io import InputError, read_json, write_json
from common.training import Run, autocast, cli, configure, cosine_schedule, markdown_table, progress_bar, step_loader

from .config import PRESETS
from .data import TrainingBatches
from .evaluate import evaluate_best
from .losses import losses, similarity
from .model import Avkd
from common.benchmarks.pairs import cropped_waveform, training_pairs
from common.evaluation.test_sets import FileTestSet
from .teachers import hints
from .backbones.views import test_view


@torch.no_grad()
def validate(model, held_out, config, device) -> dict:
    """The score by which best.pt is chosen, from held-out pairs without a label or a teacher: Eq. (1) over all of them, and how often a
    picture's greatest similarity is with its own sound."""
    model.eval()
    own, f_v, f_a = list(dist.split(len(held_out.ids))), [], []
    for i in progress_bar(range(0, len(own), 64), name="validation"):
        rows = own[i:i + 64]
        f_v.append(model.encode_image(torch.stack([test_view(held_out.image(j), config.image_size) for j in rows]).to(device)))
        f_a.append(model.encode_audio(torch.stack([cropped_waveform(held_out.waveform(j), config) for j in rows]).to(device)).cpu())
    f_a = dist.merge_rows(f_a, len(held_out.ids)).to(device)
    S = dist.merge_rows([similarity(x, f_a, config.chunk).T.cpu() for x in f_v], len(held_out.ids)) / config.tau  # a row for each picture
    target = torch.arange(len(S))
    loss = F.cross_entropy(S, target) + F.cross_entropy(S.T, target)
    return {"validation/score": -loss.item(), "validation/i2a_r@1": (S.argmax(1) == target).float().mean().item()}


def train(config) -> dict:
    run = Run("avkd", config)
    source, held_out = training_pairs(config)
    benchmark = FileTestSet(config, config.benchmark, config.benchmark_root) if config.benchmark else None
    steps = TrainingBatches(source, config)

    weights = "" if config.resume else config.vision_weights  # a checkpoint holds them
    model = dist.sync_batchnorm(Avkd(replace(config, vision_weights=weights)))
    model = model.to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    steps.e_v, steps.e_a = hints(config, source, run.device)
    run.start({"model": model, "optimizer": optimizer}, {"pairs": zlib.crc32("\n".join(source.ids).encode())})
    forward = torch.compile(model) if config.compile else model

    bar = progress_bar(total=steps.total_steps, name="training", initial=run.step)
    before = time.perf_counter()
    for batch in step_loader(steps, run.step, steps.total_steps, config.workers):
        fetched = time.perf_counter()
        model.train()
        batch = {k: v.to(run.device, non_blocking=True) for k, v in batch.items()}
        rate = cosine_schedule(run.step, steps.total_steps, steps.steps_per_epoch // 2) if config.schedule == "cosine" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        with autocast(run):
            f_v, f_a = forward(batch["images"], batch["waveforms"])
        terms = losses(f_v, f_a, batch.get("e_v"), batch.get("e_a"), config)
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


def repeat(config) -> None:
    """Table 1's "10 training and testing runs": trainings NAME-SEED, with a table of means and deviations, also in NAME.json. One that
    has ended is not run again, one that was killed is continued. Raises InputError where a folder is of another configuration."""
    if config.resume:
        raise InputError("--resume", "not with --repeats: the same command, with its --name, continues what was interrupted")
    name, found = config.name or time.strftime("%Y%m%d-%H%M%S"), []
    for seed in range(config.seed, config.seed + config.repeats):
        one = replace(config, seed=seed, name=f"{name}-{seed}", repeats=1)
        folder = Path(config.out) / "avkd" / one.name
        if (folder / "config.json").is_file():
            saved, ours = read_json(folder / "config.json"), json.loads(json.dumps(as_dict(one)))
            if odd := [k for k in ours if k not in fields_free_on_resume(type(one)) and saved.get(k) != ours[k]]:
                raise InputError(folder, f"is of another configuration ({', '.join(odd[:6])}): take another --name")
        if (folder / "metrics.json").is_file():
            found.append(read_json(folder / "metrics.json"))
        else:
            found.append(train(replace(one, resume=(folder / "last.pt").is_file())))
    if dist.rank() == 0:
        both = {k: [f[k] for f in found] for k in found[0] if all(type(f.get(k)) in (int, float) for f in found)}
        both = {k: {"mean": float(np.mean(x)), "std": float(np.std(x, ddof=1)) if len(x) > 1 else 0.0} for k, x in both.items()}
        write_json(Path(config.out) / "avkd" / f"{name}.json", {"repeats": len(found), **both})
        rows = [[k, f"{100 * x['mean']:.1f} ± {100 * x['std']:.1f}"] for k, x in both.items() if k.startswith(("avc/", "og"))]
        print(markdown_table(rows, ["", f"mean ± std of {len(found)} trainings, %"]))


def main(argv=None):
    with cli("python -m avkd.train"):
        config = configure("avkd", PRESETS, __doc__.splitlines()[0], argv)
        train(config) if config.repeats == 1 else repeat(config)


if __name__ == "__main__":
    main()

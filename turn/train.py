"""Train TURN: `python -m turn.train` on embedded scenes, `--preset paper --root DIR` as in 4.1."""
from dataclasses import replace

import torch

from common.training import Run, autocast, cli, configure, cosine_schedule, dist, training_steps

from . import losses
from .backbones import small
from .backbones.tokenizer import WordPiece
from .config import PRESETS
from .data import TrainingBatches
from .domains import load_domains
from .evaluate import evaluate_best, validate
from .model import Turn
from .sampling import adaptive_weights
from .test_sets import file_test_set, load_test_sets


def parameter_groups(model, config) -> list:
    """The DETR has its own rate, and is frozen at 0; norms and biases have no weight decay."""
    detr = {id(p) for p in model.localization.detr.parameters()}
    if not config.visual_lr_scale:
        model.localization.detr.requires_grad_(False)
    groups = []
    for scale, is_detr in ((1.0, False), (config.visual_lr_scale, True)):
        part = [p for p in model.parameters() if p.requires_grad and (id(p) in detr) == is_detr]
        for decay, is_matrix in ((config.weight_decay, True), (0.0, False)):
            groups.append({"params": [p for p in part if (p.dim() > 1) == is_matrix],
                           "weight_decay": decay, "scale": scale})
    return [group for group in groups if group["params"]]


def loss_terms(output, batch, config) -> dict:
    """The terms of Eqs. (6) and (10), and their weighted sum `loss`: this process's part of them.

    Eq. (7) compares all captions with all audio of the batch, so those of other processes too."""
    t, a, box = dist.gather_rows(output["t"]), dist.gather_rows(output["a"]), output["box"]
    terms = {"reg": dist.mean(losses.box_regression(box, batch["box"])),
             "iou": dist.mean(losses.box_overlap(box, batch["box"])),
             "code": sum(map(dist.mean, output["code_losses"])),  # of phrases, captions, audio
             "contra": dist.mean(losses.contrast(t, a, config.tau)),
             "recon_text": box.new_zeros(()), "recon_audio": box.new_zeros(())}
    for domain in "sm":
        if (words := output[f"words_{domain}"]) is not None:
            loss = losses.text_reconstruction(words, batch[f"tokens_{domain}"])
            loss = dist.mean(loss, batch[f"text_mask_{domain}"])
            terms["recon_text"] = terms["recon_text"] + loss
    if output["audio"] is not None:
        loss = losses.audio_reconstruction(output["audio"], batch["logmel"])
        terms["recon_audio"] = dist.mean(loss, batch["audio_mask"])
    return {"loss": losses.total(terms, config), **terms}


def train(config) -> dict:
    run = Run("turn", config)
    source, intermediate = load_domains(config, "train")
    tokenizer = (WordPiece.from_file(config.vocabulary) if config.vocabulary else
                 WordPiece.from_texts(source.all_texts() + intermediate.all_texts()))
    batches = TrainingBatches(source, intermediate, tokenizer, config)
    held_out = (file_test_set(config, "flickr", config.dev_root, config.dev_list)
                if config.select == "flickr" else load_domains(config, "validation"))
    benchmarks = load_test_sets(config, config.benchmark, config.benchmark_root, config.list)

    detr_weights = "" if config.resume else config.detr_weights  # a checkpoint holds them
    model = dist.sync_batchnorm(Turn(replace(config, detr_weights=detr_weights), tokenizer))
    model = model.to(run.device, memory_format=torch.channels_last)
    if config.data == "scenes" and config.detr == "narrow" and not config.resume:
        small.load_detr(model, config, run.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, config), config.lr, fused=True)
    run.start({"model": model, "optimizer": optimizer}, {"tokens": tokenizer.tokens})
    if config.adaptive:
        batches.sampling_weights = adaptive_weights(source, intermediate, tokenizer, config, run)
    forward = torch.compile(model) if config.compile else model
    if not run.is_validated:
        run.keep_best(validate(model, tokenizer, held_out, config, run.device))
        run.end_step(True)

    warmup = round(config.warmup_epochs * batches.steps_per_epoch)
    for batch in training_steps(run, batches):
        model.train()
        if not config.visual_lr_scale:
            model.localization.detr.eval()  # frozen: its dropout and running statistics too
        rate = cosine_schedule(run.step, batches.total_steps, warmup)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate * group["scale"]
        with autocast(run):
            output = forward(batch)
        terms = loss_terms(output, batch, config)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        dist.sum_gradients(model.parameters())
        if config.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        run.step += 1
        run.log(terms, lr=config.lr * rate)
        is_last = run.step == batches.total_steps
        if is_last or run.step % (config.validate_every * batches.steps_per_epoch) == 0:
            run.start_validation()
            run.keep_best(validate(model, tokenizer, held_out, config, run.device))
        run.end_step(run.step % batches.steps_per_epoch == 0 or is_last)
    return evaluate_best(run, benchmarks)


def main(argv=None):
    with cli("python -m turn.train"):
        train(configure("turn", PRESETS, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()

"""TURN's evaluation: the boxes of audio, text and controls against the annotated ones (4.1).

`python -m turn.evaluate --checkpoint runs/turn/NAME/best.pt --data scenes|BENCHMARK --root DIR`
"""
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common import evaluation, metrics
from common.evaluation import Evaluation, page
from common.evaluation.scoring import batches
from common.evaluation.tables import Table
from common.io import overlay
from common.training import (best_checkpoint, building, cli, dist, from_dict, load_checkpoint,
                             progress_bar, select_device)

from .backbones.frontend import logmel_of
from .backbones.tokenizer import WordPiece
from .backbones.views import test_view
from .codebook import report_agreement
from .config import PRESETS
from .losses import corners
from .model import Turn
from .test_sets import SIZE, BoxTestSet, load_test_sets

QUERIES = {  # what stands for q, in the order of tables and figures
    "audio": "audio (with query)", "text": "phrase", "random": "random vector (without query)",
    "shuffled": "control: shuffled audio", "silent": "control: silent audio",
    "centre": "baseline: centre", "whole": "baseline: whole image"}
METRICS = {"ciou@0.5": ("cIoU@0.5", metrics.success_rate), "auc": ("AUC", metrics.auc),
           "miou": ("mean IoU", metrics.mean)}


class Predictor:
    """A model with its tokenizer: queries and images → boxes. `report` is of its validation."""

    def __init__(self, model, tokenizer, config, device, report=None):
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        self.device, self.report = device, report or {}

    @torch.no_grad()
    def encode_text(self, phrases):
        """n phrases → q (n, d)."""
        tokens = self.tokenizer.encode(phrases, self.config.text_length)
        return self.model.query(tokens=tokens.to(self.device))

    @torch.no_grad()
    def encode_audio(self, logmels):
        """(n, L_m, c) → q (n, d)."""
        return self.model.query(logmel=logmels.to(self.device))

    @torch.no_grad()
    def predict(self, images, *queries):
        """n images (H, W, 3) uint8, Q times q (n, d) → boxes (Q, n, 4), x0, y0, x1, y1 in [0, 1].

        Only images of one shape are in one batch, so that no box depends on the other images."""
        views = [test_view(x, self.config.image_size, self.config.centre_crop) for x in images]
        stream, boxes = self.model.localization, torch.empty(len(queries), len(images), 4)
        for shape in {image.shape for image, _, _ in views}:
            rows = [i for i, view in enumerate(views) if view[0].shape == shape]
            batch = torch.stack([views[i][0] for i in rows]).to(self.device)
            embedded = stream.embed(batch)  # once for all queries
            for k, q in enumerate(queries):
                boxes[k, rows] = stream.locate(*embedded, q[rows].to(self.device)).cpu()
        whole = [view.to_image(boxes[:, i]) for i, (_, _, view) in enumerate(views)]
        boxes = corners(torch.stack(whole, 1))
        if not boxes.isfinite().all():
            raise metrics.NotFinite("boxes: values that are not finite")
        return boxes.clamp(0, 1)


def encode_queries(predictor, test) -> dict:
    """The query conditions of all samples: {kind: q (N, d)} of QUERIES, without the baselines."""
    audio, text, config, n = [], [], predictor.config, len(test.samples)
    for rows in progress_bar(batches(dist.split(n)), name=f"encoding queries, {test.name}"):
        samples = [test.samples[i] for i in rows]
        audio.append(predictor.encode_audio(torch.stack([logmel_of(test.waveform(s), config)
                                                         for s in samples])))
        if test.phrase:
            text.append(predictor.encode_text([test.phrase(s) for s in samples]))
    audio = dist.merge_rows(audio, n)
    silence = logmel_of(torch.zeros(1, round(config.seconds * config.sample_rate)), config)
    return {"audio": audio, **({"text": dist.merge_rows(text, n)} if test.phrase else {}),
            "random": predictor.model.random_query(n, torch.Generator().manual_seed(0)),
            "shuffled": audio.roll(n // 2, 0),  # neighbours in a list may be of one video
            "silent": predictor.encode_audio(silence).cpu().expand(n, -1)}


def score_samples(predictor, test, queries: dict) -> dict:
    """cIoU of all samples, Eq. (14) of section 4.1, of the queries and the baselines: {kind: (N,)}.

        m̄ = min(Σⱼ mⱼ / c, 1) in gt_map,   cIoU = IoU(m̄, m̂) in metrics.ciou,   m̂ the box's mask
    """
    scores, n = {kind: [] for kind in (*queries, "centre", "whole")}, len(test.samples)
    for rows in progress_bar(batches(dist.split(n)), name=f"predicting, {test.name}"):
        samples = [test.samples[i] for i in rows]
        gt = np.stack([test.gt_map(s) for s in samples])  # (n, SIZE, SIZE)
        boxes = predictor.predict([test.image(s) for s in samples],
                                  *(q[rows] for q in queries.values()))
        values = metrics.baseline_values(gt)
        for kind, predicted in zip(queries, boxes):
            masks = metrics.boxes_to_map(predicted[:, None].numpy() * SIZE, SIZE)
            values[kind] = metrics.ciou(masks, gt)
        for kind in scores:
            scores[kind].append(torch.as_tensor(values[kind]))
    return {kind: dist.merge_rows(parts, n).numpy() for kind, parts in scores.items()}


def evaluate(predictor, test_sets: dict) -> Evaluation:
    """{prefix of metrics: test set} → metrics, scores of each sample, sheets of one set, tables."""
    result = Evaluation()
    for prefix, test in test_sets.items():
        queries = encode_queries(predictor, test)
        scores = score_samples(predictor, test, queries)
        for kind, ciou in scores.items():
            result.metrics |= {f"{prefix}{kind}/{key}": f(ciou) for key, (_, f) in METRICS.items()}
        result.metrics[f"{prefix}samples"] = len(test.samples)
        if dist.rank() == 0:
            result.samples[test.name] = [{"id": test.ids[i], **{k: x[i] for k, x in scores.items()}}
                                         for i in np.argsort(-scores["audio"], kind="stable")]
            result.galleries.append(gallery(predictor, test, queries, scores))
    for s in (sample for first in result.galleries[:1] for sample in first.samples):
        result.sheets.setdefault(s.group.replace("first", "samples"), []).append(s)
    result.sheets = {name: contact_sheet(samples) for name, samples in result.sheets.items()}
    tables = [results_table(result.metrics, test_sets)] if test_sets else []
    result.tables = [t for t in (*tables, codes_table(predictor.report)) if t.rows]
    result.texts += map(str, result.tables)
    return result


def results_table(values: dict, test_sets: dict) -> Table:
    """A row for each kind of query, columns of all test sets."""
    columns = {f"{test.name}: {heading}": f"{prefix}{{}}/{key}"
               for prefix, test in test_sets.items() for key, (heading, _) in METRICS.items()}
    rows = [{"name": name, "values": {column: [100 * values[key.format(kind)]]
                                      for column, key in columns.items()
                                      if key.format(kind) in values}}
            for kind, name in QUERIES.items()]
    n = dict.fromkeys(len(test.samples) for test in test_sets.values())
    return Table(f"TURN, N = {', '.join(map(str, n))}, %", list(columns),
                 [row for row in rows if row["values"]], values["samples"])


def codes_table(report: dict) -> Table:
    """The codes of held-out pairs in the validation that chose the checkpoint: report_agreement."""
    rows = [{"name": key, "values": {"codes": [x]} if "in_use" in key or "perplexity" in key
             else {"%": [100 * x]}} for key, x in report.items() if key.startswith("codebook/")]
    return Table("Codes of held-out captions, phrases and audio", ["%", "codes"], rows, 0)


def gallery(predictor, test, queries: dict, scores: dict) -> page.Gallery:
    """The first, the best and the worst samples, with the box of each kind of query."""
    n, rate, samples = len(test.samples), predictor.config.sample_rate, []
    for i, group in page.pick(scores["audio"], np.ones(n, bool), evaluation.SHEET_ROWS).items():
        s, shuffled = test.samples[i], test.samples[(i - n // 2) % n]
        image, gt, own = test.image(s), torch.as_tensor(test.gt_map(s))[None], test.waveform(s)
        waveforms = {"audio": own, "shuffled": test.waveform(shuffled), "silent": 0 * own}
        boxes = predictor.predict([image], *(q[[i]] for q in queries.values()))  # (Q, 1, 4)
        clips = [page.Clip(QUERIES[kind], waveforms.get(kind), rate, boxes=[box], gt=gt,
                           facts={"cIoU": scores[kind][i]}) for kind, box in zip(queries, boxes)]
        name = test.phrase(s) if test.phrase else test.ids[i]
        samples.append(page.Sample(name, [image], clips, group))
    return page.Gallery(test.name, samples, SIZE)


def contact_sheet(samples) -> dict:
    """A column for each sample of a gallery, a row for each kind of query."""
    return {"rows": [[overlay(s.frames[0], boxes=clip.boxes[0], gt=clip.gt[0] > 0,
                              size=evaluation.TILE) for s, clip in zip(samples, row)]
                     for row in zip(*(s.clips for s in samples))],
            "columns": [s.name for s in samples],
            "captions": [clip.name for clip in samples[0].clips],
            "legend": "cyan: the predicted box; lime: the ground truth"}


@torch.no_grad()
def validate(model, tokenizer, held_out, config, device) -> dict:
    """The score that chooses best.pt (A.2.3). held_out: both domains, for grounding by text and
    retrieval of audio by text; or Flickr-SoundNet, for the AUC of localization by audio."""
    predictor = Predictor(model, tokenizer, config, device)
    if isinstance(held_out, BoxTestSet):
        audio = {"audio": encode_queries(predictor, held_out)["audio"]}
        return {"validation/score": metrics.auc(score_samples(predictor, held_out, audio)["audio"])}
    (source, intermediate), align, ious, p, t, a = held_out, model.alignment, [], [], [], []
    for rows in batches(dist.split(len(source))):
        images, gt = zip(*(source[i] for i in rows))
        tokens = tokenizer.encode([source.texts[i][0] for i in rows], config.text_length)
        p.append(align.encode_text(tokens.to(device)))
        q = align.quantise(p[-1])[0][0]
        gt = corners(torch.from_numpy(np.stack(gt)))
        ious.append(metrics.box_iou(predictor.predict(images, q)[0], gt))
    for rows in batches(dist.split(len(intermediate))):
        tokens = tokenizer.encode([intermediate.texts[i][0] for i in rows], config.text_length)
        t.append(align.encode_text(tokens.to(device), "caption"))
        logmels = torch.stack([intermediate[i] for i in rows])
        a.append(align.encode_audio(logmels.to(device)))
    t, a = (dist.merge_rows(parts, len(intermediate)) for parts in (t, a))
    report = report_agreement(align.codebook, dist.merge_rows(p, len(source)), t, a,
                              intermediate.labels)
    grounding = metrics.success_rate(dist.merge_rows(ious, len(source)))
    retrieval = metrics.retrieval(t, a, k=(10,))["forward"][10]
    return {**report, "validation/text_ciou@0.5": grounding, "validation/t2a_r@10": retrieval,
            "validation/score": (grounding + retrieval) / 2}


def load_predictor(path, device) -> Predictor:
    """The model of a checkpoint. Raises InputError."""
    checkpoint = load_checkpoint(path, "turn")
    with building(path):
        config = from_dict(PRESETS, checkpoint["config"])
        tokenizer = WordPiece(checkpoint["tokens"])
        model = Turn(replace(config, detr_weights=""), tokenizer)
        model.load_state_dict(checkpoint["model"])
    return Predictor(model.to(device), tokenizer, config, device, checkpoint.get("report"))


def evaluate_best(run, benchmarks) -> dict:
    """The end of a training: best.pt on benchmarks {prefix: test set}, or on scenes."""
    run.end_training()
    if not benchmarks and run.config.data == "scenes":
        benchmarks = load_test_sets(run.config, ["scenes"])
    dist.gather_objects(None)  # best.pt is written
    predictor = load_predictor(run.folder / "best.pt", run.device)
    result = evaluate(predictor, benchmarks)
    return result.finish(run, predictor.report)


def main(argv=None):
    parser = evaluation.evaluation_parser("turn", __doc__.splitlines()[0], None)
    parser.add_argument("--list", dest="ids", help="the same as --ids, as the training calls it")
    args = evaluation.parse_flags(parser, argv)
    with cli(parser.prog):
        device = select_device(args.device)
        dist.start(device)
        path = best_checkpoint("turn", args.checkpoint)
        predictor = load_predictor(path, device)
        config = evaluation.with_objects(predictor.config, args)
        result = evaluate(predictor, load_test_sets(config, [args.data], [args.root], [args.ids]))
        result.write(Path(args.out or path.parent), args, config, predictor.report)


if __name__ == "__main__":
    main()

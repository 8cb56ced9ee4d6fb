"""stmnet's evaluation (4.2, 4.3), of a checkpoint: every annotated frame of every video.

`python -m stmnet.evaluate --checkpoint runs/stmnet/NAME/best.pt --data scenes|BENCHMARK --root DIR`
"""
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from common import metrics
from common.training import dist
from common.training import Parser, from_dict, fields_free_on_resume
from common.io import InputError, contact_sheet, inside, write_image, write_json
from common.training import best_checkpoint, cli, select_device, load_checkpoint, markdown_table, progress_bar

from .backbones import faster_rcnn
from common.evaluation.boxes import boxes_from_maps
from .clips import BACKGROUND
from .config import BOX_MAPS, PRESETS, Config
from .encoders import Stmnet
from .memory import EMPTY
from .score import SIZE, enlarged, floors, grounded, iou_of_boxes, stability, summary, truth_of, values
from .sheets import SHOWN, rows_of, sheet
from .videos import sets_of
from .backbones.views import test_view

BESIDE = {"shuffled": "control/shuffled_", "silent": "control/silent_", "centre": "floor/centre_", "whole": "floor/whole_"}
OF_BOXES = {"confidence": float, "instances": int, "nms": float, "grounded": int}  # settings that evaluate and localize can change
WORDS = {"ciou_mean": "cIoU", "ciou@0.5": "share with cIoU@0.5", "iou@0.5": "IoU@0.5"}


class Predictor:
    """A model: frames and segments of sound → maps, boxes and classes. `report` is of its validation."""

    def __init__(self, model, config, device, classes, report=None):
        self.model, self.config, self.device, self.classes, self.report = model.eval(), config, device, classes, report or {}
        self.detector = None
        if config.proposals:
            self.detector = faster_rcnn.load(faster_rcnn.faster_rcnn_r50_fpn(), config.proposals).to(device).eval()

    @torch.no_grad()
    def look(self, frames):
        """T pictures (H, W, 3) uint8 → features_v (1, T, channels, h, w)."""
        return self.model.visual(torch.stack([test_view(f, self.config.image_size) for f in frames]).to(self.device))[None]

    @torch.no_grad()
    def answer(self, features_v, segments, past=EMPTY):
        """features_v of T steps, segments (T, samples) → {"attention", "scores"} (T, h, w), said (T,) numbers of classes, confidence
        (T,), shown (T,) bool, all on the CPU, and the memory.

        shown: frames that are not background, by its class or, without one, by config.confidence.
        """
        *now, past = self.model.space_time(features_v, self.model.auditory(segments.to(self.device))[None], past)
        logits, alpha, scores = (x[0].float().cpu() for x in now)
        confidence, said = logits.softmax(-1).max(-1)
        shown = said != self.classes.index(BACKGROUND) if BACKGROUND in self.classes else confidence >= self.config.confidence
        return {"attention": alpha, "scores": scores}, said, confidence, shown, past

    def names(self, said, shown) -> list:
        return [self.classes[k] if there else BACKGROUND for k, there in zip(said.tolist(), shown.tolist())]

    def boxes(self, frames, maps, shown) -> list:
        """T of (n, 5), in [0, 1] with a score: components of config.box_map or, with a detector, its proposals; none for background."""
        if self.detector:
            return self.proposed(frames, maps["attention"], shown)
        found = boxes_from_maps(enlarged(maps[self.config.box_map]))
        return [b if there else b[:0] for b, there in zip(found, shown.tolist())]

    def proposed(self, frames, alpha, shown) -> list:
        """Object proposals of T frames, scored by alpha (T, h, w): T of (n, 5) in [0, 1], see score.grounded."""
        whole = metrics.resize(alpha, SIZE)
        whole = whole / whole.sum((1, 2), keepdim=True)
        found = []
        for frame, own, there in zip(frames, whole, shown.tolist()):
            if not there:
                found.append(torch.zeros(0, 5))
                continue
            image = torch.from_numpy(frame).to(self.device).permute(2, 0, 1) / 255
            boxes = self.detector.proposals([image], self.config.instances)[0]["boxes"].cpu()
            found.append(grounded(boxes / torch.tensor(image.shape[2:0:-1]).repeat(2), own, self.config))
        return found


def measure(predictor, test, folder=None) -> tuple[dict, list]:
    """Every frame of a set, by as many processes as there are → {(column, name): (N,)} in order of the videos, in every process, and what
    `sheet` shows of the first videos. folder: where every video gets a contact sheet of its own, or None."""
    parts, firsts = {}, {}
    own_map, count = predictor.config.box_map, len(test.ids)
    for i in progress_bar(list(dist.split(count)), name=test.name):
        video = test.video(i)
        features_v, truth = predictor.look(video.frames), truth_of(video.boxes)
        maps, said, _, shown, _ = predictor.answer(features_v, video.segments)
        found = {kind: values(enlarged(x), truth, shown, video.times) for kind, x in maps.items()}
        boxes = found[own_map]["boxes"]
        if predictor.detector:
            boxes = predictor.proposed(video.frames, maps["attention"], shown)
            found["proposals"] = {"iou": iou_of_boxes(boxes, truth)}
        instead = {"silent": torch.zeros_like(video.segments)}
        if count > 1:
            instead["shuffled"] = exchanged(test, i, len(video.segments))
        for kind, segments in instead.items():
            other, _, _, seen, _ = predictor.answer(features_v, segments)
            found[kind] = values(enlarged(other[own_map]), truth, seen, video.times)
        found |= floors(truth)
        names = predictor.names(said, shown)
        known = [x in (*predictor.classes, BACKGROUND) for x in video.labels]
        found["truth"] = {"stability": stability(truth > 0, truth, video.times), "there": truth.flatten(1).any(1)}
        found["class"] = {"right": torch.tensor([a == b for a, b in zip(names, video.labels)]),
                          "known": torch.tensor(known), "silent": torch.from_numpy(video.silent),
                          "sounds": torch.tensor([x != BACKGROUND for x in video.labels])}
        parts[i] = {(c, name): np.asarray(x) for c, named in found.items() for name, x in named.items() if name != "boxes"}
        parts[i]["class", "label"] = np.array(video.labels)
        if i < SHOWN or folder:
            page = rows_of(video, maps[own_map], boxes, names)
            if folder:
                write_image(inside(folder, f"{test.ids[i]}.png"), contact_sheet(**sheet([page])))
            if i < SHOWN:
                firsts[i] = page
    parts, firsts = ({i: part for own in dist.gather_objects(found) for i, part in own.items()} for found in (parts, firsts))
    merged = {key: np.concatenate([parts[i][key] for i in range(count)]) for key in parts[0]}
    return merged, [firsts[i] for i in sorted(firsts)]


def exchanged(test, i, steps):
    """What is heard in the video half the list away, repeated or cut to as many steps."""
    segments = test.video((i + len(test.ids) // 2) % len(test.ids)).segments
    return segments[torch.arange(steps) % len(segments)]


def results(merged, config, group="") -> tuple[dict, dict]:
    """Flat metrics of a set, and its columns for the table {heading: {name: fraction}}. Localization is over frames with boxes."""
    there = merged["truth", "there"]
    columns = {}
    for column in (*BOX_MAPS, "proposals", *BESIDE):
        named = {name: x[there] for (c, name), x in merged.items() if c == column}
        if named and there.any():
            columns[column] = summary(named)
    prefixes = {"attention": "attention/", "scores": "scores/", "proposals": "proposals/", **BESIDE}
    flat = {prefixes[c] + name: x for c, named in columns.items() for name, x in named.items()}
    flat |= {f"frames/{name}": x for name, x in columns.get(config.box_map, {}).items()} | {"frames/n": int(there.sum())}
    truths = merged["truth", "stability"]
    if not np.isnan(truths).all():
        flat["truth/stability"] = metrics.mean(truths)  # what a perfect map would have
    right, sounds, silent = (merged["class", name].astype(bool) for name in ("right", "sounds", "silent"))
    kinds = {"events/accuracy": sounds & merged["class", "known"], "silence/accuracy": silent, "silence/accuracy_with_edges": ~sounds}
    for name, rows in kinds.items():
        flat[f"{name.replace('/accuracy', '/n')}"] = int(rows.sum())
        if rows.any():
            flat[name] = float(right[rows].mean())
    for label in sorted(set(merged["class", "label"][there])):
        rows = there & (merged["class", "label"] == label)
        flat[f"class/{label}/iou@0.5"] = metrics.success_rate(merged[config.box_map, "iou"][rows])
        flat[f"class/{label}/n"] = int(rows.sum())
    return {group + renamed(group, name): x for name, x in flat.items()}, columns


def renamed(group, name):
    """In a set with a group of its own frames/ is left out: turns/pointing; the others' slashes stay."""
    return name.removeprefix("frames/") if group else name


def report(test, columns, flat, config) -> str:
    """The table of a set, and a line on its classes."""
    group = test.group
    rows = [[WORDS.get(name, name), *(f"{100 * columns[c][name]:.1f}" if name in columns[c] else "–" for c in columns)]
            for name in columns.get(config.box_map, {})]
    frames = flat[group + renamed(group, "frames/n")]
    head = [f"{test.name}, {len(test.ids)} videos, N = {frames} frames with boxes",
            f"{test.listed} listed" if test.listed else f"{config.blurred:.0%} out of focus",
            f"K = {config.K_evaluated}, memory {config.memory}",
            f"boxes and controls of {config.box_map}, τ = 0.5, %"]
    lines = [f"{name}: {100 * flat[f'{group}{key}']:.1f} % of {flat[group + key.replace('/accuracy', '/n')]} frames"
             for name, key in (("sounding class found", "events/accuracy"), ("silence found", "silence/accuracy"),
                               ("  with frames at whose edges something sounds", "silence/accuracy_with_edges"))
             if f"{group}{key}" in flat]
    if f"{group}truth/stability" in flat:
        lines.append(f"stability of the truth itself: {100 * flat[f'{group}truth/stability']:.1f}")
    return "\n".join(["", ", ".join(filter(None, head)), markdown_table(rows, ["", *columns]), *lines])


def evaluate(predictor, sets, folder=None) -> tuple[dict, dict]:
    """All sets: flat metrics, and contact sheets by name. Prints a table for each set. folder: see `measure`."""
    found, pages = {}, {}
    predictor.model.space_time.memory.K = predictor.config.K_evaluated
    for test in sets:
        merged, first = measure(predictor, test, folder)
        flat, columns = results(merged, predictor.config, test.group)
        found |= flat
        if dist.rank() == 0:
            print(report(test, columns, flat, predictor.config))
            pages[test.group.rstrip("/") or "samples"] = sheet(first)
    settings = ("K_evaluated", "box_map", "blurred", "objects")
    return {**found, "samples": len(sets[0].ids), **{name: getattr(predictor.config, name) for name in settings}}, pages


def load(path, device, **changes) -> Predictor:
    """The model of a checkpoint, its configuration changed in what nothing was trained for (K, boxes). Raises InputError."""
    checkpoint = load_checkpoint(path, "stmnet")
    try:
        config = replace(from_dict(PRESETS, checkpoint["config"]), **changes)
        model = Stmnet(replace(config, vision_weights="", audio_weights=""), len(checkpoint["classes"]))
        model.load_state_dict(checkpoint["model"])
        classes, report = [str(name) for name in checkpoint["classes"]], dict(checkpoint.get("report", {}))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(path, " ".join(str(error).split())[:300]) from None
    model = model.to(device, memory_format=torch.channels_last)
    return Predictor(model, config, device, classes, report)


def finish(run, benchmark) -> dict:
    """The end of a training: evaluate best.pt on the benchmark (a FileVideos, or None) or on scenes; metrics.json and sheets."""
    run.end_training()
    scenes = run.config.data == "scenes" and not benchmark
    sets = sets_of(run.config, "scenes", "") if scenes else [benchmark] if benchmark else []
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    changes = {name: getattr(run.config, name) for name in fields_free_on_resume(type(run.config)) - {"device"}}  # since best.pt was written
    predictor = load(run.folder / "best.pt", run.device, **changes)
    result, pages = evaluate(predictor, sets) if sets else ({}, {})
    for name, page in pages.items():  # of the main process alone
        write_image(run.folder / f"{name}.png", contact_sheet(**page))
    return run.write_metrics({**result, **predictor.report})


def add_flags(parser):
    """The flags that evaluate and localize share: which checkpoint, and what no training depends on."""
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--K", type=int, default=None, help="past steps in memory [the training's --K-evaluated; of localize: its --K]")
    parser.add_argument("--box-map", default=None, choices=BOX_MAPS, help="what boxes are of [the training's]")
    parser.add_argument("--proposals", default=None, metavar="FILE", help="published Faster R-CNN, whose proposals the map scores")
    parser.add_argument("--area-normalised", action="store_true", default=None, help="divide their scores by their areas")
    for name, kind in OF_BOXES.items():
        text = next(f.metadata["help"] for f in fields(Config) if f.name == name)
        parser.add_argument(f"--{name}", type=kind, default=None, help=f"{text} [the training's]")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")


def changes_of(args, parser) -> dict:
    names = ("K", "box_map", "proposals", "area_normalised", *OF_BOXES)
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in ("K", *OF_BOXES):
        if not found.get(name, 0) >= 0:
            parser.error(f"--{name} must not be negative")
    return found


def main(argv=None):
    prog = "python -m stmnet.evaluate"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    add_flags(parser)
    parser.add_argument("--data", default="scenes", help="scenes, ave-boxes or audioset-instrument")
    parser.add_argument("--root", default="", help="folder of the benchmark")
    parser.add_argument("--blurred", type=float, default=None, help="share of their frames that are out of focus [the training's]")
    parser.add_argument("--objects", default=None, metavar="DIR", help="folder of which scenes are composed [that of the training]")
    parser.add_argument("--out", default="", help="folder for metrics-DATA.json and pictures [the checkpoint's]")
    parser.add_argument("--sheets", action="store_true", help="a contact sheet of every video too, in the folder sheets-DATA")
    args = parser.parse_args(argv)
    if not args.data:
        parser.error("--data must name scenes or a benchmark")
    if not 0 <= (args.blurred or 0) <= 1:
        parser.error("--blurred is between 0 and 1")
    changes = changes_of(args, parser) | {k: getattr(args, k) for k in ("blurred", "objects") if getattr(args, k) is not None}
    if "K" in changes:
        changes["K_evaluated"] = changes.pop("K")
    with cli(prog):
        device = select_device(args.device)
        dist.start(device)
        path, start = best_checkpoint("stmnet", args.checkpoint), time.time()
        predictor = load(path, device, **changes)
        config = predictor.config
        sets, out = sets_of(config, args.data, args.root), Path(args.out or path.parent)
        out.mkdir(parents=True, exist_ok=True)  # fails now rather than at the end
        result, pages = evaluate(predictor, sets, out / f"sheets-{args.data}" if args.sheets else None)
        if dist.rank() == 0:
            result |= {**predictor.report, "seconds": round(time.time() - start, 1)}
            write_json(out / f"metrics-{args.data}.json", {**result, "seed": config.seed, "preset": config.preset})
            for name, page in pages.items():
                write_image(out / f"{name}-{args.data}.png", contact_sheet(**page))


if __name__ == "__main__":
    main()

"""Evaluate a checkpoint of stmnet on every annotated frame of every test video (4.2, 4.3).

`python -m stmnet.evaluate --checkpoint runs/stmnet/NAME/best.pt --data scenes|BENCHMARK --root DIR`
"""
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import metrics
from common.io import InputError, inside, write_image, write_json
from common.training import (Parser, best_checkpoint, cli, dist, fields_free_on_resume, from_dict,
                             load_checkpoint, progress_bar, select_device, write_results)

from .backbones import faster_rcnn
from .backbones.views import test_view
from .config import PRESETS, Config
from .data import BACKGROUND
from .figures import NUM_VIDEOS, contact_sheet, draw_video_rows
from .memory import EMPTY, Memory
from .model import Stmnet
from .scoring import (SIZE, VideoScores, aggregate, baseline_scores, boxes_to_maps, concatenate,
                      enlarge, foreground_boxes, ground_proposals, score_boxes, score_maps,
                      stability)
from .tables import describe, num_frames, results_table, table_columns, table_rows
from .test_sets import test_sets

UNTRAINED = ("box_map", "proposals", "area_normalised", "confidence", "instances", "nms",
             "grounded")  # settings that may differ from those of the training


class Prediction(NamedTuple):
    """Of T steps, on the CPU."""
    heatmaps: dict  # "attention", "scores" → (T, h, w)
    labels: list  # T class names, BACKGROUND where is_foreground is not
    confidence: torch.Tensor  # (T,) probability of the best class
    is_foreground: torch.Tensor  # (T,) bool
    memory: Memory  # for the steps that follow


class Predictor:
    """A trained model. `report`: its validation."""

    def __init__(self, model, config, device, classes, report=None):
        self.model, self.config, self.device = model.eval(), config, device
        self.classes, self.report, self.detector = classes, report or {}, None
        if config.proposals:
            detector = faster_rcnn.load(faster_rcnn.faster_rcnn_r50_fpn(), config.proposals)
            self.detector = detector.to(device).eval()

    @torch.no_grad()
    def encode_frames(self, frames):
        """T images (H, W, 3) uint8 → features_v (1, T, Dᵥ, h, w)."""
        views = torch.stack([test_view(f, self.config.image_size) for f in frames])
        return self.model.encode_frames(views.to(self.device)[None])

    @torch.no_grad()
    def predict(self, features_v, segments, past=EMPTY) -> Prediction:
        """Features of T frames, their audio segments (T, n), the memory of the steps before.

        A frame is background if the background class says so or, without that class, if the best
        class has a lower probability than config.confidence.
        """
        features_a = self.model.encode_audio(segments.to(self.device)[None])
        *output, memory = self.model.space_time(features_v, features_a, past)
        logits, alpha, scores = (x[0].float().cpu() for x in output)
        confidence, best = logits.softmax(-1).max(-1)
        is_foreground = confidence >= self.config.confidence
        if BACKGROUND in self.classes:
            is_foreground = best != self.classes.index(BACKGROUND)
        labels = [self.classes[k] if shown else BACKGROUND
                  for k, shown in zip(best.tolist(), is_foreground.tolist())]
        return Prediction({"attention": alpha, "scores": scores}, labels, confidence,
                          is_foreground, memory)

    def boxes(self, frames, prediction) -> list:
        """T of (n, 5), in [0, 1] with a score: of config.box_map or, with a detector, proposals."""
        if not self.detector:
            maps = enlarge(prediction.heatmaps[self.config.box_map])
            return foreground_boxes(maps, prediction.is_foreground)
        maps = metrics.resize(prediction.heatmaps["attention"], SIZE)
        maps = maps / maps.sum((1, 2), keepdim=True)
        return [self.proposals(frame, alpha) if shown else torch.zeros(0, 5)
                for frame, alpha, shown in zip(frames, maps, prediction.is_foreground.tolist())]

    def proposals(self, frame, alpha):
        """The detector's boxes of one frame, scored by alpha (SIZE, SIZE): (n, 5)."""
        image = torch.from_numpy(frame).to(self.device).permute(2, 0, 1) / 255  # (3, H, W)
        boxes = self.detector.proposals([image], self.config.instances)[0]["boxes"].cpu()
        height, width = frame.shape[:2]
        return ground_proposals(boxes / torch.tensor([width, height] * 2), alpha, self.config)


def score_video(predictor, video, features_v, prediction, shuffled) -> VideoScores:
    """shuffled: the audio segments of another video, or None."""
    gt, box_map = boxes_to_maps(video.boxes), predictor.config.box_map
    columns = {f"{name}/": score_maps(enlarge(maps), gt, prediction.is_foreground, video.times)
               for name, maps in prediction.heatmaps.items()}
    if predictor.detector:
        columns["proposals/"] = score_boxes(predictor.boxes(video.frames, prediction), gt)
    controls = {"control/shuffled_": shuffled, "control/silent_": torch.zeros_like(video.segments)}
    for prefix, segments in controls.items():
        if segments is not None:
            control = predictor.predict(features_v, segments)
            columns[prefix] = score_maps(enlarge(control.heatmaps[box_map]), gt,
                                         control.is_foreground, video.times)
    columns |= baseline_scores(gt)
    return VideoScores(columns, stability(gt > 0, gt, video.times), gt.flatten(1).any(1).numpy(),
                       video.is_silent, np.array(video.labels), np.array(prediction.labels))


def shuffled_audio(test_set, i, steps: int):
    """Audio segments of the video half the list away, repeated or cut to so many steps.

    None if there is no other video.
    """
    if len(test_set.ids) > 1:
        segments = test_set.video((i + len(test_set.ids) // 2) % len(test_set.ids)).segments
        return segments[torch.arange(steps) % len(segments)]


def score_videos(predictor, test_set, folder=None) -> tuple[VideoScores, list]:
    """All videos of a test set, by all processes → their scores, drawings of the first videos.

    folder: where every video gets a contact sheet of its own, or None.
    """
    scores, drawings = {}, {}
    for i in progress_bar(list(dist.split(len(test_set.ids))), name=test_set.name):
        video = test_set.video(i)
        features_v = predictor.encode_frames(video.frames)
        prediction = predictor.predict(features_v, video.segments)
        shuffled = shuffled_audio(test_set, i, len(video.segments))
        scores[i] = score_video(predictor, video, features_v, prediction, shuffled)
        if i < NUM_VIDEOS or folder:
            drawing = draw_video_rows(video, prediction.heatmaps[predictor.config.box_map],
                                      predictor.boxes(video.frames, prediction), prediction.labels)
            if folder:
                write_image(inside(folder, f"{test_set.ids[i]}.png"), contact_sheet([drawing]))
            if i < NUM_VIDEOS:
                drawings[i] = drawing
    scores, drawings = ({i: x for part in dist.gather_objects(parts) for i, x in part.items()}
                        for parts in (scores, drawings))
    return (concatenate([scores[i] for i in sorted(scores)]),
            [drawings[i] for i in sorted(drawings)])


def evaluate(predictor, test_sets, folder=None) -> tuple[dict, dict]:
    """All test sets: flat metrics, and drawings by name. Prints a table for each."""
    config, result, drawings = predictor.config, {}, {}
    predictor.model.space_time.memory.K = config.K_evaluated
    for test_set in test_sets:
        scores, first = score_videos(predictor, test_set, folder)
        flat = aggregate(scores, [*predictor.classes, BACKGROUND], config.box_map)
        group = test_set.group  # one that is not empty stands for frames/
        result |= {group + (key.removeprefix("frames/") if group else key): value
                   for key, value in flat.items()}
        drawings[group.rstrip("/") or "samples"] = first
        if dist.rank() == 0:
            print(results_table(test_set, result, config))
    settings = ("K_evaluated", "box_map", "blurred", "objects")
    result |= {"samples": len(test_sets[0].ids), **{k: getattr(config, k) for k in settings}}
    return result, drawings


def load_predictor(path, device, **changes) -> Predictor:
    """The model of a checkpoint, with other UNTRAINED settings. Raises InputError."""
    checkpoint = load_checkpoint(path, "stmnet")
    try:
        config = replace(from_dict(PRESETS, checkpoint["config"]), **changes)
        classes = [str(name) for name in checkpoint["classes"]]
        model = Stmnet(replace(config, vision_weights="", audio_weights=""), len(classes))
        model.load_state_dict(checkpoint["model"])
        report = dict(checkpoint.get("report", {}))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(path, " ".join(str(error).split())[:300]) from None
    model = model.to(device, memory_format=torch.channels_last)
    return Predictor(model, config, device, classes, report)


def evaluate_best(run, benchmark) -> dict:
    """The end of a training: evaluate best.pt on the benchmark, if any, or else on scenes."""
    run.end_training()
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    free = fields_free_on_resume(Config) - {"device"}  # may have changed since best.pt was written
    predictor = load_predictor(run.folder / "best.pt", run.device,
                               **{name: getattr(run.config, name) for name in free})
    sets, result, drawings = [benchmark] if benchmark else [], {}, {}
    if run.config.data == "scenes" and not benchmark:
        sets = test_sets(run.config, "scenes", "")
    if sets:
        result, drawings = evaluate(predictor, sets)
    if run.is_main:
        for name, videos in drawings.items():
            write_image(run.folder / f"{name}.png", contact_sheet(videos))
    return run.write_metrics({**result, **predictor.report})


def add_model_flags(parser, *names):
    """--checkpoint, --device, --K, and settings that were not trained, `names` among them."""
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--K", type=int, help="past steps in memory [the training's --K-evaluated; "
                        "of localize: its --K]")
    for f in fields(Config):
        if f.name in (*UNTRAINED, *names):
            kind = {"type": f.type, "choices": f.metadata["choices"]}
            parser.add_argument(f"--{f.name.replace('_', '-')}", default=None,
                                help=f"{f.metadata['help']} [the training's]",
                                **({"action": "store_true"} if f.type is bool else kind))


def changed_settings(args, parser) -> dict:
    """Those of `add_model_flags` that the command line names."""
    names = ("K", *(f.name for f in fields(Config)))
    changes = {name: value for name in names if name not in ("device", "data", "root", "out")
               and (value := getattr(args, name, None)) is not None}
    for name, value in changes.items():
        if not isinstance(value, str) and not value >= 0:
            parser.error(f"--{name} must not be negative")
    return changes


def main(argv=None):
    prog = "python -m stmnet.evaluate"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    add_model_flags(parser, "blurred", "objects")
    parser.add_argument("--data", default="scenes", help="scenes, ave-boxes or audioset-instrument")
    parser.add_argument("--root", default="", help="folder of the benchmark")
    parser.add_argument("--out", default="", help="folder of metrics-DATA.json and contact sheets "
                        "[the checkpoint's]")
    parser.add_argument("--sheets", action="store_true", help="also write a contact sheet of every "
                        "video, into the folder sheets-DATA")
    parser.add_argument("--out-results", default="", metavar="FILE.json", help="also write "
                        "the table there; that of a second test set to FILE-NAME.json")
    args = parser.parse_args(argv)
    if not args.data:
        parser.error("--data must name scenes or a benchmark")
    if not 0 <= (args.blurred or 0) <= 1:
        parser.error("--blurred is between 0 and 1")
    changes = changed_settings(args, parser)
    if "K" in changes:
        changes["K_evaluated"] = changes.pop("K")
    with cli(prog):
        device = select_device(args.device)
        dist.start(device)
        path, start = best_checkpoint("stmnet", args.checkpoint), time.time()
        predictor = load_predictor(path, device, **changes)
        sets, out = test_sets(predictor.config, args.data, args.root), Path(args.out or path.parent)
        out.mkdir(parents=True, exist_ok=True)  # fails now rather than at the end
        folder = out / f"sheets-{args.data}" if args.sheets else None
        result, drawings = evaluate(predictor, sets, folder)
        if dist.rank() == 0:
            config = predictor.config
            result |= {**predictor.report, "seconds": round(time.time() - start, 1),
                       "seed": config.seed, "preset": config.preset}
            write_json(out / f"metrics-{args.data}.json", result)
            for name, videos in drawings.items():
                write_image(out / f"{name}-{args.data}.png", contact_sheet(videos))
            if args.out_results:
                command = f"{prog} {' '.join(sys.argv[1:] if argv is None else argv)}"
                write_tables(Path(args.out_results), command, sets, result, config)


def write_tables(path, command, sets, flat, config):
    """Each test set's table as a JSON file, for the READMEs."""
    for test_set in sets:
        group, rows = test_set.group, table_rows(flat, test_set.group)
        name = f"{path.stem}-{group.rstrip('/')}{path.suffix}" if group else path.name
        write_results(path.with_name(name), title=describe(test_set, flat, config), command=command,
                      columns=table_columns(rows), rows=rows, n=num_frames(flat, group),
                      seeds=[config.seed])


if __name__ == "__main__":
    main()

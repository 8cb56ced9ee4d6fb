"""Evaluate a checkpoint of stmnet on every annotated frame of every test video (4.2, 4.3).

`python -m stmnet.evaluate --checkpoint runs/stmnet/NAME/best.pt --data scenes|BENCHMARK --root DIR`
"""
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import io, metrics
from common.evaluation import Evaluation, evaluation_parser, page, parse_flags, with_objects
from common.training import (best_checkpoint, building, cli, dist, fields_free_on_resume,
                             from_dict, load_checkpoint, progress_bar, resolve, select_device)

from .backbones import faster_rcnn
from .backbones.vggish import RATE
from .backbones.views import test_view
from .config import PRESETS, Config
from .data import BACKGROUND
from .figures import NUM_VIDEOS, contact_sheet
from .memory import EMPTY, Memory
from .model import Stmnet
from .scoring import (PAGE_RULES, SIZE, FrameScores, VideoScores, aggregate, baseline_scores,
                      boxes_to_maps, concatenate, enlarge, foreground_boxes, ground_proposals,
                      iou_of_boxes, score_maps, stability)
from .tables import notes, results_table
from .test_sets import load_test_sets

BOXES = ("box_map", "proposals", "area_normalised", "confidence", "instances", "nms", "grounded")


class Prediction(NamedTuple):
    """Of T steps, on the CPU."""
    heatmaps: dict  # "attention", "scores" → (T, h, w)
    labels: list  # T class names or BACKGROUND
    confidence: torch.Tensor  # (T,) probability of the best class
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
        return self.model.visual_encoder(views.to(self.device))[None]

    @torch.no_grad()
    def predict(self, features_v, segments, past=EMPTY) -> Prediction:
        """Features of T frames, their segments (T, samples), the memory of the steps before."""
        features_a = self.model.audio_encoder(segments.to(self.device))[None]
        *output, memory = self.model.space_time(features_v, features_a, past)
        logits, alpha, scores = (metrics.finite("output", x[0].float().cpu()) for x in output)
        confidence, best = logits.softmax(-1).max(-1)  # (T,)
        least = 0 if BACKGROUND in self.classes else self.config.confidence
        labels = [self.classes[k] if probability >= least else BACKGROUND
                  for k, probability in zip(best.tolist(), confidence.tolist())]
        return Prediction({"attention": alpha, "scores": scores}, labels, confidence, memory)

    def boxes(self, frames, prediction) -> list:
        """T of (n, 5), in [0, 1] with a score: of config.box_map or, with a detector, proposals."""
        if not self.detector:
            maps = enlarge(prediction.heatmaps[self.config.box_map])
            return foreground_boxes(maps, prediction.labels)
        maps, results = metrics.resize(prediction.heatmaps["attention"], SIZE), []
        for frame, alpha, label in zip(frames, maps, prediction.labels):
            boxes = torch.zeros(0, 4)
            if label != BACKGROUND:
                image = torch.from_numpy(frame).to(self.device).permute(2, 0, 1) / 255  # (3, H, W)
                boxes = self.detector.proposals([image], self.config.instances)[0]["boxes"].cpu()
                boxes = boxes / torch.tensor([frame.shape[1], frame.shape[0]] * 2)
            results.append(ground_proposals(boxes, alpha / alpha.sum(), self.config))
        return results


def shuffled_audio(test_set, i, steps: int):
    """Segments of the video half the list away, repeated or cut to so many steps."""
    segments = test_set.video((i + len(test_set.ids) // 2) % len(test_set.ids)).segments
    return segments[torch.arange(steps) % len(segments)]


def score_video(predictor, test_set, i) -> VideoScores:
    video, config = test_set.video(i), predictor.config
    gt, features_v = boxes_to_maps(video.boxes), predictor.encode_frames(video.frames)
    prediction = predictor.predict(features_v, video.segments)
    columns = {f"{name}/": score_maps(enlarge(maps), gt, prediction.labels, video.times)
               for name, maps in prediction.heatmaps.items()}
    if predictor.detector:
        boxes = predictor.boxes(video.frames, prediction)
        columns["proposals/"] = FrameScores(iou_of_boxes(boxes, gt))
    controls = {"control/silent_": torch.zeros_like(video.segments)}
    if len(test_set.ids) > 1:
        controls["control/shuffled_"] = shuffled_audio(test_set, i, len(video.segments))
    for prefix, segments in controls.items():
        control = predictor.predict(features_v, segments)
        columns[prefix] = score_maps(enlarge(control.heatmaps[config.box_map]), gt, control.labels,
                                     video.times)
    return VideoScores(columns | baseline_scores(gt), stability(gt > 0, gt, video.times),
                       gt.flatten(1).any(1).numpy(), video.is_silent, np.array(video.labels),
                       np.array(prediction.labels))


def video_sample(predictor, test_set, i, group="") -> page.Sample:
    """A video with its own audio, that of another video, and silence, as the page has it."""
    video, clips = test_set.video(i), []
    features_v, gt = predictor.encode_frames(video.frames), boxes_to_maps(video.boxes)
    for name, x in (("its own", video.segments), ("silence", 0 * video.segments),
                    ("another video's", shuffled_audio(test_set, i, len(gt)))):
        prediction = predictor.predict(features_v, x)
        clips.append(page.Clip(
            name, x.flatten(), RATE, prediction.heatmaps[predictor.config.box_map],
            predictor.boxes(video.frames, prediction), prediction.labels, gt))
    return page.Sample(test_set.ids[i], video.frames, clips, group, video.times, video.labels)


def score_videos(predictor, test_set) -> list:
    """The VideoScores of all videos of a test set, in their order, by all processes."""
    rows = progress_bar(list(dist.split(len(test_set.ids))), name=test_set.name)
    parts = dist.gather_objects({i: score_video(predictor, test_set, i) for i in rows})
    scores = {i: x for part in parts for i, x in part.items()}
    return [scores[i] for i in sorted(scores)]


def evaluate(predictor, sets) -> Evaluation:
    """Metrics, tables and contact sheets of all test sets."""
    config, result = predictor.config, Evaluation()
    predictor.model.space_time.memory.K = config.K_evaluated
    for test_set in sets:
        videos, group = score_videos(predictor, test_set), test_set.group
        scores = concatenate(videos)
        flat = aggregate(scores, [*predictor.classes, BACKGROUND], config.box_map)
        result.metrics |= {group + (key.removeprefix("frames/") if group else key): value
                           for key, value in flat.items()}
        result.tables.append(results_table(test_set, flat, config))
        result.texts.append("\n".join([str(result.tables[-1]), *notes(flat)]))
        if dist.rank() == 0:
            own = f"{config.box_map}/"
            values = np.array([metrics.mean(v.columns[own].ciou) for v in videos])
            picked = page.pick(values, np.ones(len(videos), bool), NUM_VIDEOS)
            samples = [video_sample(predictor, test_set, i, name) for i, name in picked.items()]
            result.galleries.append(page.Gallery(
                test_set.name, samples, SIZE, rules=PAGE_RULES,
                curves=page.mean_curves(scores.columns[own].curve[scores.has_gt])))
            result.sheets[group.rstrip("/") or "samples"] = contact_sheet(samples[:NUM_VIDEOS])
    settings = ("K_evaluated", "box_map", "blurred", "objects")
    result.metrics |= {"samples": len(sets[0].ids), **{k: getattr(config, k) for k in settings}}
    return result


def load_predictor(path, device, **changes) -> Predictor:
    """The model of a checkpoint; `changes` of its settings that are not None. Raises InputError."""
    checkpoint = load_checkpoint(path, "stmnet")
    changes = {name: value for name, value in changes.items() if value is not None}
    with building(path):
        config = resolve({"tiny": from_dict(PRESETS, checkpoint["config"])}, changes)
        classes = [str(name) for name in checkpoint["classes"]]
        model = Stmnet(replace(config, vision_weights="", audio_weights=""), len(classes))
        model.load_state_dict(checkpoint["model"])
        report = dict(checkpoint.get("report", {}))
    model = model.to(device, memory_format=torch.channels_last)
    return Predictor(model, config, device, classes, report)


def evaluate_best(run, benchmark) -> dict:
    """The end of a training: best.pt on `benchmark` (a FileVideos, or None) or on scenes."""
    run.end_training()
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    free = fields_free_on_resume(Config) - {"device"}
    predictor = load_predictor(run.folder / "best.pt", run.device,
                               **{name: getattr(run.config, name) for name in free})
    sets = [benchmark] if benchmark else []
    if run.config.data == "scenes" and not benchmark:
        sets = load_test_sets(run.config, "scenes", "")
    result = evaluate(predictor, sets) if sets else Evaluation()
    return result.finish(run, predictor.report)


def add_setting_flags(parser, names) -> None:
    """A flag for each of these fields of Config; --K is that of K_evaluated too."""
    for name in names:
        f = Config.__dataclass_fields__[name]
        kind = {"type": f.type, "choices": f.metadata["choices"]}
        parser.add_argument(f"--{name.removesuffix('_evaluated').replace('_', '-')}", dest=name,
                            default=None, help=f"{f.metadata['help']} [the training's]",
                            **({"action": "store_true"} if f.type is bool else kind))


def main(argv=None):
    parser = evaluation_parser("stmnet", __doc__.splitlines()[0])
    settings = ("K_evaluated", *BOXES, "blurred")
    add_setting_flags(parser, settings)
    parser.add_argument("--sheets", action="store_true", help="also write a contact sheet of every "
                        "video, into the folder sheets-DATA")
    args = parse_flags(parser, argv)
    with cli(parser.prog):
        device, start = select_device(args.device), time.time()
        dist.start(device)
        path = best_checkpoint("stmnet", args.checkpoint)
        predictor = load_predictor(path, device, **{k: getattr(args, k) for k in settings})
        predictor.config = with_objects(predictor.config, args)
        sets = load_test_sets(predictor.config, args.data, args.root)
        result, out = evaluate(predictor, sets), Path(args.out or path.parent)
        result.metrics |= {**predictor.report, "seconds": round(time.time() - start, 1)}
        if dist.rank() == 0:
            result.write(out, args, predictor.config)
        for test_set in sets if args.sheets else ():
            for i in progress_bar(list(dist.split(len(test_set.ids))), name="contact sheets"):
                sheet = io.contact_sheet(**contact_sheet([video_sample(predictor, test_set, i)]))
                folder = out / f"sheets-{args.data}"
                io.write_image(io.inside(folder, f"{test_set.ids[i]}.png"), sheet)


if __name__ == "__main__":
    main()

"""Evaluate a checkpoint of stmnet on every annotated frame of every test video (4.2, 4.3).

`python -m stmnet.evaluate --checkpoint runs/stmnet/NAME/best.pt --data scenes|BENCHMARK --root DIR`
"""
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import io, metrics
from common.evaluation import Evaluation, evaluation_parser, page, parse_flags, with_objects
from common.evaluation.boxes import boxes_from_maps
from common.evaluation.frames import (PAGE_RULES, SIZE, FrameScores, boxes_to_maps, enlarge,
                                      iou_of_boxes, score_maps, stability)
from common.evaluation.videos import VideoScores, aggregate, concatenate
from common.scenes import QUIET
from common.training import (add_flags, best_checkpoint, building, check_settings, checked, cli,
                             dist, fields_free_on_resume, from_dict, load_checkpoint, progress_bar,
                             select_device)

from .backbones import faster_rcnn
from .backbones.vggish import RATE, sound_track
from .backbones.views import test_view
from .config import PRESETS, Config
from .data import BACKGROUND
from .memory import EMPTY
from .model import Stmnet
from .scoring import beta_statistics, ground_proposals
from .tables import NUM_VIDEOS, contact_sheet, notes, results_table
from .test_sets import load_test_sets

QUIET_AUDIO = 23  # stream of random numbers
BLOCK = 16  # frames that are encoded at once
SCENES = ("blurred", "noisy", "occluded", "twins")
BOXES = ("box_map", "proposals", "confidence", "instances", "nms", "grounded")


class Prediction(NamedTuple):
    """Of T steps, on the CPU."""
    heatmaps: dict  # "attention", "scores" → (T, h, w)
    labels: list  # T class names or BACKGROUND
    confidence: torch.Tensor  # (T,) probability of the best class
    betas: dict  # "a", "v", "av" → (T, 2), see scoring.beta_statistics


class Predictor:
    """A trained model. `report`: its validation."""

    def __init__(self, model, config, device, classes, report=None):
        self.model, self.config, self.device = model.eval(), config, device
        self.classes, self.report, self.propose = classes, report or {}, None
        if config.proposals:
            detector = faster_rcnn.load(faster_rcnn.faster_rcnn_r50_fpn(), config.proposals)
            self.propose = partial(faster_rcnn.find_boxes, detector.to(device).eval(),
                                   most=config.instances)

    @torch.no_grad()
    def encode_frames(self, frames):
        """T images (H, W, 3) uint8 → features_v (1, T, Dᵥ, h, w)."""
        parts = []
        for i in range(0, len(frames), BLOCK):
            views = [test_view(f, self.config.image_size) for f in frames[i:i + BLOCK]]
            parts.append(self.model.visual_encoder(torch.stack(views).to(self.device)))
        return torch.cat(parts)[None]

    def start(self, fps: float) -> list:
        """Empty memories of the interleaved sequences that a video is cut into: see `predict`."""
        stride, self.model.space_time.memory.K = self.config.memory_at(fps)
        return [EMPTY] * stride

    @torch.no_grad()
    def predict(self, features_v, segments, memories, first=0) -> Prediction:
        """Steps first, first + 1, … of a video: features of T frames, their segments (T, samples).

        memories: what `start` returned; it is kept up to date. Step t is one of the sequence
        t % len(memories), so that steps in memory are as far apart in time as in training."""
        features_a = self.model.audio_encoder(segments.to(self.device))[None]
        parts, steps = [], torch.arange(len(segments))
        for k in range(len(memories)):
            if len(rows := steps[(first + steps) % len(memories) == k]):
                *output, betas, memories[k] = self.model.space_time(
                    features_v[:, rows], features_a[:, rows], memories[k])
                betas = {name: beta_statistics(beta[0]) for name, beta in betas.items()}
                parts.append((rows, *(x[0].float().cpu() for x in output), betas))
        rows, logits, alpha, scores, betas = zip(*parts)
        order = torch.cat(rows).argsort()
        logits, alpha, scores = (torch.cat(x)[order] for x in (logits, alpha, scores))
        betas = {name: torch.cat([b[name] for b in betas])[order] for name in betas[0]}
        confidence, best = logits.softmax(-1).max(-1)  # (T,)
        least = 0 if BACKGROUND in self.classes else self.config.confidence
        labels = [self.classes[k] if probability >= least else BACKGROUND
                  for k, probability in zip(best.tolist(), confidence.tolist())]
        return Prediction({"attention": alpha, "scores": scores}, labels, confidence, betas)

    def predict_video(self, video, features_v, segments) -> Prediction:
        """Of the annotated steps of a Video; the others are in memory alone."""
        found = self.predict(features_v, segments, self.start(video.fps))
        return Prediction({name: maps[video.rows] for name, maps in found.heatmaps.items()},
                          [found.labels[row] for row in video.rows], found.confidence[video.rows],
                          {name: x[video.rows] for name, x in found.betas.items()})

    def boxes(self, proposals, prediction, is_gated=True) -> list:
        """T of (n, 5), in [0, 1] with a score: of config.box_map or, with a detector, proposals.
        is_gated: none where the predicted class is background."""
        if not self.propose:
            boxes = boxes_from_maps(enlarge(prediction.heatmaps[self.config.box_map]))
        else:
            maps = metrics.resize(prediction.heatmaps["attention"], SIZE)
            boxes = [ground_proposals(found, alpha / alpha.sum(), self.config)
                     for found, alpha in zip(proposals, maps)]
        return [b[:0] if is_gated and label == BACKGROUND else b
                for b, label in zip(boxes, prediction.labels)]

    def encode(self, frames) -> tuple:
        """What `locate` takes of T frames, with any sound."""
        return self.encode_frames(frames), self.propose and self.propose(frames)

    def locate(self, features_v, proposals, segments, memories, first=0) -> page.Clip:
        """What is found in T frames with these segments (T, samples); see `encode`, `predict`."""
        found = self.predict(features_v, segments, memories, first)
        similarity = self.config.tau * found.heatmaps["scores"].amax((1, 2))  # exponent of Eq. (1)
        return page.Clip("", None, RATE, found.heatmaps[self.config.box_map],
                         self.boxes(proposals, found), found.labels,
                         facts={"similarity": similarity, "confidence": found.confidence})


def shuffled_audio(test_set, i, video):
    """Segments of a video in which nothing sounds as in `video`, repeated or cut to its length; of
    the first behind the middle of the list. None if all sound alike."""
    count = len(test_set.ids)
    for k in range(count - 1):
        other = test_set.video((i + max(1, count // 2) + k) % count)
        if not other.sounds & video.sounds:
            return other.segments[torch.arange(len(video.segments)) % len(other.segments)]
    return None


def control_audio(test_set, i, video) -> dict:
    """Prefix → segments: what is heard when nothing sounds, digital zero, another video's."""
    rng = np.random.default_rng([QUIET_AUDIO, i])
    noise = QUIET * rng.standard_normal(video.segments.shape, dtype=np.float32)
    return {"control/silent_": torch.from_numpy(noise),
            "control/zero_": torch.zeros_like(video.segments),
            "control/shuffled_": shuffled_audio(test_set, i, video)}


def score_video(predictor, test_set, i) -> VideoScores:
    video, box_map = test_set.video(i), predictor.config.box_map
    gt, features_v = boxes_to_maps(video.boxes), predictor.encode_frames(video.frames)
    found = predictor.predict_video(video, features_v, video.segments)

    def score(prediction, maps):
        is_background = [label == BACKGROUND for label in prediction.labels]
        return score_maps(enlarge(maps), video.boxes, video.times, is_background)

    columns = {f"{name}/": score(found, maps) for name, maps in found.heatmaps.items()}
    if predictor.propose:
        proposals = predictor.propose([video.frames[row] for row in video.rows])
        boxes = predictor.boxes(proposals, found, is_gated=False)
        columns["proposals/"] = FrameScores(iou_of_boxes(boxes, gt))
    for prefix, segments in control_audio(test_set, i, video).items():
        if segments is None:  # NaN: means are of the other videos
            columns[prefix] = FrameScores(*torch.full((6, len(gt)), torch.nan))
            continue
        control = predictor.predict_video(video, features_v, segments)
        columns[prefix] = score(control, control.heatmaps[box_map])
    curve = torch.from_numpy(page.score_curve(enlarge(found.heatmaps[box_map]), gt))
    return VideoScores(columns, curve, found.betas, video.boxes, stability(gt > 0, gt, video.times),
                       video.is_silent, np.array(video.labels), np.array(found.labels))


def video_sample(predictor, test_set, i, group="") -> page.Sample:
    """A video with its own audio, silence, and that of another video, as the page has it."""
    video, clips = test_set.video(i), []
    frames, rows, steps = list(video.frames), video.rows.tolist(), range(len(video.frames))
    gt, labels = dict(zip(rows, boxes_to_maps(video.boxes))), dict(zip(rows, video.labels))
    encoded, controls = predictor.encode(frames), control_audio(test_set, i, video)
    for name, x in (("its own", video.segments), ("silence", controls["control/silent_"]),
                    ("another video's", controls["control/shuffled_"])):
        if x is not None:
            clip = predictor.locate(*encoded, x, predictor.start(video.fps))
            clips.append(replace(clip, name=name, waveform=sound_track(x, video.fps),
                                 gt=[gt.get(step) for step in steps]))
    times = video.times[0] + (np.array(steps) - rows[0]) / video.fps
    return page.Sample(test_set.ids[i], frames, clips, group, times,
                       [labels.get(step, "") for step in steps])


def score_videos(predictor, test_set) -> list:
    """The VideoScores of all videos, in order; copies, or 8 MB of each video stay in memory."""
    rows = progress_bar(list(dist.split(len(test_set.ids))), name=test_set.name)
    parts = dist.gather_objects({i: deepcopy(score_video(predictor, test_set, i)) for i in rows})
    scores = {i: x for part in parts for i, x in part.items()}
    return [scores[i] for i in sorted(scores)]


def evaluate(predictor, sets) -> Evaluation:
    """Metrics, tables and contact sheets of all test sets."""
    config, result = predictor.config, Evaluation()
    for test_set in sets:
        videos, group = score_videos(predictor, test_set), test_set.group
        scores = concatenate(videos)
        flat = aggregate(scores, [*predictor.classes, BACKGROUND], config.box_map, BACKGROUND)
        result.metrics |= {group + (key.removeprefix("frames/") if group else key): value
                           for key, value in flat.items()}
        result.tables.append(results_table(test_set, flat, config))
        result.texts.append("\n".join([str(result.tables[-1]), *notes(flat)]))
        if dist.rank() == 0:
            values = [metrics.mean(v.columns[f"{config.box_map}/"].ciou) for v in videos]
            picked = page.pick(np.array(values), np.ones(len(videos), bool), NUM_VIDEOS)
            samples = [video_sample(predictor, test_set, i, name) for i, name in picked.items()]
            curves = page.mean_curves(scores.curve[[len(b) > 0 for b in scores.boxes]])
            result.galleries.append(page.Gallery(test_set.name, samples, SIZE, rules=PAGE_RULES,
                                                 curves=curves))
            sheet = contact_sheet(samples[:NUM_VIDEOS], predictor.propose)
            result.sheets[group.rstrip("/") or "samples"] = sheet
    settings = ("memory_seconds", "box_map", *SCENES, "objects")
    result.metrics |= {"samples": len(sets[0].ids), **{k: getattr(config, k) for k in settings}}
    return result


def load_predictor(path, device, **changes) -> Predictor:
    """The model of a checkpoint; `changes`: other settings. Raises InputError."""
    checkpoint = load_checkpoint(path, "stmnet")
    with building(path):
        config = checked(replace(from_dict(PRESETS, checkpoint["config"]), **changes))
        classes = [str(name) for name in checkpoint["classes"]]
        model = Stmnet(replace(config, vision_weights="", audio_weights=""), len(classes))
        model.load_state_dict(checkpoint["model"])
        report = dict(checkpoint.get("report", {}))
    model = model.to(device, memory_format=torch.channels_last)
    return Predictor(model, config, device, classes, report)


def evaluate_best(run, benchmark) -> dict:
    """The end of a training: best.pt on `benchmark` (a FileVideos, or None) or on scenes."""
    run.end_training()
    free = fields_free_on_resume(Config) - {"device"}
    predictor = load_predictor(run.folder / "best.pt", run.device,
                               **{name: getattr(run.config, name) for name in free})
    sets = [benchmark] if benchmark else []
    if run.config.data == "scenes" and not benchmark:
        sets = load_test_sets(run.config, "scenes", "")
    result = evaluate(predictor, sets) if sets else Evaluation()
    return result.finish(run, predictor.report)


def main(argv=None):
    parser = evaluation_parser("stmnet", __doc__.splitlines()[0], None)
    settings = ("memory_seconds", *BOXES, *SCENES)
    add_flags(parser, PRESETS, settings)
    parser.add_argument("--sheets", action="store_true", help="also write a contact sheet of every "
                        "video, into the folder sheets-DATA (Figures 6 and 7)")
    parser.add_argument("--compare", nargs="+", default=[], metavar="FILE",
                        help="other checkpoints, shown on the sheets too (Figure 5)")
    args = parse_flags(parser, argv)
    changes = check_settings(parser, PRESETS, args, settings)
    if args.compare and not args.sheets:
        parser.error("--compare goes with --sheets")
    if args.data != "scenes" and set(changes) & set(SCENES):
        parser.error(f"--{', --'.join(SCENES)} are of scenes, not of --data {args.data}")
    with cli(parser.prog):
        device = select_device(args.device)
        dist.start(device)
        path = best_checkpoint("stmnet", args.checkpoint)
        predictor = load_predictor(path, device, **changes)
        predictor.config = with_objects(predictor.config, args)
        models = [predictor, *(load_predictor(path, device, **changes) for path in args.compare)]
        sets = load_test_sets(predictor.config, args.data, args.root, args.ids)
        result, out = evaluate(predictor, sets), Path(args.out or path.parent)
        result.write(out, args, predictor.config, predictor.report)
        for test_set in sets if args.sheets else ():
            for i in progress_bar(list(dist.split(len(test_set.ids))), name="contact sheets"):
                shown = [video_sample(m, test_set, i, f"memory {m.config.memory}:") for m in models]
                path = io.inside(out / f"sheets-{args.data}", f"{test_set.ids[i]}.png")
                io.write_image(path, io.contact_sheet(**contact_sheet(shown, predictor.propose)))


if __name__ == "__main__":
    main()

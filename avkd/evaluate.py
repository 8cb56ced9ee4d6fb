"""avkd's evaluation (4.1 to 4.6): the AVC model and its object-guided variants.

`python -m avkd.evaluate --checkpoint runs/avkd/NAME/best.pt --data scenes|BENCHMARK --root DIR`
`python -m avkd.evaluate --count --preset paper`
"""
import time
from dataclasses import replace
from pathlib import Path

import torch

from common import evaluation, metrics
from common.evaluation import CONTROLS, PROTOCOL, SIZE, Batch, Evaluation, Prediction
from common.io import load_published
from common.training import (best_checkpoint, building, cli, dist, from_dict, load_checkpoint,
                             select_device)

from . import small
from .backbones.detr import detr_r50
from .backbones.resnet import resnet18
from .config import PRESETS
from .count import cost_table
from .guidance import Guide, SmallGuide, image_batch, og_avc, og_avc_detr
from .model import Avkd, localization_map

VARIANTS = {"avc/": "AVC", "og/": "OG-AVC", "og_detr/": "OG-AVC-DETR"}  # column → heading
AUDIO = {"matched": "avc/", **CONTROLS}  # audio → column of its heatmaps


class Predictor:
    """A trained model, and a Guide or None. `report` is of its validation."""

    def __init__(self, model, config, device, report=None, guide=None, note=""):
        self.model, self.config, self.device = model.eval(), config, device
        self.report, self.guide, self.note = report or {}, guide, note

    @torch.no_grad()
    def encode_audio(self, waveforms):
        """(n, samples) → f_a (n, c)."""
        return self.model.encode_audio(waveforms.to(self.device))

    def encode_test_audio(self, test_set) -> dict:
        return evaluation.encode_test_audio(self, test_set)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """Heatmaps of each variant and control."""
        x = image_batch(batch.images, self.config.image_size, self.device)
        f_v = self.model.encode_image(x)  # once for all audio
        heatmaps = {AUDIO[kind]: localization_map(f_v, f_a.to(self.device)).cpu()
                    for kind, f_a in batch.audio.items()}
        if self.guide is not None:
            heatmaps |= self.guided_maps(heatmaps["avc/"], batch)
        return Prediction(heatmaps, {})

    def guided_maps(self, avc, batch) -> dict:
        """The object-guided variants (3.5) of localization maps (n, h, w)."""
        def enlarge(maps):
            return metrics.resize(maps.cpu(), SIZE, PROTOCOL, batch.align_corners)
        objects, detections = self.guide(batch.images)
        avc, objects = enlarge(avc), enlarge(objects)  # (n, SIZE, SIZE)
        guided = {"og/": og_avc(avc, objects)}
        if detections is not None:
            maps, has_detection = detections
            guided["og_detr/"] = og_avc_detr(avc, objects, enlarge(maps), has_detection.cpu())
        return guided


def evaluate(predictor, test_sets) -> Evaluation:
    """Metrics, tables and contact sheets of all test sets."""
    result = Evaluation()
    for test_set in test_sets:
        audio = predictor.encode_test_audio(test_set)
        scores, _ = evaluation.score_samples(predictor, test_set, audio)
        result.add(test_set, scores, VARIANTS, predictor.note)
        name = "sounds" if "interactive" in test_set.metric_groups else "samples"
        if dist.rank() == 0 and name not in result.sheets:
            result.sheets[name] = evaluation.draw_samples(predictor, test_set, audio, VARIANTS)
        if dist.rank() == 0:
            result.galleries.append(evaluation.pair_gallery(predictor, test_set, audio, scores))
    return result


def load_predictor(path, device, object_weights="", detr="", detr_size=224, make=False):
    """The Predictor of a checkpoint. Raises InputError.

    The object-guided variants need published weights of ResNet-18 and DETR. On scenes the small
    visual teacher takes their place if its file exists; with `make` it is trained if not.
    """
    checkpoint = load_checkpoint(path, "avkd")
    with building(path):
        config = from_dict(PRESETS, checkpoint["config"])
        model = Avkd(replace(config, vision_weights=""))
        model.load_state_dict(checkpoint["model"])
    guide, note = None, "No object-guided variants: --object-weights names a ResNet-18."
    if object_weights:
        detector = load_published(detr_r50(), detr, "model") if detr else None
        guide = Guide(load_published(resnet18(), object_weights), detector, detr_size)
        note = "" if detr else "No OG-AVC-DETR: --detr names a DETR-R50."
    elif config.data == "scenes" and (make or has_small_teacher(config)):
        guide = SmallGuide(small.make_teacher("e_v", config, device))
        note = "Objects and detections are of the small visual teacher."
    model = model.to(device, memory_format=torch.channels_last)
    guide = guide and guide.to(device).eval()
    return Predictor(model, config, device, checkpoint.get("report"), guide, note)


def has_small_teacher(config) -> bool:
    """Whether the trained small visual teacher is on disk, with the objects that it knows."""
    has_objects = not config.objects or Path(config.objects).is_dir()
    return has_objects and small.weights_path("e_v", config).is_file()


def evaluate_best(run, benchmark) -> dict:
    """The end of a training: best.pt on `benchmark` (a FileTestSet, or None) or on scenes."""
    run.end_training()
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    path = run.folder / "best.pt"
    predictor = dist.main_process_first(lambda: load_predictor(path, run.device, make=True))
    test_sets = [benchmark] if benchmark else []
    if run.config.data == "scenes" and not benchmark:
        test_sets = evaluation.test_sets(run.config, "scenes", "")
    result = evaluate(predictor, test_sets)
    return result.finish(run, predictor.report)


def main(argv=None):
    parser = evaluation.evaluation_parser("avkd", __doc__.splitlines()[0])
    parser.add_argument("--object-weights", default="", help="published ResNet-18 for the "
                        "object-guided variants")
    parser.add_argument("--detr", default="", help="published DETR-R50 for OG-AVC-DETR")
    parser.add_argument("--detr-size", type=int, default=224, help="side of the image that DETR "
                        "sees; the paper's FLOPs are of 800 [%(default)s]")
    parser.add_argument("--count", action="store_true", help="print parameters and multiply-adds "
                        "of --preset, and nothing else")
    parser.add_argument("--preset", default="paper", choices=tuple(PRESETS),
                        help="for --count [%(default)s]")
    args = evaluation.parse_flags(parser, argv)
    if args.detr and not args.object_weights:
        parser.error("--detr goes with --object-weights")
    if args.count:
        print(cost_table(PRESETS[args.preset]))
        return
    with cli(parser.prog):
        device, start = select_device(args.device), time.time()
        dist.start(device)
        path = best_checkpoint("avkd", args.checkpoint)
        predictor = dist.main_process_first(lambda: load_predictor(
            path, device, args.object_weights, args.detr, args.detr_size))
        config = evaluation.with_objects(predictor.config, args)
        result = evaluate(predictor, evaluation.test_sets(config, args.data, args.root))
        result.metrics |= {**predictor.report, "seconds": round(time.time() - start, 1)}
        if dist.rank() == 0:
            result.write(Path(args.out or path.parent), args, config)


if __name__ == "__main__":
    main()

"""avkd's evaluation (4.1 to 4.6): the AVC model and its object-guided variants.

`python -m avkd.evaluate --checkpoint runs/avkd/NAME/best.pt --data scenes|BENCHMARK --root DIR`
`python -m avkd.evaluate --count --preset paper`
"""
from dataclasses import replace
from pathlib import Path

import torch

from common import evaluation, metrics
from common.evaluation import (CONTROLS, SIZE, Batch, Evaluation, FileTestSet, Prediction,
                               SceneTestSet)
from common.io import load_published
from common.training import (add_flags, best_checkpoint, building, check_settings, cli, dist,
                             from_dict, load_checkpoint, select_device)

from .backbones import small
from .backbones.detr import detr_r50
from .backbones.resnet import BasicBlock, Bottleneck, ResNet
from .config import EVALUATION, OBJECT_MODELS, PRESETS, TINY
from .count import cost_table
from .guidance import Guide, SmallGuide, image_batch, og_avc, og_avc_detr
from .model import Avkd, localization_map

VARIANTS = {"avc/": "AVC", "og/": "OG-AVC", "og_detr/": "OG-AVC-DETR"}  # column → heading
AUDIO = {"matched": "avc/", **CONTROLS}  # audio → column of its heatmaps
NUM_LONE = 250  # scenes of one object in the test


class Predictor:
    """A trained model, and a Guide or None. `report` is of its validation."""

    def __init__(self, model, config, device, report=None, guide=None, note=""):
        self.model, self.config, self.device = model.eval(), config, device
        self.report, self.guide, self.note = report or {}, guide, note

    @torch.no_grad()
    def encode_audio(self, waveforms):
        """(n, samples) → f_a (n, c)."""
        return self.model.encode_audio(waveforms.to(self.device))

    encode_test_audio = evaluation.encode_test_audio

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
        c = self.config

        def enlarge(maps):
            return metrics.resize(maps.cpu(), SIZE, batch.protocol, batch.align_corners)
        objects, detections = self.guide(batch.images)
        avc, objects = enlarge(avc), enlarge(objects)  # (n, SIZE, SIZE)
        guided = {"og/": og_avc(avc, objects, c.og_weights)}
        if detections is not None:
            maps, has_detection = detections
            guided["og_detr/"] = og_avc_detr(avc, objects, enlarge(maps), has_detection.cpu(),
                                             c.og_detr_weights)
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


def load_predictor(path, device, changes=None, make=False):
    """The Predictor of a checkpoint. Raises InputError.

    changes: what EVALUATION names, where it is not as in the training. The object-guided variants
    need published weights of a ResNet and DETR. On scenes the small networks take their place if
    their files exist; with `make` they are trained if not."""
    checkpoint = load_checkpoint(path, "avkd")
    with building(path):
        config = from_dict(PRESETS, checkpoint["config"])
        config = replace(config, **{"object_weights": "", "detr": "", **(changes or {})})
        model = Avkd(config)
        model.load_state_dict(checkpoint["model"])
    guide, note = None, "No object-guided variants: --object-weights names a ResNet."
    if config.object_weights:
        is_bottleneck, blocks = OBJECT_MODELS[config.object_model]
        net = ResNet(Bottleneck if is_bottleneck else BasicBlock, blocks)
        detector = load_published(detr_r50(), config.detr, "model") if config.detr else None
        guide = Guide(load_published(net, config.object_weights), detector, config.detr_size)
        note = "" if detector else "No OG-AVC-DETR: --detr names a DETR-R50."
    elif config.data == "scenes" and (make or has_small_networks(config)):
        guide = SmallGuide(*(small.make_network(name, config, device)
                             for name in ("objects", "e_v")))
        note = "Objects and detections are of the small classifier and the small detector."
    model = model.to(device, memory_format=torch.channels_last)
    guide = guide and guide.to(device).eval()
    return Predictor(model, config, device, checkpoint.get("report"), guide, note)


def has_small_networks(config) -> bool:
    """Whether the trained small networks are on disk, with the objects that they know."""
    has_objects = not config.objects or Path(config.objects).is_dir()
    return has_objects and all(small.weights_path(name, config).is_file()
                               for name in ("objects", "e_v"))


def scene_test_sets(config, protocol: str) -> list:
    """Scenes of two objects, and at most NUM_LONE of one, whose metrics are named one/…."""
    lone = replace(config, held_out=min(config.held_out, NUM_LONE))
    return [*evaluation.test_sets(config, "scenes", "", protocol=protocol),
            SceneTestSet(lone, "pair", protocol, objects=1)]


def load_test_sets(config) -> list:
    """Those of --benchmark, or without it, of a training on scenes, scenes. Raises InputError.

    Of several benchmarks, each one's metrics are named NAME/…."""
    if not config.benchmark and config.data == "scenes":
        return scene_test_sets(config, config.protocol)
    sets = [FileTestSet(config, name, root, protocol=config.protocol)
            for name, root in zip(config.benchmark, config.benchmark_root)]
    for test_set in sets:
        test_set.prefix = f"{test_set.name}/" * (len(sets) > 1)
    return sets


def evaluate_best(run, test_sets, cosines) -> dict:
    """The end of a training: best.pt on `test_sets`, or on scenes. cosines: `hint_cosines`."""
    run.end_training()
    path, changes = run.folder / "best.pt", {name: getattr(run.config, name) for name in EVALUATION}
    predictor = dist.main_process_first(lambda: load_predictor(path, run.device, changes, True))
    result = evaluate(predictor, test_sets or load_test_sets(run.config))
    if cosines:
        texts = [f"{key.removeprefix('hints/')} {x:.2f}" for key, x in cosines.items()]
        result.texts.append(f"\nMean cosine of the hints e_a and e_v: {', '.join(texts)}")
    return result.finish(run, {**predictor.report, **cosines})


def main(argv=None):
    parser = evaluation.evaluation_parser("avkd", __doc__.splitlines()[0], TINY.protocol)
    add_flags(parser, PRESETS, EVALUATION)
    parser.add_argument("--count", action="store_true", help="print parameters and multiply-adds "
                        "of --preset, and nothing else")
    parser.add_argument("--preset", default="paper", choices=tuple(PRESETS),
                        help="for --count [%(default)s]")
    args = evaluation.parse_flags(parser, argv)
    changes = check_settings(parser, PRESETS, args, EVALUATION)
    if args.count:
        print(cost_table(PRESETS[args.preset]))
        return
    with cli(parser.prog):
        device = select_device(args.device)
        dist.start(device)
        path = best_checkpoint("avkd", args.checkpoint)
        predictor = dist.main_process_first(lambda: load_predictor(path, device, changes))
        config = evaluation.with_objects(predictor.config, args)
        sets = (scene_test_sets(config, args.protocol) if args.data == "scenes" else
                [FileTestSet(config, args.data, args.root, args.ids, args.protocol)])
        result = evaluate(predictor, sets)
        result.write(Path(args.out or path.parent), args, config, predictor.report)


if __name__ == "__main__":
    main()

"""sslalign's evaluation (4.1.2 to 4.5, 4.8), of a checkpoint or of any method's saved heatmaps.

`python -m sslalign.evaluate --checkpoint runs/sslalign/NAME/best.pt --data vggss --root DIR`
`python -m sslalign.evaluate --maps DIR --data vggss --root DIR`, see common/evaluation/saved.py
"""
import time
from dataclasses import replace
from pathlib import Path

import torch

from common import evaluation, metrics
from common.evaluation import (CONTROLS, SIZE, Batch, Evaluation, MapWriter, Prediction,
                               SavedMaps)
from common.io import load_published
from common.training import (best_checkpoint, building, cli, dist, from_dict, load_checkpoint,
                             select_device)

from .backbones.resnet import resnet18
from .backbones.views import normalise, test_view
from .config import PRESETS, TINY
from .crossmodal import cross_modal_table, draw_compositions, score_cross_modal
from .model import Sslalign, cosine_map

VARIANTS = {"": "model", "ogl/": "object-guided"}  # column → heading
AUDIO = {"matched": "", **CONTROLS}  # audio → column of its heatmaps


class Predictor:
    """A trained model, and a network whose features show objects, or None. `report` is of its
    validation.
    """

    def __init__(self, model, config, device, report=None, object_net=None, note=""):
        self.model, self.config, self.device = model.eval(), config, device
        self.report, self.object_net, self.note = report or {}, object_net, note

    @torch.no_grad()
    def encode_audio(self, waveforms):
        """(n, samples) → a (n, c)."""
        return self.model.encode_audio(waveforms.to(self.device))

    def encode_test_audio(self, test_set) -> dict:
        return evaluation.encode_test_audio(self, test_set)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """Heatmaps of the model, refined ones and those of the controls; features of the pairs."""
        views = [test_view(image, self.config.image_size) for image in batch.images]
        x = torch.stack(views).to(self.device)
        v = self.model.encode_image(x)  # once for all audio
        heatmaps = {AUDIO[kind]: cosine_map(v, a.to(self.device)).cpu()
                    for kind, a in batch.audio.items()}
        if self.object_net is not None:  # EZ-VSL's refinement (Table II, w/ OGL)
            objects = self.object_net.features(normalise(x)).mean(1).cpu()  # (n, h, w)
            maps = [metrics.resize(maps, SIZE, batch.protocol, batch.align_corners)
                    for maps in (heatmaps[""], objects)]
            heatmaps["ogl/"] = metrics.object_guided(*maps, alpha=0.4)
        return Prediction(heatmaps, self.features(v, batch.audio["matched"]))

    def features(self, v, a) -> dict:
        """What retrieval and alignment compare, (n, d) each; projections only if trained."""
        image, audio = self.model.image_features(v), self.model.audio_features(a.to(self.device))
        features = {"visual": image.pooled, "audio": audio.a}
        if self.config.align or self.config.intra:
            features |= {"visual_projected": image.projected, "audio_projected": audio.projected}
        return {name: x.float().cpu() for name, x in features.items()}


def evaluate(predictor, test_sets, maps_folder="") -> Evaluation:
    """Metrics, tables and contact sheets of all test sets.

    predictor: a Predictor or SavedMaps. maps_folder: where heatmaps and features are written.
    """
    result = Evaluation()
    for test_set in test_sets:
        audio, groups = predictor.encode_test_audio(test_set), test_set.metric_groups
        writer = MapWriter(predictor, maps_folder) if maps_folder else predictor
        scores, features = evaluation.score_samples(writer, test_set, audio)
        cross_modal = {}
        if features and "retrieval" in groups:
            cross_modal = score_cross_modal(features, test_set.labels, test_set.has_source)
        text = f"\n{cross_modal_table(cross_modal)}" if cross_modal else ""
        result.add(test_set, scores, VARIANTS, text, predictor.note)
        result.metrics |= cross_modal
        if dist.rank() == 0 and ("samples" not in result.sheets or "interactive" in groups):
            result.sheets["samples"] = evaluation.draw_samples(predictor, test_set, audio, VARIANTS)
        if dist.rank() == 0:
            result.galleries.append(evaluation.pair_gallery(predictor, test_set, audio, scores))
        if dist.rank() == 0 and cross_modal and "visual_projected" in features:
            result.sheets["compositional"] = draw_compositions(features, test_set)
    return result


def load_predictor(path, device, ogl=False, object_weights="") -> Predictor:
    """The Predictor of a checkpoint; `ogl`: with refinement by objects. Raises InputError."""
    checkpoint = load_checkpoint(path, "sslalign")
    with building(path):
        config = from_dict(PRESETS, checkpoint["config"])
        model = Sslalign(replace(config, vision_weights=""))
        model.load_state_dict(checkpoint["model"])
    model = model.to(device, memory_format=torch.channels_last)
    net, note = None, ""
    if ogl:
        net, note = model.visual, "Objects are of the visual encoder of the model itself."
    if object_weights:
        net = load_published(resnet18(), object_weights).to(device).eval()
        note = f"Objects are of {object_weights}."
    return Predictor(model, config, device, checkpoint.get("report"), net, note)


def evaluate_best(run, benchmark) -> dict:
    """The end of a training: best.pt on `benchmark` (a FileTestSet, or None) or on scenes."""
    run.end_training()
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    path = run.folder / "best.pt"
    predictor = dist.main_process_first(lambda: load_predictor(path, run.device))
    test_sets = [benchmark] if benchmark else []
    if run.config.data == "scenes" and not benchmark:
        test_sets = evaluation.test_sets(run.config, "scenes", "")
    result = evaluate(predictor, test_sets)
    return result.finish(run, predictor.report)


def main(argv=None):
    parser = evaluation.evaluation_parser("sslalign", __doc__.splitlines()[0])
    parser.add_argument("--ogl", action="store_true", help="also refine the heatmaps by objects "
                        "(Table II, w/ OGL)")
    parser.add_argument("--object-weights", default="",
                        help="published ResNet-18 for --ogl [the visual encoder]")
    evaluation.add_map_flags(parser)
    args = evaluation.parse_flags(parser, argv)
    if args.maps and (args.ogl or args.save_maps):
        parser.error("--ogl and --save-maps need a model, not --maps")
    if args.object_weights and not args.ogl:
        parser.error("--object-weights goes with --ogl")
    with cli(parser.prog):
        device, start = select_device(args.device), time.time()
        dist.start(device)
        path, config, predictor = None, TINY, None
        if args.checkpoint or not args.maps:
            path = best_checkpoint("sslalign", args.checkpoint)
            predictor = load_predictor(path, device, args.ogl, args.object_weights)
            config = predictor.config
        if args.maps:
            predictor = SavedMaps(args.maps)
        config = evaluation.with_objects(config, args)
        sets = evaluation.test_sets(config, args.data, args.root, args.ids, args.protocol)
        result = evaluate(predictor, sets, args.save_maps)
        result.metrics |= {**predictor.report, "seconds": round(time.time() - start, 1)}
        if dist.rank() == 0:
            result.write(Path(args.out or args.maps or path.parent), args, config)


if __name__ == "__main__":
    main()

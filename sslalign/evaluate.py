"""sslalign's evaluation (4.1.2 to 4.5, 4.8), of a checkpoint or of any method's saved heatmaps.

`python -m sslalign.evaluate --checkpoint runs/sslalign/NAME/best.pt --data vggss --root DIR`
`python -m sslalign.evaluate --released ours_sup_previs.pth.tar --data vggss --root DIR`
`python -m sslalign.evaluate --maps DIR --data vggss --root DIR`, see common/evaluation/saved.py
`python -m sslalign.evaluate --checkpoint FILE --training-pairs 5000`, Table VI
"""
from dataclasses import replace
from pathlib import Path

import torch

from common import evaluation, metrics
from common.benchmarks.pairs import cropped_waveform, training_pairs
from common.evaluation import (CONTROLS, SIZE, Batch, Evaluation, MapWriter, Prediction,
                               SavedMaps)
from common.evaluation.scoring import batches
from common.io import load_published
from common.training import (best_checkpoint, building, cli, dist, from_dict, load_checkpoint,
                             progress_bar, select_device)

from .augment import centre_view
from .backbones.released import load_released
from .backbones.resnet import resnet18
from .backbones.views import normalise, test_view
from .config import PAPER, PRESETS, TINY
from .crossmodal import cross_modal_table, draw_compositions, score_cross_modal
from .model import Sslalign, cosine_map

VARIANTS = {"": "model", "ogl/": "object-guided"}  # column → heading
AUDIO = {"matched": "", **CONTROLS}  # audio → column of its heatmaps


class Predictor:
    """A trained model, and a network whose features show objects, or None. `report` is of its
    validation. view: of an image, see augment.py."""

    def __init__(self, model, config, device, report=None, object_net=None, note="",
                 view=test_view):
        self.model, self.config, self.device, self.view = model.eval(), config, device, view
        self.report, self.object_net, self.note = report or {}, object_net, note

    @torch.no_grad()
    def encode_audio(self, waveforms):
        """(n, samples) → a (n, c)."""
        return self.model.encode_audio(waveforms.to(self.device))

    encode_test_audio = evaluation.encode_test_audio

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """Heatmaps of the model, refined ones and those of the controls; features of the pairs."""
        views = [self.view(image, self.config.image_size) for image in batch.images]
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

    predictor: a Predictor or SavedMaps. maps_folder: where heatmaps and features are written."""
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
        result.metrics |= {f"{test_set.prefix}{key}": x for key, x in cross_modal.items()}
        name = f"samples-{test_set.name}" if test_set.prefix else "samples"
        if dist.rank() == 0 and (name not in result.sheets or "interactive" in groups):
            result.sheets[name] = evaluation.draw_samples(predictor, test_set, audio, VARIANTS)
        if dist.rank() == 0:
            result.galleries.append(evaluation.pair_gallery(predictor, test_set, audio, scores))
        if dist.rank() == 0 and cross_modal and "visual_projected" in features:
            result.sheets["compositional"] = draw_compositions(features, test_set)
    return result


def evaluate_training_pairs(predictor, config, count: int) -> Evaluation:
    """Table VI, and Table V of instances, on the first `count` of the pairs that a training with
    this configuration has. Raises InputError."""
    source = training_pairs(replace(config, scenes=min(count, config.scenes)))[0]
    count, parts = min(count, len(source.ids)), {}
    for rows in progress_bar(batches(dist.split(count)), name="training pairs"):
        waveforms = [cropped_waveform(source.waveform(i), config) for i in rows]
        audio = {"matched": predictor.encode_audio(torch.stack(waveforms))}
        batch = Batch([source.image(i) for i in rows], audio)
        for name, x in predictor.predict(batch).features.items():
            parts.setdefault(name, []).append(x)
    features = {name: dist.merge_rows(parts.get(name, []), count).numpy()
                for name in dist.gather_objects(list(parts))[0]}
    result, scores = Evaluation(), score_cross_modal(features, [None] * count)
    result.metrics = {"samples": count, **scores}
    result.texts.append(f"{config.data}, {count} training pairs\n{cross_modal_table(scores)}")
    return result


def load_predictor(path, device, ogl=False, object_weights="", is_released=False,
                   view=test_view) -> Predictor:
    """The Predictor of a checkpoint, ours or one that the authors released; `ogl`: with refinement
    by objects. Raises InputError."""
    checkpoint, note, net = {}, "", None
    if is_released:
        config = replace(PAPER, align=False)  # there are no projections
        model = Sslalign(config)
        unused = load_released(path, model.visual, model.audio)
        note = f"Of {path}, {len(unused)} entries are not used: {', '.join(unused)}."
    else:
        checkpoint = load_checkpoint(path, "sslalign")
        with building(path):
            config = from_dict(PRESETS, checkpoint["config"])
            model = Sslalign(replace(config, vision_weights=""))
            model.load_state_dict(checkpoint["model"])
    model = model.to(device, memory_format=torch.channels_last)
    if ogl:
        net, source = model.visual, "the visual encoder of the model itself"
    if object_weights:
        net = load_published(resnet18(), object_weights).to(device).eval()
        source = object_weights
    note += f" Objects are of {source}." if net else ""
    return Predictor(model, config, device, checkpoint.get("report"), net, note.strip(), view)


def evaluate_best(run, test_sets) -> dict:
    """The end of a training: best.pt on `test_sets`, or on scenes."""
    run.end_training()
    path = run.folder / "best.pt"
    predictor = dist.main_process_first(lambda: load_predictor(path, run.device))
    if run.config.data == "scenes" and not test_sets:
        test_sets = evaluation.test_sets(run.config, "scenes", "")
    return evaluate(predictor, test_sets).finish(run, predictor.report)


def main(argv=None):
    parser = evaluation.evaluation_parser("sslalign", __doc__.splitlines()[0])
    parser.add_argument("--ogl", action="store_true", help="also refine the heatmaps by objects "
                        "(Table II, w/ OGL)")
    parser.add_argument("--object-weights", default="",
                        help="published ResNet-18 for --ogl [the visual encoder]")
    parser.add_argument("--released", default="",
                        help="checkpoint of the authors' code instead of --checkpoint")
    parser.add_argument("--keep-aspect", action="store_true", help="take the centre of an image, "
                        "not of its ground truth, as the authors did for Flickr (85.2)")
    parser.add_argument("--training-pairs", type=int, default=0, metavar="N", help="only retrieval "
                        "and alignment (Tables V, VI), of the first N pairs of the training, or of "
                        "--data vggsound or flickr-soundnet with --root and --ids")
    evaluation.add_map_flags(parser)
    args = evaluation.parse_flags(parser, argv)
    if args.training_pairs and (args.training_pairs < 2 or args.maps or args.save_maps
                                or args.out_results):
        parser.error("--training-pairs are at least 2, without --maps, --save-maps, --out-results")
    if args.maps and (args.ogl or args.save_maps):
        parser.error("--ogl and --save-maps need a model, not --maps")
    if args.released and args.checkpoint:
        parser.error("--released stands in the place of --checkpoint")
    if args.object_weights and not args.ogl:
        parser.error("--object-weights goes with --ogl")
    with cli(parser.prog):
        device = select_device(args.device)
        dist.start(device)
        path, config, predictor = None, TINY, None
        if args.released or args.checkpoint or not args.maps:
            path = Path(args.released or best_checkpoint("sslalign", args.checkpoint))
            predictor = load_predictor(path, device, args.ogl, args.object_weights,
                                       bool(args.released),
                                       centre_view if args.keep_aspect else test_view)
            config = predictor.config
        if args.maps:
            predictor = SavedMaps(args.maps)
        config = evaluation.with_objects(config, args)
        if args.training_pairs:
            given = {"data": args.data.replace("scenes", ""), "root": args.root, "ids": args.ids}
            config = replace(config, **{name: value for name, value in given.items() if value})
            result = evaluate_training_pairs(predictor, config, args.training_pairs)
            args.data = "training"
        else:
            sets = evaluation.test_sets(config, args.data, args.root, args.ids, args.protocol)
            result = evaluate(predictor, sets, args.save_maps)
        result.write(Path(args.out or args.maps or path.parent), args, config, predictor.report)


if __name__ == "__main__":
    main()

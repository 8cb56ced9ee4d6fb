"""sslalign's evaluation (4.1.2 to 4.5, 4.8), of a checkpoint or of any method's saved maps.

`python -m sslalign.evaluate --checkpoint runs/sslalign/NAME/best.pt --data scenes|BENCHMARK --root DIR [--save-maps DIR]`
`python -m sslalign.evaluate --maps DIR --data BENCHMARK --root DIR` (the files: sslalign/saved.py)
"""
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common import metrics
from common.training import dist
from common.training import Parser, from_dict
from common.io import InputError, contact_sheet, write_image, write_json
from common.training import best_checkpoint, cli, select_device, load_checkpoint, progress_bar
from common.io import load_published

from . import saved
from .config import PRESETS, TINY
from .crossmodal import compositions, cross_modal, table
from common.evaluation.measure import batches, measure
from .model import Sslalign, cosine_map
from common.evaluation.tables import BESIDE, PROTOCOL, key, report
from .backbones.resnet import resnet18
from common.evaluation.scoring import SIZE, summary
from common.evaluation.test_sets import others, sets_of
from common.evaluation.figures import samples
from .backbones.views import normalise, test_view

COLUMNS = {"model": "", "object-guided": "ogl/", **BESIDE}  # heading → prefix in metrics.json
MAPS = {"model": "map"}  # on the contact sheet


class Predictor:
    """A model: pictures and sounds → maps. `report` is of its validation.

    objects: the network whose features show objects for object-guided refinement (--ogl, Table II), None: no refinement.
    """

    def __init__(self, model, config, device, report=None, objects=None, note=""):
        self.model, self.config, self.device, self.report = model.eval(), config, device, report
        self.objects, self.note = objects, note

    @torch.no_grad()
    def look(self, images):
        """n pictures (H, W, 3) uint8 → v (n, c, h, w)."""
        return self.model.look(self._views(images))

    @torch.no_grad()
    def listen(self, waveforms):
        """(n, samples) → a (n, c)."""
        return self.model.listen(waveforms.to(self.device))

    def _views(self, images):
        return torch.stack([test_view(image, self.config.image_size) for image in images]).to(self.device)

    def on(self, test):
        """Hear all of a set → a function of rows: maps by column {name: (n, h, w)}, features {name: (n, d)}, on the CPU."""
        parts = progress_bar(batches(list(dist.split(len(test.ids)))), name=f"listening, {test.name}")
        a = dist.merge_rows([self.listen(torch.stack([test.waveform(i) for i in rows])) for rows in parts], len(test.ids))
        silence = self.listen(torch.zeros(1, round(self.config.crop * self.config.sample_rate))).cpu()
        sounds = {"model": a, "shuffled": a[others(test.groups)], "silent": silence.expand(len(a), -1)}
        return partial(self._answer, test, sounds)

    @torch.no_grad()
    def _answer(self, test, sounds, rows):
        views = self._views([test.image(i) for i in rows])
        v = self.model.look(views)  # once for all sounds
        maps = {kind: cosine_map(v, a[rows].to(self.device)).cpu() for kind, a in sounds.items()}
        if self.objects is not None:
            objects, own = (metrics.resize(x, SIZE, PROTOCOL, test.aligned) for x in (object_map(self.objects, views).cpu(), maps["model"]))
            maps["object-guided"] = metrics.object_guided(own, objects, alpha=0.4)
        seen, heard = self.model.see(v), self.model.hear(sounds["model"][rows].to(self.device))
        features = {"visual": seen.pooled, "audio": heard.a}
        if self.config.align or self.config.intra:  # else nothing has trained the projections
            features |= {"visual_projected": seen.projected, "audio_projected": heard.projected}
        return maps, {name: x.float().cpu() for name, x in features.items()}


def object_map(net, views):
    """(n, 3, H, W) in [0, 1] → (n, h, w): the mean over channels of a ResNet's last map, which is nowhere negative (EZ-VSL)."""
    return net.features(normalise(views)).mean(1)


def keep(folder, test, rows, maps, features) -> None:
    """Maps and features to the folder of --save-maps."""
    for k, i in enumerate(rows):
        saved.write(folder, test.ids[i], maps["model"][k], features["visual"][k], features["audio"][k])


def evaluate(predictor, sets, save="") -> tuple[dict, dict]:
    """All sets: flat metrics, and contact sheets by name (the arguments of common.io.contact_sheet but the path).

    predictor: a Predictor, or saved.Saved. Prints a table for each set. save: a folder for maps, features.
    """
    result, pages = {}, {}
    for test in sets:
        answer = predictor.on(test)
        merged = measure(answer, test, "model", partial(keep, save, test) if save else None)
        features = merged.pop("features", {})
        columns = {kind: summary(merged[kind], test.feeds, test.groups, test.sounding) for kind in COLUMNS if kind in merged}
        result |= {key(COLUMNS[kind], name): x for kind, named in columns.items() for name, x in named.items()}
        related = {}
        if features and "retrieval" in test.feeds:
            heard = np.flatnonzero(test.sounding)
            related = cross_modal({name: x[heard] for name, x in features.items()}, [test.labels[i] for i in heard])
            result |= related
        if dist.rank() == 0:
            undefined = metrics.undefined(merged["model"]["ciou"][test.sounding])
            print(report(test, columns, undefined, related and f"\n{table(related)}", predictor.note))
            if "samples" not in pages or "interactive" in test.feeds:
                pages["samples"] = samples(answer, test, MAPS)
            if "retrieval" in test.feeds and "visual_projected" in features:
                pages["compositional"] = compositions(features, test)
    return {**result, "samples": len(sets[0].ids), "protocol": PROTOCOL}, pages


def load(path, device, ogl=False, object_weights="") -> Predictor:
    """The model of a checkpoint; with ogl one whose maps are also refined by objects. Raises InputError."""
    checkpoint = load_checkpoint(path, "sslalign")
    try:
        config = from_dict(PRESETS, checkpoint["config"])
        model = Sslalign(replace(config, vision_weights=""))
        model.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(path, " ".join(str(error).split())[:300]) from None
    model = model.to(device, memory_format=torch.channels_last)
    objects, note = None, ""
    if ogl:
        objects = load_published(resnet18(), object_weights).to(device).eval() if object_weights else model.visual
        note = f"Objects are shown by {object_weights or 'the visual encoder of the model itself'}."
    return Predictor(model, config, device, checkpoint.get("report", {}), objects, note)  # last.pt may have no report yet


def evaluate_best(run, benchmark) -> dict:
    """The end of a training: evaluate best.pt on the benchmark (a FileSet, or None) or on scenes; metrics.json and sheets."""
    run.end_training()
    scenes = run.config.data == "scenes" and not benchmark
    sets = sets_of(run.config, "scenes", "") if scenes else [benchmark] if benchmark else []
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    dist.gather_objects(None)  # best.pt is there
    predictor = load(run.folder / "best.pt", run.device)
    result, pages = evaluate(predictor, sets) if sets else ({}, {})
    for name, page in pages.items():  # of the main process alone
        write_image(run.folder / f"{name}.png", contact_sheet(**page))
    return run.write_metrics({**result, **predictor.report})


def main(argv=None):
    prog = "python -m sslalign.evaluate"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--data", default="scenes", help="scenes, or a benchmark of common.benchmarks: vggss, flickr, is3, …")
    parser.add_argument("--root", default="", help="folder of the benchmark")
    parser.add_argument("--objects", default="", help="folder of which scenes are composed; default: the one of the training")
    parser.add_argument("--out", default="", help="folder for metrics-DATA.json and pictures [the checkpoint's, or --maps]")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--ogl", action="store_true", help="also refine the maps by objects (Table II, w/ OGL)")
    parser.add_argument("--object-weights", default="", help="published ResNet-18 for --ogl [the visual encoder]")
    parser.add_argument("--save-maps", default="", help="write maps and features to this folder")
    parser.add_argument("--maps", default="", help="folder of maps to evaluate instead of a model's (see sslalign/saved.py); "
                        "scenes are then those of --checkpoint or, without, of the preset tiny")
    args = parser.parse_args(argv)
    if not args.data:
        parser.error("--data must name scenes or a benchmark")
    if args.maps and (args.ogl or args.save_maps):
        parser.error("--ogl and --save-maps need a model, not --maps")
    if args.object_weights and not args.ogl:
        parser.error("--object-weights goes with --ogl")
    with cli(prog):
        device = select_device(args.device)
        dist.start(device)
        path, start = None if args.maps and not args.checkpoint else best_checkpoint("sslalign", args.checkpoint), time.time()
        model = load(path, device, args.ogl, args.object_weights) if path else None
        predictor, config = saved.Saved(args.maps) if args.maps else model, model.config if model else TINY
        config = replace(config, objects=args.objects or config.objects)
        result, pages = evaluate(predictor, sets_of(config, args.data, args.root), args.save_maps)
        if dist.rank() == 0:
            out = Path(args.out or args.maps or path.parent)
            out.mkdir(parents=True, exist_ok=True)
            result |= {**(predictor.report or {}), "seconds": round(time.time() - start, 1)}
            write_json(out / f"metrics-{args.data}.json", {**result, "seed": config.seed, "preset": config.preset})
            for name, page in pages.items():
                write_image(out / f"{name}-{args.data}.png", contact_sheet(**page))


if __name__ == "__main__":
    main()

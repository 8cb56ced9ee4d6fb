"""avkd's evaluation (4.1 to 4.6): the AVC model and its object-guided variants, of a checkpoint.

`python -m avkd.evaluate --checkpoint runs/avkd/NAME/best.pt --data scenes|BENCHMARK --root DIR`
`python -m avkd.evaluate --count --preset paper`
"""
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from common import metrics
from common.training import dist
from common.training import Parser, from_dict
from common.io import InputError, contact_sheet, write_image, write_json
from common.training import best_checkpoint, cli, select_device, load_checkpoint, progress_bar
from common.io import load_published

from . import small
from .config import PRESETS
from .count import table
from .backbones.detr import detr_r50
from common.evaluation.measure import batches, measure
from .model import Avkd, localization_map
from common.evaluation.tables import BESIDE, PROTOCOL, key, report
from .backbones.resnet import resnet18
from common.evaluation.scoring import SIZE, summary
from common.evaluation.test_sets import CROSS_MODAL, others, sets_of
from common.evaluation.figures import samples
from .backbones.views import normalise, test_view

COLUMNS = {"AVC": "avc/", "OG-AVC": "og/", "OG-AVC-DETR": "og_detr/", **BESIDE}  # heading → prefix in metrics.json
MAPS = {"AVC": "AVC", "OG-AVC": "OG-AVC", "OG-AVC-DETR": "OG-AVC-DETR"}  # on the contact sheet
CONFIDENT = 0.3  # the least confidence of a query that shows an object (3.5)


class Objects(nn.Module):
    """What the object-guided variants see in a picture, without hearing (3.5): a map of objects, and one of detections."""

    def __init__(self, resnet=None, detr=None, detr_size=224):
        super().__init__()
        self.resnet, self.detr, self.detr_size = resnet, detr, detr_size

    def maps(self, view):
        """view: a function of a size S → pictures (n, 3, S, S) in [0, 1]. Returns objects (n, h, w), and detections as `confident` gives
        them, of the last decoder layer's attention; or None. ResNet-18 sees them at 224, whatever the AVC model sees."""
        objects = self.resnet.features(normalise(view(224))).mean(1)
        if self.detr is None:
            return objects, None
        answer = self.detr(normalise(view(self.detr_size)))
        return objects, confident(answer["pred_logits"].softmax(-1)[..., :-1].amax(-1), answer["attention"])


class SmallObjects(nn.Module):
    """The same from the small visual teacher of scenes: its last map before the projection, and where it is confident of a class."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def maps(self, view):
        views = view(self.detector.config.image_size)
        found = self.detector(views).softmax(1)[:, :-1]  # (n, classes, h, w)
        return self.detector.body.features(normalise(views)).mean(1), confident(found.amax((2, 3)), found)


def confident(confidence, maps):
    """confidence (n, Q), maps (n, Q, h, w) → the mean (n, h, w) of maps whose confidence is at least 0.3 (3.5), and whether there is
    any (n,); zeros where there is none."""
    chosen = confidence >= CONFIDENT  # (n, Q)
    count = chosen.sum(1)
    return torch.einsum("nq,nqhw->nhw", chosen.to(maps.dtype), maps) / count.clamp(min=1)[:, None, None], count > 0


def guided(avc, objects):
    """OG-AVC (3.5): maps (n, h, w), each from 0 to 1 before they are added, 0.6 of the AVC model's and 0.4 of the objects'."""
    return 0.6 * metrics.normalise(avc) + 0.4 * metrics.normalise(objects)


def guided_by_detr(avc, objects, detections, there):
    """OG-AVC-DETR (3.5): maps (n, h, w), a third of each; halves of the first two in pictures without a detection. there (n,) bool."""
    share = torch.where(there, 1 / 3, 1 / 2)[:, None, None]
    return share * (metrics.normalise(avc) + metrics.normalise(objects) + metrics.normalise(detections) * there[:, None, None])


class Predictor:
    """A model: pictures and sounds → maps. `report` is of its validation. objects: an Objects or SmallObjects, or None."""

    def __init__(self, model, config, device, report=None, objects=None, note=""):
        self.model, self.config, self.device, self.report = model.eval(), config, device, report
        self.objects, self.note = objects, note

    def views(self, images, size):
        """n pictures (H, W, 3) uint8 → (n, 3, size, size) on the device."""
        return torch.stack([test_view(image, size) for image in images]).to(self.device)

    @torch.no_grad()
    def listen(self, waveforms):
        """(n, samples) → f_a (n, c)."""
        return self.model.listen(waveforms.to(self.device))

    @torch.no_grad()
    def maps(self, images, sounds: dict, aligned=False) -> dict:
        """n pictures (H, W, 3) uint8, sounds {column: f_a (n, c)}, of which AVC is the pictures' own → {column: (n, h, w)} on the CPU."""
        f_v = self.model.look(self.views(images, self.config.image_size))  # once for all sounds
        maps = {kind: localization_map(f_v, f_a.to(self.device)).cpu() for kind, f_a in sounds.items()}
        if self.objects is not None:
            def whole(x):
                return metrics.resize(x.cpu(), SIZE, PROTOCOL, aligned)
            objects, detected = self.objects.maps(partial(self.views, images))
            avc, objects = whole(maps["AVC"]), whole(objects)
            maps["OG-AVC"] = guided(avc, objects)
            if detected is not None:
                maps["OG-AVC-DETR"] = guided_by_detr(avc, objects, whole(detected[0]), detected[1].cpu())
        return maps

    def on(self, test):
        """Hear all of a set → a function of rows: maps by column {name: (n, h, w)}, and no features, on the CPU."""
        parts = progress_bar(batches(list(dist.split(len(test.ids)))), name=f"listening, {test.name}")
        f_a = dist.merge_rows([self.listen(torch.stack([test.waveform(i) for i in rows])) for rows in parts], len(test.ids))
        silence = self.listen(torch.zeros(1, round(self.config.crop * self.config.sample_rate))).cpu()
        sounds = {"AVC": f_a, "shuffled": f_a[others(test.groups)], "silent": silence.expand(len(f_a), -1)}
        return partial(self._answer, test, sounds)

    def _answer(self, test, sounds, rows):
        images = [test.image(i) for i in rows]
        return self.maps(images, {kind: f_a[rows] for kind, f_a in sounds.items()}, test.aligned), {}


def evaluate(predictor, sets) -> tuple[dict, dict]:
    """All sets: flat metrics, and contact sheets by name (the arguments of common.io.contact_sheet but the path). Prints a table for
    each set."""
    result, pages = {}, {}
    for test in sets:
        test.feeds = tuple(group for group in test.feeds if group not in CROSS_MODAL)  # this paper has no retrieval
        answer = predictor.on(test)
        merged = measure(answer, test, "AVC")
        columns = {kind: summary(merged[kind], test.feeds, test.groups, test.sounding) for kind in COLUMNS if kind in merged}
        result |= {key(COLUMNS[kind], name): x for kind, named in columns.items() for name, x in named.items()}
        if dist.rank() == 0:
            print(report(test, columns, metrics.undefined(merged["AVC"]["ciou"][test.sounding]), predictor.note))
            if "samples" not in pages or "interactive" in test.feeds:
                pages["sounds" if "interactive" in test.feeds else "samples"] = samples(answer, test, MAPS)
    return {**result, "samples": len(sets[0].ids), "protocol": PROTOCOL}, pages


def load(path, device, object_weights="", detr="", detr_size=224, make=False) -> Predictor:
    """The model of a checkpoint. The object-guided variants need published weights, of ResNet-18 and of DETR; on scenes the small
    visual teacher serves, where its file is there; make: it is trained where it is not. Raises InputError."""
    checkpoint = load_checkpoint(path, "avkd")
    try:
        config = from_dict(PRESETS, checkpoint["config"])
        model = Avkd(replace(config, vision_weights=""))
        model.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(path, " ".join(str(error).split())[:300]) from None
    objects, note = None, "No object-guided variants: --object-weights names a ResNet-18, --detr a DETR-R50."
    if object_weights:
        detector = load_published(detr_r50(), detr, "model") if detr else None
        objects = Objects(load_published(resnet18(), object_weights), detector, detr_size)
        note = "" if detr else "No OG-AVC-DETR: --detr names a DETR-R50."
    elif config.data == "scenes" and (make or small_teacher_there(config)):
        objects, note = SmallObjects(small.teacher("e_v", config, device)), "Objects and detections are the small visual teacher's."
    model = model.to(device, memory_format=torch.channels_last)
    return Predictor(model, config, device, checkpoint.get("report", {}), objects and objects.to(device).eval(), note)


def small_teacher_there(config) -> bool:
    there = not config.objects or Path(config.objects).is_dir()  # of what it was trained on
    return there and small.weights("e_v", config).is_file()


def evaluate_best(run, benchmark) -> dict:
    """The end of a training: evaluate best.pt on the benchmark (a FileSet, or None) or on scenes; metrics.json and sheets."""
    run.end_training()
    scenes = run.config.data == "scenes" and not benchmark
    sets = sets_of(run.config, "scenes", "") if scenes else [benchmark] if benchmark else []
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    predictor = first_here(lambda: load(run.folder / "best.pt", run.device, make=True))
    result, pages = evaluate(predictor, sets) if sets else ({}, {})
    for name, page in pages.items():  # of the main process alone
        write_image(run.folder / f"{name}.png", contact_sheet(**page))
    return run.write_metrics({**result, **predictor.report})


def first_here(make):
    """make(), in the main process before the others: it writes files that they only read."""
    made = make() if dist.rank() == 0 else None
    dist.gather_objects(None)
    return made or make()


def main(argv=None):
    prog = "python -m avkd.evaluate"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--data", default="scenes", help="scenes, or a benchmark of common.benchmarks: flickr, vggss, …")
    parser.add_argument("--root", default="", help="folder of the benchmark")
    parser.add_argument("--objects", default=None, metavar="DIR", help="folder of which scenes are composed, or procedural for "
                        "the built-in ones [those of the training]")
    parser.add_argument("--out", default="", help="folder for metrics-DATA.json and pictures [the checkpoint's]")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--object-weights", default="", help="published ResNet-18 for the object-guided variants")
    parser.add_argument("--detr", default="", help="published DETR-R50 for OG-AVC-DETR")
    parser.add_argument("--detr-size", type=int, default=224, help="side of the picture that DETR sees; the paper's "
                        "FLOPs are of 800 [%(default)s]")
    parser.add_argument("--count", action="store_true", help="print parameters and multiply-adds of --preset, and nothing else")
    parser.add_argument("--preset", default="paper", choices=tuple(PRESETS), help="for --count [%(default)s]")
    args = parser.parse_args(argv)
    if not args.data:
        parser.error("--data must name scenes or a benchmark")
    if args.detr and not args.object_weights:
        parser.error("--detr goes with --object-weights")
    if args.count:
        print(table(PRESETS[args.preset]))
        return
    with cli(prog):
        device = select_device(args.device)
        dist.start(device)
        path, start = best_checkpoint("avkd", args.checkpoint), time.time()
        predictor = first_here(lambda: load(path, device, args.object_weights, args.detr, args.detr_size))
        bank = predictor.config.objects if args.objects is None else "" if args.objects == "procedural" else args.objects
        result, pages = evaluate(predictor, sets_of(replace(predictor.config, objects=bank), args.data, args.root))
        if dist.rank() == 0:
            out, tag = Path(args.out or path.parent), args.data
            if args.objects is not None:
                tag += f"-{Path(bank).name or 'procedural'}"
            out.mkdir(parents=True, exist_ok=True)
            result |= {**(predictor.report or {}), "seconds": round(time.time() - start, 1)}
            write_json(out / f"metrics-{tag}.json", {**result, "seed": predictor.config.seed, "preset": predictor.config.preset})
            for name, page in pages.items():
                write_image(out / f"{name}-{tag}.png", contact_sheet(**page))


if __name__ == "__main__":
    main()

"""TURN's evaluation: the box that a sound, a phrase or a random vector finds, against the annotated ones (section 4.1).

`python -m turn.evaluate --checkpoint runs/turn/NAME/best.pt --data scenes|BENCHMARK --root DIR`
"""
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common import benchmarks, metrics
from common.training import dist
from common.training import Parser, from_dict
from common.io import InputError, contact_sheet, overlay, read_image, write_image, write_json
from common.training import best_checkpoint, cli, select_device, load_checkpoint, markdown_table, progress_bar
from common.scenes import Scenes

from .augment import test_view
from .config import PRESETS
from .data import TEST, TEST_3, logmel_of, read_logmel
from .losses import corners
from .model import Turn
from .tokenizer import WordPiece

SIZE = 384  # side of the maps on which boxes are compared, as in the released evaluation
SHOWN = 8  # samples on a contact sheet
KINDS = {"audio": "sound (TURN with query)", "text": "phrase", "random": "random vector (TURN without query)",
         "shuffled": "control: another sample's sound", "silent": "control: silence", "centre": "floor: central half",
         "whole": "floor: whole picture"}


class TestScenes:
    """Held-out scenes with `objects` objects in each, the same for every seed of training."""

    def __init__(self, config, objects: int):
        scenes = Scenes(TEST if objects == 2 else TEST_3, config.image_size, config.sample_rate, config.seconds, objects,
                        config.objects or None)
        self.config, self.name = config, f"scenes of {objects}"
        self.samples = [scenes.pair(i) for i in progress_bar(range(config.held_out), name=f"drawing {self.name}")]

    def __len__(self):
        return len(self.samples)

    def query(self, i):
        """→ log-mel (L_m, c), phrase."""
        return logmel_of(torch.from_numpy(self.samples[i].waveform), self.config), self.samples[i].phrase

    def picture(self, i):
        """→ picture (H, W, 3) uint8, truth (SIZE, SIZE) in [0, 1]."""
        return self.samples[i].image, metrics.boxes_to_map(self.samples[i].box[None] * SIZE, SIZE)


class TestFiles:
    """What is on disk of a benchmark, in the same form. Its class name stands in for a phrase."""

    def __init__(self, config, name: str, root: str):
        self.config, self.name = config, name
        if name in benchmarks.UNANNOTATED:
            raise InputError("--data", f"nobody drew boxes for {name}: it cannot be evaluated on")
        self.samples = [s for s in benchmarks.load_samples(name, root) if s.sounding]
        if not self.samples:
            raise InputError(root, f"nothing of {name} is here")

    def __len__(self):
        return len(self.samples)

    def query(self, i):
        sample = self.samples[i]
        return read_logmel(sample.audio, self.config, sample.seconds), f"the {sample.label or 'object'}"

    def picture(self, i):
        return read_image(self.samples[i].image), benchmarks.gt_map(self.samples[i], SIZE)


def tests_of(config, data: str, root: str) -> dict:
    """Prefixes of metrics → test sets."""
    if data == "scenes":
        return {"": TestScenes(config, 2), "three/": TestScenes(config, 3)}
    return {"": TestFiles(config, data, root)}


class Predictor:
    """A model and its tokenizer: pictures and queries → boxes in the whole picture. `report` is of its validation."""

    def __init__(self, model, tokenizer, config, device, report=None):
        self.model, self.tokenizer, self.config, self.device, self.report = model.eval(), tokenizer, config, device, report

    def texts(self, phrases):
        """n phrases → q (n, d)."""
        return self.model.query(tokens=self.tokenizer.encode(phrases, self.config.text_length).to(self.device))

    def sounds(self, logmels):
        """(n, L_m, c) → q (n, d)."""
        return self.model.query(logmel=logmels.to(self.device))

    def boxes(self, images, queries: list):
        """n pictures (H, W, 3) uint8 and several q (n, d) → for each q, boxes (n, 4) x0, y0, x1, y1 in [0, 1]."""
        views = [test_view(image, self.config.image_size, self.config.centre_crop) for image in images]
        stream, found = self.model.localization, torch.empty(len(queries), len(images), 4)
        for shape in {view[0].shape for view in views}:  # one at a time: no box depends on what else is in the batch
            rows = [i for i, view in enumerate(views) if view[0].shape == shape]
            embedded = stream.embed(torch.stack([views[i][0] for i in rows]).to(self.device))  # once for all queries
            for boxes, q in zip(found, queries):
                boxes[rows] = stream.locate(*embedded, q[rows]).cpu()
        back = torch.stack([view[2].to_picture(boxes) for boxes, view in zip(found.unbind(1), views)], 1)  # (queries, n, 4)
        return list(corners(back).clamp(0, 1))


@torch.no_grad()
def score(predictor, test, batch_size: int = 50) -> tuple[dict, list]:
    """The metrics of every kind of query, floors and controls among them, and what a contact sheet shows.

    audio, random and text are TURN with query, without (Tables 1, 2) and with a phrase in the sound's place. shuffled has
    the sound of the sample half the list away, silent has none. whole and centre look at nothing: the whole picture, its
    central half.
    """
    own = list(dist.split(len(test)))
    batches = [own[i:i + batch_size] for i in range(0, len(own), batch_size)]
    queries, said = {"audio": [], "text": []}, []
    for batch in progress_bar(batches, name=f"listening, {test.name}"):
        logmels, phrases = zip(*(test.query(i) for i in batch))
        said += phrases
        queries["audio"].append(predictor.sounds(torch.stack(logmels)).cpu())
        queries["text"].append(predictor.texts(phrases).cpu())
    queries = {kind: dist.merge_rows(q, len(test)) for kind, q in queries.items()}
    queries["random"] = predictor.model.random_query(len(test), torch.Generator().manual_seed(0))
    queries["shuffled"] = queries["audio"].roll(len(test) // 2, 0)  # neighbours in a list may be of one video
    silence = logmel_of(torch.zeros(1, round(predictor.config.seconds * predictor.config.sample_rate)), predictor.config)
    queries["silent"] = predictor.sounds(silence).cpu().expand(len(test), -1)
    values, sheet = {kind: [] for kind in [*queries, "whole", "centre"]}, []
    for batch in progress_bar(batches, name=f"looking, {test.name}"):
        images, truth = zip(*(test.picture(i) for i in batch))
        truth = np.stack(truth)
        found = dict(zip(queries, predictor.boxes(images, [q[batch].to(predictor.device) for q in queries.values()])))
        floors = metrics.baseline_values(truth)
        for kind in values:
            values[kind].append(floors[kind] if kind in floors else metrics.ciou(box_maps(found[kind]), truth))
        for j in range(min(SHOWN - len(sheet), len(batch))):
            tiles = [overlay(images[j], boxes=[found[kind][j]], gt=truth[j] > 0, size=(144, 144)) for kind in queries]
            sheet.append((said[len(sheet)], tiles))
    result = {}
    for kind, parts in values.items():
        ciou = dist.merge_rows([torch.as_tensor(part) for part in parts], len(test)).numpy()
        result |= {f"{kind}/ciou@0.5": metrics.success_rate(ciou), f"{kind}/auc": metrics.auc(ciou), f"{kind}/miou": metrics.mean(ciou)}
    return {**result, "samples": len(test)}, sheet


def box_maps(boxes):
    """(n, 4) in [0, 1] → masks (n, SIZE, SIZE)."""
    return metrics.boxes_to_map(boxes[:, None].numpy() * SIZE, SIZE)


@torch.no_grad()
def validate(model, tokenizer, held_out, dev, config, device) -> dict:
    """The score by which best.pt is chosen, and its parts: grounding by phrases and retrieval of sounds by captions, both in
    the training domains; or, where there is a `dev` set, localization by sounds on that (A.2.3)."""
    source, intermediate = held_out
    predictor = Predictor(model, tokenizer, config, device)
    hits, t, a = [], [], []
    own = list(dist.split(len(source)))
    for i in range(0, len(own), 50):
        rows = own[i:i + 50]
        images, truth = zip(*(source[j] for j in rows))
        boxes = predictor.boxes(images, [predictor.texts([source.texts[j][0] for j in rows])])[0]
        hits.append(metrics.box_iou(boxes, corners(torch.from_numpy(np.stack(truth)))))
    own = list(dist.split(len(intermediate)))
    for i in range(0, len(own), 50):
        rows = own[i:i + 50]
        tokens = tokenizer.encode([intermediate.texts[j][0] for j in rows], config.text_length).to(device)
        logmels = torch.stack([intermediate[j] for j in rows]).to(device)
        t.append(model.alignment.text(tokens).cpu()), a.append(model.alignment.audio(logmels).cpu())
    t, a = dist.merge_rows(t, len(intermediate)), dist.merge_rows(a, len(intermediate))
    grounding = metrics.success_rate(dist.merge_rows(hits, len(source)))
    retrieval = metrics.retrieval(t, a, k=(10,))["forward"][10]
    report = {"validation/text_ciou@0.5": grounding, "validation/t2a_r@10": retrieval, "validation/score": (grounding + retrieval) / 2}
    if dev is not None:
        report["validation/score"] = score(predictor, dev)[0]["audio/ciou@0.5"]
    return report


def evaluate(predictor, tests: dict) -> tuple[dict, dict]:
    """All test sets: flat metrics, and contact sheets by prefix. Prints a table for each."""
    result, sheets = {}, {}
    for prefix, test in tests.items():
        scores, sheets[prefix] = score(predictor, test)
        result |= {prefix + key: value for key, value in scores.items()}
        if dist.rank() == 0:
            rows = [[text, *(f"{100 * scores[f'{kind}/{m}']:.1f}" for m in ("ciou@0.5", "auc", "miou"))] for kind, text in KINDS.items()]
            print(f"\n{test.name}, N = {len(test)}\n" + markdown_table(rows, ["query", "cIoU@0.5", "AUC", "mean IoU"]))
    return result, sheets


def load(path, device) -> Predictor:
    """The model of a checkpoint. Raises InputError."""
    checkpoint = load_checkpoint(path, "turn")
    try:
        config = from_dict(PRESETS, checkpoint["config"])
        tokenizer = WordPiece(checkpoint["tokens"])
        model = Turn(replace(config, detr_weights=""), tokenizer)
        model.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(path, " ".join(str(error).split())[:300]) from None
    return Predictor(model.to(device), tokenizer, config, device, checkpoint.get("report", {}))  # last.pt may have none yet


def finish(run, benchmark) -> dict:
    """The end of a training: evaluate best.pt on the benchmark or on scenes, write metrics.json and samples.png."""
    run.end_training()
    scenes = run.config.data == "scenes" and not benchmark
    tests = tests_of(run.config, "scenes", "") if scenes else {"": benchmark} if benchmark else {}
    if run.is_main:
        print(f"{run.folder}: trained for {run.step} steps; now best.pt is evaluated")
    dist.gather_objects(None)  # best.pt is there
    predictor = load(run.folder / "best.pt", run.device)
    result, sheets = evaluate(predictor, tests)
    if run.is_main and sheets:
        write_sheet(sheets[""], run.folder / "samples.png")
    return run.write_metrics({**result, **predictor.report})


def write_sheet(sheet, path) -> None:
    """A column for each sample, headed by its phrase; a row for each kind of query."""
    phrases, columns = zip(*sheet)
    headings = [KINDS[kind] for kind in list(KINDS)[:len(columns[0])]]
    write_image(path, contact_sheet(list(zip(*columns)), phrases, headings, "cyan: the box that is found; lime: the truth"))


def main(argv=None):
    prog = "python -m turn.evaluate"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--data", default="scenes", help="scenes, or a benchmark of common.benchmarks: vggss, flickr, music-solo, …")
    parser.add_argument("--root", default="", help="folder of the benchmark")
    parser.add_argument("--objects", default="", help="folder of which scenes are composed; default: the one of the training")
    parser.add_argument("--out", default="", help="folder for metrics-DATA.json and samples-DATA.png; default: the checkpoint's")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    args = parser.parse_args(argv)
    if not args.data:
        parser.error("--data must name scenes or a benchmark")
    with cli(prog):
        device = select_device(args.device)
        dist.start(device)
        path, start = best_checkpoint("turn", args.checkpoint), time.time()
        predictor = load(path, device)
        config = replace(predictor.config, objects=args.objects or predictor.config.objects)
        result, sheets = evaluate(predictor, tests_of(config, args.data, args.root))
        if dist.rank() == 0:
            out = Path(args.out or path.parent)
            out.mkdir(parents=True, exist_ok=True)
            result |= {**(predictor.report or {}), "seconds": round(time.time() - start, 1)}
            write_json(out / f"metrics-{args.data}.json", {**result, "seed": config.seed, "preset": config.preset})
            write_sheet(sheets[""], out / f"samples-{args.data}.png")


if __name__ == "__main__":
    main()

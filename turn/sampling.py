"""Adaptive sampling, section 3.6: how often an item is drawn, by how exclusive its text is.

symbol     here         shape
Φ          classifier   tokens (n, L_t) → (n,)   logits, high for texts of the source domain
Φ(t_i)     scores       (n,)                     of the n items of a domain
w_i        weights      (n,)                     sampling weights of a domain, of sum 1
k          k                                     the largest weight is k times the smallest

>>> sampling_weights(np.array([0.0, 1.0]), k=4, sign=-1)
array([0.8, 0.2])
"""
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.evaluation import TILE
from common.io import InputError, atomic, contact_sheet, limited_memory, overlay, write_image
from common.training import Parser, best_checkpoint, cli, cosine_schedule, dist, progress_bar

from .backbones.transformer import Transformer, add_positions, masked_mean
from .domains import load_domains
from .evaluate import load_predictor
from .losses import corners

ORDER = 30  # stream of random numbers [seed, ORDER, first step of an epoch]: the order of the texts
SEED_OFFSET = 7  # the classifier's torch seed is config.seed + SEED_OFFSET
SIGNS = {"source": -1, "intermediate": 1}  # of Φ in Eq. (12)


class DomainClassifier(nn.Module):
    """Φ of Eq. (11): tokens (B, L_t) → logits (B,). The paper does not say what Φ is made of."""

    def __init__(self, tokenizer, d: int = 64):
        super().__init__()
        self.pad_id, self.words = tokenizer.pad, nn.Embedding(len(tokenizer), d)
        self.encoder = Transformer(d, heads=4, layers=1, ffn=4, dropout=0.1)
        self.out = nn.Linear(d, 1)

    def forward(self, tokens):
        padding = tokens == self.pad_id  # (B, L_t)
        x = self.encoder(add_positions(self.words(tokens)), padding)  # (B, L_t, d)
        return self.out(masked_mean(x, padding))[:, 0]


def train_classifier(source, intermediate, tokenizer, config, device) -> DomainClassifier:
    """Minimise Eq. (11), as a mean over each mini-batch, for config.sampler_epochs epochs.

        L_ext = −Σ log σ(Φ(tˢ)) − Σ log(1 − σ(Φ(tᵐ))),   sums over the texts of each domain
    """
    texts, size = (source.all_texts(), intermediate.all_texts()), config.batch_size
    tokens = tokenizer.encode(texts[0] + texts[1], config.text_length)  # (n, L_t)
    labels = torch.cat([torch.ones(len(texts[0])), torch.zeros(len(texts[1]))])  # (n,), 1: source
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed + SEED_OFFSET)
        classifier = DomainClassifier(tokenizer).to(device)
        optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=config.weight_decay)
        steps_per_epoch = -(-len(tokens) // size)
        total = config.sampler_epochs * steps_per_epoch
        for step in progress_bar(range(total), name="domain classifier"):
            if step % steps_per_epoch == 0:
                rng = np.random.default_rng([config.seed, ORDER, step])
                order = torch.from_numpy(rng.permutation(len(tokens)))
            rows = order[step % steps_per_epoch * size:][:size]
            rate = cosine_schedule(step, total, steps_per_epoch // 10 + 1)
            optimizer.param_groups[0]["lr"] = config.sampler_lr * rate
            loss = F.binary_cross_entropy_with_logits(classifier(tokens[rows].to(device)),
                                                      labels[rows].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return classifier.eval()


@torch.no_grad()
def domain_scores(classifier, domain, tokenizer, config, device) -> np.ndarray:
    """Φ of the items of a domain, (n,) float64; of an item with several captions their mean."""
    tokens = tokenizer.encode(domain.all_texts(), config.text_length)
    logits = torch.cat([classifier(part.to(device)) for part in tokens.split(4096)])
    counts = np.array([len(item) for item in domain.texts])
    return np.add.reduceat(logits.double().cpu().numpy(), np.cumsum(counts) - counts) / counts


def sampling_weights(scores: np.ndarray, k: float, sign: int) -> np.ndarray:
    """The sampling weights of a domain, Eqs. (12) and (13).

        wᵢ = exp(±Φ(tᵢ)/τ) / Σⱼ exp(±Φ(tⱼ)/τ),   τ = (max Φ − min Φ) / ln k

    max and min over the domain; sign, of SIGNS, is − in the source, + in the intermediate domain.
    scores: (n,). Returns (n,), uniform if all scores are equal or k is 1."""
    spread = scores.max() - scores.min()
    if spread == 0 or k == 1:
        return np.full(len(scores), 1 / len(scores))
    tau = spread / np.log(k)
    shift = scores.max() if sign > 0 else scores.min()  # against overflow; it cancels
    w = np.exp(sign * (scores - shift) / tau)
    return w / w.sum()


def adaptive_weights(source, intermediate, tokenizer, config, run) -> tuple:
    """The weights of both domains. Their scores are computed once in a run, into sampling.npz."""
    path, domains = run.folder / "sampling.npz", {"source": source, "intermediate": intermediate}
    if run.is_main and not (config.resume and path.exists()):
        classifier = train_classifier(source, intermediate, tokenizer, config, run.device)
        scores = {name: domain_scores(classifier, domain, tokenizer, config, run.device)
                  for name, domain in domains.items()}
        with atomic(path) as f:
            np.savez(f, **scores)
        if not config.resume:
            print_exclusive_items(domains, scores)
    dist.gather_objects(None)  # wait for the main process
    scores = read_scores(path, domains)
    return tuple(sampling_weights(scores[name], config.k, SIGNS[name]) for name in domains)


def read_scores(path, domains: dict) -> dict:
    """Φ of the items of both domains, from the sampling.npz of a run. Raises InputError."""
    try:
        with limited_memory(path), np.load(path, allow_pickle=False) as saved:
            scores = {name: saved[name] for name in domains}
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(path, f"not the scores of a run ({error})") from None
    if any(len(scores[name]) != len(domains[name]) for name in domains):
        raise InputError(path, "holds scores of other data")
    return scores


def print_exclusive_items(domains: dict, scores: dict, m: int = 10) -> dict:
    """Print the different texts of the m least and the m most domain-exclusive items (A.1.2).
    Returns the items, {domain: {"least": indices, "most": indices}}."""
    found = {}
    for name, domain in domains.items():
        first = {}  # text: its least exclusive item
        for i in np.argsort(-SIGNS[name] * scores[name], kind="stable").tolist():
            first.setdefault(domain.texts[i][0], i)
        found[name] = {"least": [*first.values()][:m], "most": [*first.values()][-m:]}
        for end, items in found[name].items():
            texts = "; ".join(domain.texts[i][0] for i in items)
            print(f"{name} domain, {end} exclusive: {texts}")
    return found


def main(argv=None):
    """A.1.2 of a run that is trained, with the images of the source domain in sampling.png."""
    parser = Parser(prog="python -m turn.sampling", description=main.__doc__)
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    args = parser.parse_args(argv)
    with cli(parser.prog):
        path = best_checkpoint("turn", args.checkpoint)
        config = load_predictor(path, torch.device("cpu")).config
        domains = dict(zip(SIGNS, load_domains(config, "train")))
        scores = read_scores(path.parent / "sampling.npz", domains)
        ends = print_exclusive_items(domains, scores)["source"]
        rows = [[overlay(image, gt=corners(torch.as_tensor(box))[None], size=TILE)
                 for image, box in map(domains["source"].__getitem__, items)]
                for items in ends.values()]
        sheet = contact_sheet(rows, captions=[f"{end} exclusive" for end in ends])
        write_image(path.parent / "sampling.png", sheet)


if __name__ == "__main__":
    main()

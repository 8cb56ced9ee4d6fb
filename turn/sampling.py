"""Adaptive sampling, section 3.6: how exclusive to its domain a text is, and what that does to how often it is drawn."""
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.training import dist
from common.io import InputError, atomic
from common.training import cosine_schedule, progress_bar

from .transformer import Transformer, masked_mean, sine


class DomainClassifier(nn.Module):
    """Φ: tokens (B, L) → logits (B,), high for texts of the source domain."""

    def __init__(self, tokenizer, d: int = 64):
        super().__init__()
        self.pad = tokenizer.pad
        self.words, self.encoder, self.out = nn.Embedding(len(tokenizer), d), Transformer(d, 4, 1, 4, 0.1), nn.Linear(d, 1)

    def forward(self, tokens):
        x = self.words(tokens)
        mask = tokens == self.pad
        return self.out(masked_mean(self.encoder(x + sine(x.shape[1], x.shape[2], x.device), mask), mask))[:, 0]


def train_classifier(tokens_s, tokens_m, tokenizer, config, device) -> DomainClassifier:
    """Minimise Eq. (11) over the texts of both domains (n, L), for sampler_epochs epochs; torch's generator is left as it was."""
    tokens = torch.cat([tokens_s, tokens_m])
    labels = torch.cat([torch.ones(len(tokens_s)), torch.zeros(len(tokens_m))])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed + 7)
        classifier = DomainClassifier(tokenizer).to(device)
        optimizer = torch.optim.AdamW(classifier.parameters(), config.sampler_lr, weight_decay=config.weight_decay)
        per_epoch = -(-len(tokens) // config.batch_size)
        total = config.sampler_epochs * per_epoch
        for step in progress_bar(range(total), name="domain classifier"):
            if step % per_epoch == 0:
                order = torch.from_numpy(np.random.default_rng([config.seed, 30, step]).permutation(len(tokens)))
            rows = order[step % per_epoch * config.batch_size:][:config.batch_size]
            optimizer.param_groups[0]["lr"] = config.sampler_lr * cosine_schedule(step, total, per_epoch // 10 + 1)
            loss = F.binary_cross_entropy_with_logits(classifier(tokens[rows].to(device)), labels[rows].to(device))  # Eq. (11)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return classifier.eval()


@torch.no_grad()
def phi(classifier, texts, tokenizer, config, device) -> np.ndarray:
    """Φ of every item of a domain, (n,) float64: of an item with several captions, their mean."""
    flat = tokenizer.encode([t for item in texts for t in item], config.text_length)
    scores = torch.cat([classifier(part.to(device)) for part in flat.split(4096)]).double().cpu().numpy()
    counts = np.array([len(item) for item in texts])
    return np.add.reduceat(scores, np.cumsum(counts) - counts) / counts


def weights(scores: np.ndarray, k: float, sign: int) -> np.ndarray:
    """Φ (n,) → sampling weights (n,), Eqs. (12), (13): sign -1 in the source domain, +1 in the intermediate one.

    The largest is k times the smallest; where all scores are equal, tau* is 0 and the weights are uniform.
    """
    spread = scores.max() - scores.min()
    if spread == 0 or k == 1:
        return np.full(len(scores), 1 / len(scores))
    tau = spread / np.log(k)  # Eq. (13)
    w = np.exp(sign * (scores - (scores.max() if sign > 0 else scores.min())) / tau)  # Eq. (12); the shift cancels
    return w / w.sum()


def adaptive_weights(source, intermediate, tokenizer, config, run) -> tuple:
    """The weights of both domains, computed once a run: the scores are in sampling.npz beside its results."""
    path = run.folder / "sampling.npz"
    if run.is_main and not (config.resume and path.exists()):
        flat = [tokenizer.encode([t for item in d.texts for t in item], config.text_length) for d in (source, intermediate)]
        classifier = train_classifier(*flat, tokenizer, config, run.device)
        scores = [phi(classifier, d.texts, tokenizer, config, run.device) for d in (source, intermediate)]
        with atomic(path) as f:
            np.savez(f, source=scores[0], intermediate=scores[1])
        if not config.resume:
            print(report(source.texts, scores[0], "source", -1) + report(intermediate.texts, scores[1], "intermediate", 1))
    dist.gather_objects(None)  # wait for the main process
    try:
        with np.load(path, allow_pickle=False) as saved:
            scores = saved["source"], saved["intermediate"]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(path, f"not the scores of a run ({error})") from None
    if (len(scores[0]), len(scores[1])) != (len(source), len(intermediate)):
        raise InputError(path, "holds scores of other data")
    return weights(scores[0], config.k, -1), weights(scores[1], config.k, 1)


def report(texts, scores, domain: str, sign: int, m: int = 10) -> str:
    """The m least and most domain-exclusive different texts (A.1.2), most shared first."""
    order, seen = np.argsort(-sign * scores, kind="stable"), {}
    for i in order:
        seen.setdefault(texts[i][0], i)
    different = list(seen)
    return (f"{domain} domain, least exclusive: " + "; ".join(different[:m]) +
            f"\n{domain} domain, most exclusive: " + "; ".join(different[-m:]) + "\n")

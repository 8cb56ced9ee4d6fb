"""turn/codebook.py: the authors' numbers, the laws of quantisation, n processes as one."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as td
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from common.training import dist
from tests.goldens import fill
from turn.codebook import (
    GroupedCodebook,
    normalised_mutual_information,
    report_agreement,
)

GOLDEN = np.load(Path(__file__).parent / "goldens" / "vq_turn.npz")


def golden_book(**options) -> GroupedCodebook:
    book = GroupedCodebook(2, 16, 8, **options)
    book.codes.copy_(
        torch.from_numpy(
            np.stack([fill.make_input(f"vq-embeddings-{i}", (16, 4)) for i in range(2)])
        )
    )
    return book


def close(ours, golden, tolerance=2e-5):
    assert np.abs(ours.detach().numpy() - golden).max() <= tolerance * np.abs(golden).max()


def test_golden_with_one_codebook_per_group():
    book = golden_book()
    for step in range(3):
        x = torch.from_numpy(fill.make_input(f"vq-x-{step}", (12, 8))).requires_grad_()
        quantised, loss, info = book(x)
        loss = dist.mean(loss)
        (quantised.sum() + loss).backward()
        close(quantised, GOLDEN[f"separate_step{step}_quantized"])
        close(x.grad, GOLDEN[f"separate_step{step}_grad_x"])
        p = info["counts"] / 12
        perplexity = torch.special.entr(p).sum(1).exp().mean()
        close(torch.stack([loss, perplexity]), GOLDEN[f"separate_step{step}_loss_perplexity"])
        for group in range(2):
            close(book.codes[group], GOLDEN[f"separate_step{step}_embeddings{group}"], 2e-6)
        assert torch.equal(
            (book.codes == 0).all(2), book.average_count == 0
        )  # never chosen: the zero vector
    quantised, _, _ = book.eval()(torch.from_numpy(fill.make_input("vq-eval", (12, 8))))
    close(quantised, GOLDEN["separate_eval_quantized"])


@pytest.mark.parametrize("kind", ["text", "audio"])
def test_golden_of_the_released_model(kind):
    """The code of each half; the released model has one codebook for both halves."""
    golden = np.load(Path(__file__).parent / "goldens" / "turn_released.npz")
    name = "quantized_model.codebook.codebooks.0.embeddings"
    codes = torch.from_numpy(fill.fill_array(name, (256, 128)))
    book = GroupedCodebook(2, 256, 256).eval()
    book.codes.copy_(codes)
    quantised, _, _ = book(torch.from_numpy(golden[f"{kind}_encoding"]))
    close(quantised, golden[f"{kind}_core"])


def test_against_a_naive_reference():
    torch.manual_seed(0)
    book, decay = GroupedCodebook(3, 5, 6, decay=0.9, beta=0.5), 0.9
    codes = book.codes.tolist()
    count, total = np.zeros((3, 5)), np.zeros((3, 5, 2))
    for step in range(1, 5):
        x = torch.randn(7, 6)
        quantised, loss, info = book(x)
        n, s, error = np.zeros((3, 5)), np.zeros((3, 5, 2)), 0.0
        for row in range(7):
            for group in range(3):
                part = x[row, 2 * group : 2 * group + 2].numpy()
                distances = [float(((part - c) ** 2).sum()) for c in np.array(codes[group])]
                best = int(np.argmin(distances))
                assert info["indices"][row, group] == best
                np.testing.assert_allclose(
                    quantised[row, 2 * group : 2 * group + 2], codes[group][best], rtol=1e-5
                )
                n[group, best] += 1
                s[group, best] += part
                error += distances[best]
        np.testing.assert_array_equal(info["counts"], n)
        assert loss.shape == (7, 6)
        np.testing.assert_allclose(loss.mean(), 0.5 * error / 42, rtol=1e-5)
        count, total = decay * count + (1 - decay) * n, decay * total + (1 - decay) * s
        for group in range(3):
            size = count[group] / (1 - decay**step)
            smooth = (size + 1e-5) / (size.sum() + 5e-5) * size.sum()
            codes[group] = (total[group] / (1 - decay**step) / smooth[:, None]).tolist()
        np.testing.assert_allclose(book.codes, np.array(codes), rtol=1e-4, atol=1e-6)


def test_eval_changes_nothing_and_indices_give_the_quantised_rows():
    torch.manual_seed(0)
    book = GroupedCodebook(2, 8, 4)
    book(torch.randn(20, 4))
    before = {k: v.clone() for k, v in book.state_dict().items()}
    quantised, _, info = book.eval()(torch.randn(9, 4))
    found = torch.cat([book.codes[i, info["indices"][:, i]] for i in range(2)], 1)
    assert torch.equal(quantised, found)
    assert all(torch.equal(v, before[k]) for k, v in book.state_dict().items())


def test_without_beta_the_gradient_is_straight_through():
    x = torch.randn(5, 4, requires_grad=True)
    quantised, loss, _ = GroupedCodebook(2, 8, 4, beta=0.0)(x)
    weight = torch.randn(5, 4)
    ((quantised * weight).sum() + loss.mean()).backward()
    assert torch.equal(x.grad, weight)


def test_resume_continues_exactly():
    torch.manual_seed(0)
    batches = torch.randn(6, 10, 8)
    whole = GroupedCodebook(2, 16, 8)
    for x in batches[:3]:
        whole(x)
    resumed = GroupedCodebook(2, 16, 8)
    resumed.load_state_dict({k: v.clone() for k, v in whole.state_dict().items()})
    for x in batches[3:]:
        whole(x)
        resumed(x)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_agreement_of_pairs_and_of_exchanged_ones():
    """Three classes: audio chooses its caption's codes, and exchanged pairs rarely agree."""
    book = GroupedCodebook(2, 4, 4).eval()
    book.codes.copy_(torch.arange(4.0)[None, :, None].expand(2, 4, 2))
    labels = torch.arange(60) % 3
    x = labels[:, None].float().expand(60, 4)
    report = report_agreement(book, x[:30], x + 0.2, x - 0.2, labels)
    assert report["codebook/agreement"] == report["codebook/agreement_1"] == 1
    assert report["codebook/chance"] == 1  # half of 60 rows away is the same class
    assert report["codebook/nmi"] == pytest.approx(1) and report["codebook/in_use_0"] == 3
    assert report["codebook/overlap_0"] == pytest.approx(1)
    apart = report_agreement(book, x, x, torch.cat([x[:, :2], 3 - x[:, 2:]], 1), None)
    assert apart["codebook/agreement_0"] == 1 and apart["codebook/agreement_1"] == 0
    assert apart["codebook/agreement"] == 0 and "codebook/nmi" not in apart


def entropy(labels):
    return -sum(n / len(labels) * math.log(n / len(labels)) for n in Counter(labels).values())


def test_agreement_against_loops():
    """Unequal groups of texts and audio; an exchanged pair is half of the rows away."""
    torch.manual_seed(0)
    book, labels = GroupedCodebook(2, 4, 4).eval(), torch.randint(-1, 3, (21,))
    parts = [torch.randn(n, 4) for n in (13, 21, 21)]
    codes = [book(x)[2]["indices"].tolist() for x in parts]
    _, caption, audio = codes
    report = report_agreement(book, *parts, labels)
    found = {key.removeprefix("codebook/"): value for key, value in report.items()}
    pairs, exchanged = zip(caption, audio), zip(caption, audio[-10:] + audio[:-10])
    assert found["agreement"] == pytest.approx(np.mean([c == a for c, a in pairs]))
    assert found["chance"] == pytest.approx(np.mean([c == a for c, a in exchanged]))
    for i in range(2):
        shares = [
            [sum(row[i] == k for row in kind) / len(kind) for k in range(4)] for kind in codes
        ]
        mean = [sum(share) / 3 for share in zip(*shares)]
        assert found[f"overlap_{i}"] == pytest.approx(sum(map(min, zip(*shares))))
        assert found[f"in_use_{i}"] == sum(share > 0 for share in mean)
        perplexity = math.exp(-sum(share * math.log(share) for share in mean if share))
        assert found[f"perplexity_{i}"] == pytest.approx(perplexity, rel=1e-4)
    pairs = [(tuple(a), y) for a, y in zip(audio, labels.tolist()) if y >= 0]
    h_a, h_y = map(entropy, zip(*pairs))
    nmi = 2 * (h_a + h_y - entropy(pairs)) / (h_a + h_y)
    assert found["nmi"] == pytest.approx(nmi, abs=1e-5)


def test_mutual_information_with_coarser_labels():
    """They tell one of two bits, in either order; one label for all tells nothing."""
    x, y = torch.arange(4), torch.tensor([0, 0, 1, 1])
    forward, backward = normalised_mutual_information(x, y), normalised_mutual_information(y, x)
    assert forward == backward == pytest.approx(2 / 3)
    assert normalised_mutual_information(x, 0 * x) == pytest.approx(0)


def test_codes_are_chosen_in_single_precision():
    """Under autocast too: of 4000 rows and 64 codes some would be others."""
    book, x = GroupedCodebook(2, 64, 8).eval(), torch.randn(4000, 8)
    expected, _, info = book(x)
    with torch.autocast("cpu", torch.bfloat16):
        quantised, _, low = book(x)
    assert torch.equal(low["indices"], info["indices"]) and torch.equal(quantised, expected)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=40))
def test_mutual_information_is_symmetric_and_one_for_renamed_labels(values):
    x = torch.tensor(values)
    y = torch.tensor([values[-1 - i] for i in range(len(values))])
    forward, backward = normalised_mutual_information(x, y), normalised_mutual_information(y, x)
    assert forward == pytest.approx(backward, abs=1e-5) and -1e-5 <= forward <= 1 + 1e-5
    if len(set(values)) > 1:
        assert normalised_mutual_information(x, 7 - x) == pytest.approx(1, abs=1e-5)


def run(rank: int, world: int, batches, folder: str):
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save(
        train(batches, slice(None, 5) if rank == 0 else slice(5, None)),
        f"{folder}/{rank}.pt",
    )
    td.destroy_process_group()


def train(batches, rows):
    torch.manual_seed(1)
    book, losses, grads = GroupedCodebook(2, 16, 8), [], []
    for x in batches:
        x = x[rows].clone().requires_grad_()
        _, loss, info = book(x)
        loss = dist.mean(loss)
        loss.backward()
        losses.append(loss.detach())
        grads.append(x.grad)
    return book.state_dict() | {
        "loss": torch.stack(losses),
        "grad": torch.stack(grads, 1),
        "counts": info["counts"],
    }


@pytest.mark.slow
def test_two_processes_with_uneven_parts_equal_one(tmp_path):
    torch.manual_seed(0)
    batches = torch.randn(8, 18, 8)
    batches[:, 9:] = batches[:, 9:] * 0.01 + 4
    mp.start_processes(run, (2, batches, str(tmp_path)), nprocs=2, start_method="forkserver")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = train(batches, slice(None))
    for name in ("codes", "average_count", "average_sum", "steps", "counts"):
        assert torch.equal(parts[0][name], parts[1][name]), name
        torch.testing.assert_close(parts[0][name], whole[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        parts[0]["loss"] + parts[1]["loss"], whole["loss"], rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        torch.cat([parts[0]["grad"], parts[1]["grad"]]), whole["grad"], rtol=0, atol=1e-6
    )

"""stmnet's parts against the authors' code, tests/goldens/stm_released.npz: their order and window,
which the module does not imitate, stand in this file alone."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.evaluation.boxes import hull_of_maps, iou_plus_one
from common import metrics
from stmnet.backbones.vggish import convolutions, log_mel, segments_at
from stmnet.losses import event_accuracy, event_loss
from stmnet.memory import TemporalAttention, phi, spatial_scores, spatial_softmax
from stmnet.model import projection
from tests.goldens import fill

GOLDENS = Path(__file__).parent / "goldens"
G = np.load(GOLDENS / "stm_released.npz")
SMALL = json.loads((GOLDENS / "stm_released.keys.json").read_text())


def filled(module, names):
    """The module with the golden weights; names: key of the module → key of the released one."""
    module.load_state_dict(
        {
            key: torch.as_tensor(fill.fill_array(names(key), x.shape)).to(x.dtype)
            for key, x in module.state_dict().items()
        }
    )
    return module.eval()


def attention(name, width, heads=1):
    """Eq. (2) with the biases and the fused projections of torch's multi-head attention."""
    g = TemporalAttention(width, 1)
    keys = [f"memory_{name}.attn_layer.in_proj_{kind}" for kind in ("weight", "bias")]
    weight, bias = (
        torch.from_numpy(fill.fill_array(key, shape))
        for key, shape in zip(keys, [(3 * width, width), (3 * width,)])
    )
    for layer, rows in (("query", slice(0, width)), ("key", slice(width, 2 * width))):
        linear = nn.Linear(width, width)
        linear.weight.data, linear.bias.data = weight[rows], bias[rows]
        setattr(g, layer, linear)
    g.heads = heads
    return g


def window(length, T):
    """(length, length): step t sees t − T/2 … t + T/2, with a negative start as Python's slices
    have it, which is a bug: of 4 steps, 0 sees 2 alone; in a longer sequence it sees none."""
    seen, half = torch.zeros(length, length, dtype=torch.bool), T // 2
    for t in range(length):
        seen[t, list(range(length))[t - half : t + 1 + half]] = True
    return seen


def remember(g, x, values, seen):
    """x (B, T, …) asks `values` of the steps it sees → x̂, β; zeros if there is none."""
    products = g.products(x, values)[1].masked_fill(~seen, -torch.inf)  # (B, L, T, T)
    beta = products.softmax(-1).nan_to_num(0).mean(1)
    return torch.einsum("bts,bschw->btchw", beta, values), beta


class Released(nn.Module):
    """The released network with identity encoders, put together of stmnet's parts."""

    def __init__(self, widths=(32, 64, 16), heads=1, is_music=False):
        super().__init__()
        audio, vision, C = widths
        self.a = filled(projection(audio, C, 2), lambda key: f"match.a_proj.{key}")
        self.v = filled(projection(vision, C, 3), lambda key: f"match.v_proj.{key}")
        self.g = nn.ModuleDict({n: attention(n, w, heads) for n, w in zip("avo", widths)})
        mlp = nn.Sequential(nn.Linear(2 * C, C), nn.ReLU(), nn.Linear(C, 28))
        mlp = nn.Linear(2 * C, 13) if is_music else mlp
        self.mlp = filled(mlp, lambda key: f"classifier.{key}")

    def match(self, a, v, is_cosine):
        a, v = self.a(a.flatten(0, 1)), self.v(v.flatten(0, 1))
        if is_cosine:
            a, v = a / phi(a).norm(dim=-1)[:, None, None, None], F.normalize(v, dim=1)
        return a, v

    def attend(self, a, v):
        p = spatial_softmax(spatial_scores(v, a))
        return p, p[:, None] * v

    def forward(self, audio, vision, memory, is_cosine, T):
        """Batch norms see the raw features of all steps first, then those of each step alone."""
        seen, found, length = window(audio.shape[1], T), {}, audio.shape[1]
        a, v = audio, vision
        if memory != "baseline":
            a, found["beta_a"] = remember(self.g["a"], audio, audio, seen)
            v, found["beta_v"] = remember(self.g["v"], vision, vision, seen)
        if memory == "CU":
            raw = self.attend(*self.match(audio, vision, is_cosine))[1]
            raw = raw.unflatten(0, (-1, length))
        steps = [self.match(a[:, t : t + 1], v[:, t : t + 1], is_cosine) for t in range(length)]
        a, v = (torch.stack(x, 1).flatten(0, 1) for x in zip(*steps))
        p, x_av = self.attend(a, v)
        if memory == "CU":
            x_av, found["beta_o"] = remember(
                self.g["o"], x_av.unflatten(0, (-1, length)), raw, seen
            )
            x_av = x_av.flatten(0, 1)
            p = self.attend(a, x_av)[0]
        f_o = torch.cat([phi(a), x_av.sum((-2, -1))], 1)
        found |= {"p": p, "f_o": f_o, "logits": self.mlp(f_o)}
        return {k: x if "beta" in k else x.unflatten(0, (-1, length)) for k, x in found.items()}

    def grad_norms(self):
        """Of the released parameters in the order of their names, in which query, key and value are
        one; the value and the output projection get no gradient."""
        own = {
            f"match.{k}_proj.{n}": x for k in "av" for n, x in getattr(self, k).named_parameters()
        }
        own |= {f"classifier.{n}": x for n, x in self.mlp.named_parameters()}
        norms = {name: x.grad.norm().item() for name, x in own.items()}
        for name, g in self.g.items():
            for kind in ("weight", "bias"):
                both = torch.cat([getattr(x, kind).grad for x in (g.query, g.key)])
                norms[f"memory_{name}.attn_layer.in_proj_{kind}"] = both.norm().item()
                norms[f"memory_{name}.attn_layer.out_proj.{kind}"] = 0.0
        return [norms[name] for name in sorted(norms)]


def shapes(n, widths=(32, 64)):
    return {"audio": (2, n, widths[0], 1, 4), "frames": (2, n, widths[1], 4, 4)}


FULL = {"audio": (1, 4, 512, 1, 4), "frames": (1, 4, 2048, 8, 8)}  # the paper's sizes


def given(kind, tag, shape):
    return torch.from_numpy(fill.make_input(f"stm_released-{kind}-{tag}", shape)).float()


def inputs(n):
    return [given(kind, f"T{n}", shape) for kind, shape in shapes(n).items()]


def compare(found, prefix, uniform=2e-3):
    for name, x in found.items():
        x = x.detach()
        if f"{prefix}_{name}" in G:
            golden = torch.from_numpy(G[f"{prefix}_{name}"])
            if name == "p":  # it hardly differs from 1 / (hw)
                x, golden = (y * y.shape[-1] ** 2 - 1 for y in (x, golden))
                assert (x - golden).abs().max() <= uniform * golden.abs().max() + 1e-6, name
            else:
                assert (x - golden).abs().max() <= 2e-5 * golden.abs().max(), (prefix, name)


def compare_loss(logits, prefix, labels="labels_ave"):
    """Of the maximum over T, and the top-1 accuracy in percent."""
    labels = torch.from_numpy(G[labels])[: len(logits), None]
    loss, accuracy = (f(logits, labels, of_clip=True).mean() for f in (event_loss, event_accuracy))
    found = loss.item(), 100 * accuracy.item()
    assert found == pytest.approx(G[f"{prefix}_loss_acc"].tolist(), rel=1e-5)
    return loss


@pytest.mark.parametrize("memory", ["baseline", "U", "CU"])
@pytest.mark.parametrize("similarity", ["norm", "dot"])
@pytest.mark.parametrize("T", [4, 8])
def test_forward(memory, similarity, T):
    found = Released()(*inputs(T), memory, similarity == "norm", T)
    prefix = f"{memory}_{similarity}_T{T}"
    compare(found, prefix)
    compare_loss(found["logits"], prefix)


def test_windows_and_a_longer_sequence():
    """The slice with a negative start, described in the README and reproduced here alone."""
    for name, length, T in (("T4", 4, 4), ("T8", 8, 8), ("long", 7, 4)):
        assert np.array_equal(window(length, T).numpy(), G[f"window_{name}"])
    for memory, similarity in (("CU", "norm"), ("U", "dot")):
        found = Released()(*inputs(7), memory, similarity == "norm", 4)
        assert torch.allclose(found["p"][:, :2], torch.tensor(1 / 16), atol=1e-6)
        compare(found, f"long_{memory}_{similarity}")
        if memory == "CU":
            compare_loss(found["logits"], "long_CU_norm")


def test_four_heads_and_mean_over_steps():
    found = Released(heads=4)(*inputs(4), "CU", True, 4)
    compare(found, "heads4_CU_norm_T4")
    compare_loss(found["logits"], "heads4_CU_norm_T4")
    logits = torch.from_numpy(G["CU_norm_T4_logits"]).mean(1, keepdim=True)
    loss = event_loss(logits, torch.from_numpy(G["labels_ave"])[:, None], of_clip=False)
    golden = G["meanpool_CU_norm_T4_loss_acc"][0]
    assert loss.mean().item() == pytest.approx(golden, rel=1e-5)


def test_thirteen_instruments():
    found = Released(is_music=True)(*inputs(4), "CU", True, 4)
    compare({"logits": found["logits"]}, "music_CU_norm_T4")
    compare_loss(found["logits"], "music_CU_norm_T4", "labels_music")


@pytest.mark.parametrize("memory", ["U", "CU"])
def test_the_sizes_of_the_paper(memory):
    maps = [given(kind, "full", shape).clamp(min=0) for kind, shape in FULL.items()]
    with torch.no_grad():
        found = Released((512, 2048, 256))(*maps, memory, True, 4)
    compare_loss(found["logits"], f"full_{memory}_norm_T4")
    compare(found | {"f_o": found["f_o"][:, :, ::4]}, f"full_{memory}_norm_T4")


def test_a_step_of_training():
    """Batch statistics, running statistics, and the gradient of every parameter."""
    network, prefix = Released().train(), "train_CU_norm_T4"
    found = network(*inputs(4), "CU", True, 4)
    compare(found, prefix)
    compare_loss(found["logits"], prefix).backward()
    norms = G["train_grad_norms_f64"]
    assert (norms > 1e-7).sum() == 25
    np.testing.assert_allclose(network.grad_norms(), norms, rtol=1e-3, atol=2e-8)
    tracked = []
    for kind in "av":
        for key, x in getattr(network, kind).named_buffers():
            if key.endswith("num_batches_tracked"):
                tracked.append(x.item())
            else:
                compare({f"match.{kind}_proj.{key}": x}, "train_after")
    assert tracked == G["train_after_num_batches_tracked"].tolist()


def test_the_visual_memory_alone():
    vision = inputs(4)[1]
    seen = torch.ones(1, 3, dtype=torch.bool)
    found = remember(attention("v", 64), vision[:, 3:], vision[:, 1:], seen)[0][:, 0]
    compare({"of_step3": found}, "memory_v")


def test_the_inputs_are_those_of_the_recipe():
    """[crc32 of the bytes, sum, sum of squares, count] of each."""
    inputs = {
        f"{kind}_{tag}": given(kind, tag, shape).numpy()
        for tag, sizes in (("full", FULL), *((f"T{n}", shapes(n)) for n in (4, 7, 8)))
        for kind, shape in sizes.items()
    }
    inputs["wave"] = fill.make_pcm("stm_released-wave", 160000, 16000)
    assert sum(name.startswith("check_") for name in G) == len(inputs)
    for name, x in inputs.items():
        wide = x.astype(np.float64)
        found = [zlib.crc32(x.tobytes()), wide.sum(), (wide**2).sum(), x.size]
        np.testing.assert_allclose(found, G[f"check_stm_released_{name}"], rtol=1e-9, err_msg=name)


def test_which_audio_goes_with_a_frame():
    """In training a quarter of a second that begins with the frame: ours for the frame in its
    middle. In their evaluation a quarter that may lie half a second away; ours is centred."""
    ours = segments_at(torch.arange(160000.0), (np.arange(40) + 0.5) / 4, 4000)[:, 0]
    assert ours.tolist() == (4000 * np.arange(40)).tolist()
    second, quarter = np.divmod(np.arange(40), 4)
    for n, frames, first in zip(G["frame_counts"], G["train_frames"], G["eval_first_sample"]):
        length = n // 10
        expected = second * length + quarter * length // 4
        assert frames.flatten().tolist() == expected.tolist()
        F, k = -(-n // 10), np.arange(n)
        theirs = 4000 * (4 * (k // F) + k % F // -(-F // 4))
        assert first[:n].tolist() == theirs.tolist() and (first[n:] == -1).all()
        times = (k + 0.5) * 10 / n
        ours = segments_at(torch.arange(160000.0), times, 4000)[:, 2000]
        assert np.abs(ours.numpy() - 16000 * times).max() <= 0.5


def test_projections_alone():
    network, (a, v) = Released(), inputs(4)
    for name, is_cosine in (("norm", True), ("dot", False)):
        with torch.no_grad():
            x_a, x_v = network.match(a, v, is_cosine)
        for x, key in ((phi(x_a), "a"), (x_v, "v")):
            golden = torch.from_numpy(G[f"match_{name}_{key}"])
            assert (x - golden).abs().max() <= 2e-5 * golden.abs().max()


def test_audio():
    """4000 samples are a log-mel of 23 × 64 and a map of 1 × 4."""
    wave = torch.from_numpy(fill.make_pcm("stm_released-wave", 160000, 16000) / 32768).float()
    at = [16000 * s + 4000 * q for s, q in G["logmel_second_quarter"].tolist()]
    x = torch.stack([log_mel(wave[k : k + 4000]) for k in at])[:, None]
    assert np.abs(x.numpy() - G["logmel"]).max() < 1e-3
    network = filled(convolutions(), lambda key: f"features.{key}")
    with torch.no_grad():
        found = network(torch.from_numpy(G["logmel"]))[:, ::8]
    assert np.abs(found.numpy() - G["vggish_map"]).max() <= 2e-5 * np.abs(G["vggish_map"]).max()


def test_boxes():
    """Exact; map 18 is the one of twenty whose threshold Otsu's method moves above 0.5."""
    maps = torch.from_numpy(np.stack([fill.make_heatmap(grid) for grid in G["box_grid"]])).float()
    found = hull_of_maps(maps) * maps.shape[-1]
    is_plain = G["box_otsu"] == 0
    assert is_plain.sum() == 19
    np.testing.assert_array_equal(found.numpy()[is_plain], G["box_pred"][is_plain])
    gt = torch.from_numpy(G["box_truth"]).double()
    iou = iou_plus_one(torch.from_numpy(G["box_pred"]).double(), gt)
    np.testing.assert_allclose(iou, G["box_iou_f64"], atol=1e-12)
    masks = metrics.normalise(maps) > 0.5
    gt_maps = torch.zeros_like(maps)
    for m, (x0, y0, x1, y1) in zip(gt_maps, gt.long().tolist()):
        m[y0:y1, x0:x1] = 1
    np.testing.assert_allclose(metrics.ciou(masks, gt_maps), G["box_ciou_f64"], atol=1e-9)

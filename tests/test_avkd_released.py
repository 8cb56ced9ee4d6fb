"""avkd against what its authors' code computes: goldens/avkd_released.npz, whose recipe is there.

Commit c84e126, Apache-2.0; made by running its `model_cnn`, `train_N_times` and `test_N_times` on
filled weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from avkd import guidance, teachers
from avkd.backbones.detr import detr_r50, square_view
from avkd.backbones.frontend import log_spectrogram
from avkd.backbones.resnet import resnet18
from avkd.backbones.views import normalise
from avkd.config import PAPER
from avkd.losses import L_a, similarity
from avkd.model import Avkd, localization_map
from avkd.train import loss_terms
from common import metrics
from common.benchmarks.samples import Sample, gt_map
from tests.goldens import fill

FOLDER = Path(__file__).parent / "goldens"
G = np.load(FOLDER / "avkd_released.npz")
NAMES = {"imgnet": "F_v.body", "img_proj": "F_v.projection", "audnet": "F_a.body"}
NAMES |= {"aud_proj": "F_a.projection"}


def given(name, *shape, block=0):
    """An input of the recipe: `make_input`, in blocks of so many equal pixels."""
    if not block:
        return torch.from_numpy(fill.make_input(f"avkd_released-{name}", shape))
    n, c, h, w = shape
    coarse = given(name, n, c, -(-h // block), -(-w // block))
    return coarse.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, :h, :w]


def close(found, name, tolerance=2e-5):
    """Equal to a golden, relative to its maximum."""
    expected = G[name]
    found = np.asarray(found.detach() if torch.is_tensor(found) else found)
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    assert np.array_equal(np.isnan(found), np.isnan(expected)), name
    worst = np.nanmax(np.abs(found - expected), initial=0)
    assert worst <= tolerance * np.nanmax(np.abs(expected), initial=0), (name, worst)


def filled(keys, rename=lambda key: key):
    keys = json.loads((FOLDER / f"{keys}.keys.json").read_text())
    return {rename(k): torch.from_numpy(fill.fill_array(k, s)) for k, s in keys.items()}


def ours(key):
    """imgnet.layer1.0.conv1.weight → F_v.body.layer1.0.conv1.weight."""
    part, _, rest = key.partition(".")
    return f"{NAMES[part]}.{rest}"


@pytest.fixture(scope="module")
def model():
    """The paper's students under the released weights."""
    net = Avkd(PAPER).eval()
    net.load_state_dict(filled("avkd_released", ours))
    return net


def unit(x):
    return torch.nn.functional.normalize(x, dim=1)


def raw_L_a(f_a, e_a):
    """Eq. (3) as released: the hint has the length with which it is stored."""
    return (unit(f_a) - e_a).square().mean(1)


def students(model, image, spec):
    """f_v, f_a of images that are normalised already, and of spectrograms."""
    return model.F_v(image), model.F_a(spec)


@pytest.fixture(scope="module")
def batch():
    image = given("image", 4, 3, 224, 224, block=16)
    spec = given("spec", 4, 1, 257, 276, block=16)
    e_a, e_v = 0.1 * given("e_a", 4, 2048).abs(), 0.01 * given("e_v", 4, 25, 25).abs()
    return image, spec, e_a, e_v


@pytest.mark.slow
def test_the_students(model, batch):
    """Features, maps, S, the three losses and their gradients in the networks."""
    image, spec, e_a, e_v = batch
    f_v, f_a = students(model, image, spec)
    close(model.F_v.body.features(image)[:, ::16], "net_img_backbone")
    close(f_v[:, ::64], "net_img_projected")
    close(unit(f_v)[:, ::32], "net_img")
    close(unit(f_v).mean(1), "net_img_mean")
    close(model.F_a.body.features(spec).amax((2, 3))[:, ::2], "net_aud_pooled")
    close(f_a[:, ::8], "net_aud_projected")
    close(unit(f_a)[:, ::4], "net_aud")
    close(unit(model.F_a(given("spec554", 2, 1, 257, 554, block=16)))[:, ::8], "net_aud_554")
    S = similarity(f_v, f_a)
    close(S / 0.03, "net_max", 1e-4)
    pairs = torch.stack([localization_map(f_v, a.expand_as(f_a)) for a in f_a], 1)
    close(pairs / 0.03, "net_logits", 1e-4)
    terms = loss_terms(f_v, f_a, e_v, None, PAPER)  # L_S and L_v, as a training weighs them
    audio = 1000 * raw_L_a(f_a, e_a).mean()
    close(terms["contrast"], "net_mil")
    close(terms["visual_hint"].double(), "net_visual_f64")
    close(audio.double(), "net_audio_f64")
    (terms["loss"] + audio).backward()
    close(terms["loss"] + audio, "net_total")
    image_weight = model.F_v.projection.weight.grad[::64, ::16, 0, 0]
    close(image_weight, "net_grad_img_proj_weight", 1e-4)
    close(model.F_a.projection.weight.grad[::64, ::16], "net_grad_aud_proj_weight", 1e-4)
    close(model.F_v.projection.bias.grad[::8], "net_grad_img_proj_bias", 1e-4)
    close(model.F_a.projection.bias.grad[::8], "net_grad_aud_proj_bias", 1e-4)
    close(model.F_v.body.conv1.weight.grad[::8], "net_grad_imgnet_conv1", 1e-4)
    close(model.F_a.body.conv1.weight.grad[::8], "net_grad_audnet_conv1", 1e-4)
    model.zero_grad()


@pytest.mark.slow
def test_the_students_in_training_mode(batch):
    net, (image, spec, e_a, e_v) = Avkd(PAPER).train(), batch
    net.load_state_dict(filled("avkd_released", ours))
    f_v, f_a = students(net, image, spec)
    terms = loss_terms(f_v, f_a, e_v, None, PAPER)
    close(terms["contrast"], "train_mil")
    close(terms["visual_hint"] + 1000 * raw_L_a(f_a, e_a).mean(), "train_hint")
    close(similarity(f_v, f_a) / 0.03, "train_logits_max", 1e-4)


def test_what_starts_as_released():
    """Deviations of the released initialisation; F_v's body is a published file's."""
    net = Avkd(PAPER)
    assert net.F_v.projection.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.01)
    assert net.F_a.projection.weight.std().item() == pytest.approx(0.01, rel=0.01)
    norms = torch.cat([m.weight for m in net.F_a.modules() if type(m).__name__ == "BatchNorm2d"])
    assert norms.std().item() == pytest.approx(0.02, rel=0.1) and abs(norms.mean() - 1) < 0.002


def test_a_hint_with_nan_leaves_its_sample_out_of_this_loss_alone():
    """Losses and gradients of five samples, of which two have no visual hint."""
    g_v, g_a = given("g_v", 5, 32, 7, 7), given("g_a", 5, 32)
    e_a, e_v = 0.5 * given("loss-e_a", 5, 32).abs(), 0.02 * given("loss-e_v", 5, 25, 25).abs()

    def terms():
        x_v, x_a = g_v.clone().requires_grad_(), g_a.clone().requires_grad_()
        found = loss_terms(x_v, x_a, e_v, None, PAPER)
        return x_v, x_a, found, 1000 * raw_L_a(x_a, e_a).mean()

    *_, found, audio = terms()
    close(found["visual_hint"] + audio, "loss_hint_clean")
    e_v[2], e_v[4, 7, 11] = torch.nan, torch.nan
    x_v, x_a, found, audio = terms()
    assert G["loss_rows_kept"].tolist() == [0, 1, 3]
    close(found["contrast"], "loss_mil")
    close(found["visual_hint"].double(), "loss_visual_f64")
    close(audio.double(), "loss_audio_f64")
    close(found["loss"] + audio, "loss_total")
    of = {"mil": found["contrast"], "hint": found["visual_hint"] + audio}
    of["total"] = found["loss"] + audio
    for name, loss in of.items():
        grad_v, grad_a = torch.autograd.grad(loss, (x_v, x_a), retain_graph=True)
        close(grad_v[:, ::4], f"loss_grad_{name}_raw_v", 1e-4)
        close(grad_a, f"loss_grad_{name}_raw_a", 1e-4)
    e_v[:] = torch.nan  # there L_v is NaN as released, and 0 here
    *_, found, audio = terms()
    assert found["visual_hint"] == 0 and found["loss"].isfinite()


def test_a_hint_of_another_length_only_scales_the_pull():
    """2048 · L_a of a raw hint is 1 + R² − 2 R cos; ours, of unit length, 2 − 2 cos."""
    f_a, e_a = given("g_a", 5, 32), given("loss-e_a", 5, 32).abs()
    R, cos = e_a.norm(dim=1), (unit(f_a) * unit(e_a)).sum(1)
    torch.testing.assert_close(32 * raw_L_a(f_a, e_a), 1 + R**2 - 2 * R * cos)
    torch.testing.assert_close(32 * L_a(f_a, e_a), 2 - 2 * cos)


# DETR's attention, and the maps of objects


def logits(case):
    x = torch.zeros(1, 100, 92)
    if case == "several":
        return 2 * given("logits", 1, 100, 92)
    x[:, :, 91] = 4 * (case == "none")
    x[0, {"none": 3, "one": 30}[case], 91] = 12
    if case == "one":
        x[0, 17, 5] = 8
    return x


@pytest.mark.parametrize("case", ["none", "one", "several"])
def test_which_queries_are_a_hint(case):
    attention = given("attention", 1, 100, 625).abs().view(1, 100, 25, 25) / 625
    confidence = guidance.detr_confidence({"pred_logits": logits(case)})
    queries = (confidence[0] >= guidance.CONFIDENCE).nonzero()[:, 0]
    assert queries.tolist() == G[f"detr_{case}_queries"].tolist()
    close(teachers.attention_hint(confidence, attention)[0], f"detr_{case}_map")


@pytest.fixture(scope="module")
def detr():
    net = detr_r50().eval()
    net.load_state_dict(filled("detr_r50"))
    return net


@pytest.mark.slow
def test_the_attention_of_detr(detr):
    images = given("detr", 1, 3, 256, 320, block=32)
    with torch.no_grad():
        attention = detr(images)["attention"]
    for case in ("none", "one", "several"):
        confidence = guidance.detr_confidence({"pred_logits": logits(case)})
        close(teachers.attention_hint(confidence, attention)[0], f"detr_filled_{case}_map")


@pytest.mark.slow
def test_the_attention_of_detr_at_800(detr):
    with torch.no_grad():
        attention = detr(given("detr-800", 1, 3, 800, 800, block=32))["attention"]
    confidence = guidance.detr_confidence({"pred_logits": logits("several")})
    close(teachers.attention_hint(confidence, attention)[0], "detr_filled_800_map")


def test_the_object_map():
    net = resnet18().eval()
    net.load_state_dict(filled("resnet18"), strict=False)
    with torch.no_grad():
        objects = net.features(given("object", 2, 3, 224, 224, block=16)).mean(1)
    close(objects[:, None], "obj_map")
    close(metrics.resize(objects, 224, "ezvsl")[:, ::9, ::9], "obj_224")


def test_the_image_that_detr_sees():
    blocks = given("picture", 1, 3, 90, 120, block=6)[0].double()
    picture = (128 + 50 * blocks).round().clip(0, 255).byte().permute(1, 2, 0).numpy()
    view = normalise(square_view(picture, 800)[None])[0]
    assert np.abs(view[:, ::40, ::40].numpy() - G["view_800"]).max() <= 2e-2


def test_the_spectrogram():
    """At 44 100 Hz, 554 frames; the middle three seconds."""
    pcm = fill.make_pcm("avkd_released-44100", 441000, 44100)[154350:286650] / np.float32(32767)
    spec = log_spectrogram(torch.from_numpy(pcm)[None].float(), 44100, window=512, hop=238)[0]
    assert np.abs(spec[::4, ::6].numpy() - G["spec_44100"]).max() <= 1e-5
    assert np.abs(spec.double().mean(1).numpy() - G["spec_44100_mean_over_time_f64"]).max() <= 1e-5


# Fusion and scores by the protocol ezvsl


def enlarged():
    av, objects, detections = (torch.from_numpy(G[f"in_{x}"]) for x in ("av", "obj", "det"))
    return [metrics.resize(x, 224, "ezvsl") for x in (av, objects, detections)]


def test_fusion():
    av, objects, detections = enlarged()
    has_detection = torch.arange(6) != 4
    detections = detections.nan_to_num()
    fused = {
        "av": av,
        "obj": objects,
        "alpha": guidance.og_avc(av, objects),
        "vggss": guidance.og_avc(av, objects, (1.0, 0.4)),
    }
    for name, maps in fused.items():
        close(metrics.normalise(maps)[:, ::16, ::16], f"fuse_{name}")
    thirds = guidance.og_avc_detr(av, objects, detections, has_detection)
    thirds = metrics.normalise(thirds)
    thirds[4] = torch.nan  # as released; here the two other maps step in
    close(thirds[:, ::16, ::16], "fuse_flickr")


def truths(name):
    """The ground truth (6, 224, 224), of VGG-SS of the first box alone."""
    boxes, found = G[f"truth_{name}_boxes"], []
    for own in boxes:
        if name == "vggss":
            own = own[:1][~np.isnan(own[:1]).any(1)].clip(0, 1)
            sample = Sample("a", None, None, own[(own[:, 2:] > own[:, :2]).all(1)])
        else:
            own = own[(own >= 0).all(1)] / 256
            sample = Sample("a", None, None, tuple(own[k : k + 1] for k in range(len(own))))
        found.append(gt_map(sample, 224))
    return np.stack(found)


@pytest.mark.parametrize("name", ["vggss", "flickr"])
def test_truths(name):
    found = truths(name)
    expected = np.unpackbits(G[f"truth_{name}_224"], axis=-1)
    assert np.array_equal(found > 0, expected.astype(bool))
    np.testing.assert_allclose(found.sum((1, 2)), G[f"truth_{name}_224_sum_f64"])


@pytest.mark.parametrize("name", ["vggss", "flickr"])
def test_scores(name):
    """cIoU of each sample, AP50, mean and AUC by the protocol ezvsl: ≥, aligned corners."""
    av, objects, detections = enlarged()
    gt, fused = truths(name), guidance.og_avc(av, objects, (1.0, 0.4))
    if name == "flickr":
        has_detection = torch.arange(6) != 4
        fused = guidance.og_avc_detr(av, objects, detections.nan_to_num(), has_detection)
    for row, (which, maps) in enumerate({"av": av, "obj": objects, "fused": fused}.items()):
        ciou = metrics.localization(maps.numpy(), gt, "ezvsl")["ciou"]
        expected, stats = G[f"score_{name}_{which}"], G[f"score_{name}_stats_f64"]
        kept = np.arange(6) != (4 if which == "fused" and name == "flickr" else -1)
        assert expected[4] == 0 or kept[4]  # without a detection the released map is NaN
        np.testing.assert_allclose(np.nan_to_num(ciou)[kept], expected[kept], atol=2e-4)
        if kept.all():
            found = metrics.success_rate(ciou), np.nan_to_num(ciou).mean(), metrics.auc(ciou)
            np.testing.assert_allclose(found, stats[row + (row > 1)], atol=2e-4)

"""avkd against what its authors' code computes: goldens/avkd_released.npz, whose recipe is there.

Commit c84e126, Apache-2.0; made by running its `model_cnn`, `train_N_times` and `test_N_times` on
filled weights.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from avkd import guidance, teachers
from avkd.backbones.detr import detr_r50, square_view
from avkd.backbones.frontend import log_spectrogram
from avkd.backbones.resnet import resnet18
from avkd.backbones.views import normalise, test_view as whole_view
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
    close(terms["visual_hint"] + audio, "net_hint")
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


def test_a_hint_with_nan_leaves_its_sample_out_of_this_loss_alone(monkeypatch):
    """Losses and gradients of five samples, of which two have no visual hint."""
    g_v, g_a = given("g_v", 5, 32, 7, 7), given("g_a", 5, 32)
    e_a, e_v = 0.5 * given("loss-e_a", 5, 32).abs(), 0.02 * given("loss-e_v", 5, 25, 25).abs()

    def terms(x_v=g_v, x_a=g_a):
        x_v, x_a = x_v.clone().requires_grad_(), x_a.clone().requires_grad_()
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
    close(found["visual_hint"] + audio, "loss_hint")
    close(found["loss"] + audio, "loss_total")

    def gradients(x_v, x_a, found, audio, kind):
        of = {"mil": found["contrast"], "hint": found["visual_hint"] + audio}
        for name, loss in (of | {"total": found["loss"] + audio}).items():
            if f"loss_grad_{name}_{kind}_v" in G:
                grad_v, grad_a = torch.autograd.grad(loss, (x_v, x_a), retain_graph=True)
                close(grad_v[:, ::4], f"loss_grad_{name}_{kind}_v", 1e-4)
                close(grad_a, f"loss_grad_{name}_{kind}_a", 1e-4)

    gradients(x_v, x_a, found, audio, "raw")
    with monkeypatch.context() as patched:  # with respect to the features of unit length
        of_unit_length = unit(g_v), unit(g_a)
        patched.setattr(torch.nn.functional, "normalize", lambda x, dim: x)
        gradients(*terms(*of_unit_length), "unit")
    e_v[:] = torch.nan  # there L_v is NaN as released, and 0 here
    *_, found, audio = terms()
    assert np.isnan(G["loss_hint_all_nan"])
    assert found["visual_hint"] == 0 and found["loss"].isfinite()


def test_a_hint_of_another_length_only_scales_the_pull():
    """2048 · L_a of a raw hint is 1 + R² − 2 R cos; ours, of unit length, 2 − 2 cos."""
    f_a, e_a = given("g_a", 5, 32), given("loss-e_a", 5, 32).abs()
    R, cos = e_a.norm(dim=1), (unit(f_a) * unit(e_a)).sum(1)
    torch.testing.assert_close(32 * raw_L_a(f_a, e_a), 1 + R**2 - 2 * R * cos)
    torch.testing.assert_close(32 * L_a(f_a, e_a), 2 - 2 * cos)


def test_the_inputs_are_those_of_the_recipe():
    """[crc32 of the bytes, sum, sum of squares, count] of each."""
    inputs = {
        "image": given("image", 4, 3, 224, 224, block=16),
        "spec": given("spec", 4, 1, 257, 276, block=16),
        "spec554": given("spec554", 2, 1, 257, 554, block=16),
        "e_a": 0.1 * given("e_a", 4, 2048).abs(),
        "e_v": 0.01 * given("e_v", 4, 25, 25).abs(),
        "g_v": given("g_v", 5, 32, 7, 7),
        "g_a": given("g_a", 5, 32),
        "loss_e_a": 0.5 * given("loss-e_a", 5, 32).abs(),
        "loss_e_v": 0.02 * given("loss-e_v", 5, 25, 25).abs(),
        "object": given("object", 2, 3, 224, 224, block=16),
        "attention": given("attention", 1, 100, 625).abs() / 625,
        "logits": given("logits", 1, 100, 92),
        "detr": given("detr", 1, 3, 256, 320, block=32),
        "detr_800": given("detr-800", 1, 3, 800, 800, block=32),
        "picture": picture(),
        "pcm_44100": fill.make_pcm("avkd_released-44100", 441000, 44100),
        "pcm_22050": fill.make_pcm("avkd_released-22050", 220500, 22050),
    }
    assert {f"check_{name}" for name in inputs} == {name for name in G if name.startswith("check")}
    for name, x in inputs.items():
        x = np.ascontiguousarray(x)
        wide = x.astype(np.float64)
        found = [zlib.crc32(x.tobytes()), wide.sum(), (wide**2).sum(), x.size]
        np.testing.assert_allclose(found, G[f"check_{name}"], rtol=1e-12, err_msg=name)


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


def picture():
    blocks = given("picture", 1, 3, 90, 120, block=6)[0].double()
    return (128 + 50 * blocks).round().clip(0, 255).byte().permute(1, 2, 0).numpy()


def test_the_image_that_detr_sees():
    view = normalise(square_view(picture(), 800)[None])[0]
    assert np.abs(view[:, ::40, ::40].numpy() - G["view_800"]).max() <= 2e-2


def test_the_image_that_the_student_sees():
    """Within a grey level of Pillow's, which cuts off where bicubic overshoots; ours does not."""
    view = normalise(whole_view(picture(), 224)[None].clamp(0, 1))[0]
    assert np.abs(view[:, ::8, ::8].numpy() - G["view_224"]).max() <= 2e-2


def spectrogram(rate, first, end):
    pcm = fill.make_pcm(f"avkd_released-{rate}", 10 * rate, rate)[first:end] / np.float32(32767)
    return log_spectrogram(torch.from_numpy(pcm)[None].float(), rate, window=512, hop=238)[0]


def test_the_spectrogram():
    """At 44 100 Hz, 554 frames; the middle three seconds. At 22 050 Hz 276, which the released
    training tiles to 554."""
    spec = spectrogram(44100, 154350, 286650)
    assert np.abs(spec[::4, ::6].numpy() - G["spec_44100"]).max() <= 1e-5
    for axis, name in ((1, "time"), (0, "freq")):
        mean = spec.double().mean(axis).numpy()
        assert np.abs(mean - G[f"spec_44100_mean_over_{name}_f64"]).max() <= 1e-5
    spec = spectrogram(22050, 77174, 143324)
    assert spec.shape == (257, 276)
    tiled = spec[:, torch.arange(554) % 276]
    assert np.abs(tiled[::8, ::12].numpy() - G["spec_22050_tiled"]).max() <= 1e-5


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
        "detr": detections,
        "alpha": guidance.og_avc(av, objects),
        "vggss": guidance.og_avc(av, objects, (1.0, 0.4)),
    }
    for name, maps in fused.items():
        maps = metrics.normalise(maps)
        if name == "detr":
            maps[4] = torch.nan
        close(maps[:, ::16, ::16], f"fuse_{name}")
    thirds = guidance.og_avc_detr(av, objects, detections, has_detection)
    thirds = metrics.normalise(thirds)
    thirds[4] = torch.nan  # as released; here the two other maps step in
    close(thirds[:, ::16, ::16], "fuse_flickr")


def truths(name, size=224):
    """The ground truth (6, size, size), of VGG-SS of the first box alone; alpha is Flickr's."""
    name = name.replace("alpha", "flickr")
    boxes, found = G[f"truth_{name}_boxes"], []
    for own in boxes:
        if name == "vggss":
            own = own[:1][~np.isnan(own[:1]).any(1)].clip(0, 1)
            sample = Sample("a", None, None, own[(own[:, 2:] > own[:, :2]).all(1)])
        else:
            own = own[(own >= 0).all(1)] / 256
            sample = Sample("a", None, None, own, consensus=2)
        found.append(gt_map(sample, size))
    return np.stack(found)


@pytest.mark.parametrize("name", ["vggss", "flickr"])
def test_truths(name):
    found = truths(name)
    expected = np.unpackbits(G[f"truth_{name}_224"], axis=-1)
    assert np.array_equal(found > 0, expected.astype(bool))
    np.testing.assert_allclose(found.sum((1, 2)), G[f"truth_{name}_224_sum_f64"])
    if name == "flickr":
        full = np.unpackbits(G["truth_flickr_224_full"], axis=-1)
        assert np.array_equal(found == 1, full.astype(bool))


def scored(maps, gt):
    """cIoU of each sample by the protocol ezvsl: ≥, the value at rank n // 2."""
    return np.nan_to_num(metrics.localization(maps.numpy(), gt, "ezvsl")["ciou"])


def statistics(ciou):
    return metrics.success_rate(ciou), ciou.mean(), metrics.auc(ciou)


@pytest.mark.parametrize("name", ["vggss", "flickr", "alpha"])
def test_scores(name):
    """cIoU of each sample; AP50, mean and AUC. As released, sample 4, without a detection, scores 0
    wherever DETR takes part: here the other maps step in."""
    av, objects, detections = enlarged()
    has_detection = torch.arange(6) != 4
    detections = detections.nan_to_num()
    thirds = guidance.og_avc_detr(av, objects, detections, has_detection)
    of = {"av": av, "obj": objects, "detr224": detections}
    of |= {
        "vggss": {"fused": guidance.og_avc(av, objects, (1.0, 0.4))},
        "flickr": {"fused": thirds},
        "alpha": {"alpha": guidance.og_avc(av, objects), "thirds": thirds},
    }[name]
    gt, stats = truths(name), G[f"score_{name}_stats_f64"]
    assert len(of) == len(stats)
    for (which, maps), row in zip(of.items(), stats):
        ciou = scored(maps, gt)
        if which == "detr224" or maps is thirds:
            ciou[4] = 0
        np.testing.assert_allclose(ciou, G[f"score_{name}_{which}"], atol=2e-4)
        np.testing.assert_allclose(statistics(ciou), row, atol=2e-4)


@pytest.mark.parametrize("name", ["vggss", "flickr", "alpha"])
def test_scores_of_detr_at_800(name):
    maps = metrics.resize(torch.from_numpy(G["in_det"]).nan_to_num(), 800, "ezvsl")
    gt = truths(name, 800)
    if name != "alpha":
        np.testing.assert_allclose(gt.sum((1, 2)), G[f"truth_{name}_800_sum_f64"])
    ciou = scored(maps, gt) * (np.arange(6) != 4)
    np.testing.assert_allclose(ciou, G[f"score_{name}_detr800"], atol=2e-4)


@pytest.mark.parametrize("name", ["vggss", "flickr"])
def test_scores_of_the_released_validation(name):
    """By which the released training chooses on the test set: bicubic, half-pixel corners."""
    maps = metrics.resize(torch.from_numpy(G["in_av"]), 224, "slavc", align_corners=False)
    ciou = scored(maps, truths(name))
    np.testing.assert_allclose(ciou, G[f"score_{name}_bicubic"], atol=2e-4)
    found = statistics(ciou)
    np.testing.assert_allclose(found[::2], G[f"score_{name}_bicubic_stats_f64"], atol=2e-4)

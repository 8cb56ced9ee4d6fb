"""common.evaluation.page: the report of a run, the page of one's own files, the demo."""

import base64
import http.client
import io
import json
import re
import socket
import struct
import tempfile
import threading
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch

from common import evaluation, metrics
from common.evaluation import Evaluation, Model, Prediction, SceneTestSet, pair_gallery, page
from common.evaluation import shuffled_partners
from common.evaluation.page import clips, demo, report
from common.io import InputError, read_audio, read_image, read_json, write_audio, write_image
from sslalign.config import TINY
from tests.browser import CHROMIUM, chromium

CONFIG = TINY.__class__(held_out=8, image_size=32)
HOSTILE = '</script><img src=x onerror="alert(1)">\'"& $data \u2028'
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")


class Toy:
    """A predictor whose heatmaps are fixed by the audio and have nothing to do with the image."""

    config = CONFIG

    def encode_audio(self, waveforms):
        return waveforms[:, :49].abs() + torch.linspace(0, 1, 49).sin()

    def predict(self, batch):
        maps = {"matched": "", **evaluation.CONTROLS}
        return Prediction(
            {maps[kind]: a.view(-1, 7, 7) for kind, a in batch.audio.items()},
            {"visual": batch.audio["matched"], "audio": batch.audio["matched"]},
        )


def toy_model():
    def locate(image, waveform):
        heatmap = Toy().encode_audio(waveform[None]).view(1, 7, 7)
        boxes = [torch.tensor([[0.25, 0.25, 0.75, 0.5, 0.875]])]
        return page.Clip(heatmaps=heatmap, boxes=boxes, facts={"similarity": 0.5})

    return Model("toy", CONFIG, lambda path: read_audio(path, 8000), locate)


@pytest.fixture(scope="module")
def interactive():
    """A test set, its scores, and its gallery."""
    test_set = SceneTestSet(CONFIG, "interactive")
    audio = evaluation.encode_test_audio(Toy(), test_set)
    scores, _ = evaluation.score_samples(Toy(), test_set, audio)
    return test_set, scores, pair_gallery(Toy(), test_set, audio, scores, count=1)


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the texts of scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] in ("script", "title"):
            self.texts.append(data)


def read_page(path) -> dict:
    """The data of a page, after what every page must be was checked."""
    text = path.read_text("utf-8")
    assert len(text.encode()) <= report.MAX_BYTES
    elements = Elements(text)
    tags = "html head meta meta meta link title style body noscript main audio script script"
    assert " ".join(tag for tag, _ in elements.found) == tags
    for _, attributes in elements.found:
        assert not attributes.get("src") and attributes.get("href", "data:,") == "data:,"
    data = json.loads(report.DATA.search(text)[1])
    outside = set(re.findall(r"https?://[^\s\"'<>]+", text)) - {"http://www.w3.org/2000/svg"}
    assert outside <= {(data.get("paper") or {}).get("url")}
    assert "default-src 'none'" in text and "connect-src 'none'" in text
    return data


# What is in a page --------------------------------------------------------------------------------


def test_pick_takes_no_sample_twice():
    picked = clips.pick(np.array([0.9, np.nan, 0.1, 0.8, 0.2]), np.array([1, 1, 1, 0, 1]), 2)
    assert picked == {0: "first", 1: "first", 4: "best", 2: "best"}  # 3 is not shown
    assert clips.pick(torch.tensor([0.5]), [True]) == {0: "first"}


@pytest.mark.parametrize("protocol", ["ezvsl", "slavc"])
def test_the_page_scores_by_the_protocol_of_the_test_set(protocol):
    """Its thresholds give the scores by other protocols too, to the pixel at the threshold."""
    test_set = SceneTestSet(CONFIG, "interactive", protocol)
    audio = evaluation.encode_test_audio(Toy(), test_set)
    scores, _ = evaluation.score_samples(Toy(), test_set, audio)
    gallery = pair_gallery(Toy(), test_set, audio, scores, count=1)
    packed = clips.pack(gallery, {})["samples"][0]["clips"][0]
    clip = gallery.samples[0].clips[0]
    large = metrics.resize(clip.heatmaps, 224, align_corners=gallery.align_corners)
    mask = metrics.normalise(large) > packed["marks"]["top 50 %"][0]
    assert metrics.ciou(mask, clip.gt).item() == pytest.approx(scores[""]["ciou"][0], abs=1e-3)


@pytest.mark.parametrize("align_corners", [False, True])
def test_marks_are_thresholds_that_give_the_scores(align_corners):
    """min–max normalised, above the mark, is the region that the metrics score."""
    torch.manual_seed(0)
    maps, gt = torch.randn(3, 7, 9), metrics.boxes_to_map(torch.tensor([[[20, 30, 160, 100]]]), 224)
    gt = gt.expand(3, 224, 224)
    marks = clips.marks(maps, gt, clips.Gallery("", [], align_corners=align_corners))
    large = metrics.resize(maps, 224, align_corners=align_corners)
    scores = metrics.localization(large, gt)
    for name, key in (("top 50 %", "ciou"), ("adaptive", "ciou_adaptive")):
        masks = metrics.normalise(large.double()) > torch.tensor(marks[name])[:, None, None]
        torch.testing.assert_close(metrics.ciou(masks, gt), scores[key], atol=1e-9, rtol=0)
    assert set(clips.marks(maps, (), clips.Gallery("", []))) == {"top 50 %"}


def test_the_curve_of_a_set():
    torch.manual_seed(0)
    maps, gt = torch.rand(3, 224, 224), torch.zeros(3, 224, 224)
    gt[:, 40:120, 60:140] = 1
    maps[2] = gt[2]
    flat = np.full((1, 224, 224), 0.3)
    assert (clips.score_curve(flat, gt[:1].numpy()) == 0).all()  # as on the page
    values = clips.score_curve(maps, gt)
    assert values.shape == (3, len(clips.TAUS)) and (values[:, -1] == 0).all()
    assert (values[2, :-1] == 1).all()
    k = 12
    ciou = metrics.ciou(metrics.normalise(maps) > clips.TAUS[k], gt)
    np.testing.assert_allclose(values[:, k], ciou, atol=0.02)
    curves = clips.mean_curves(values)
    assert curves["cIoU@0.5"][k] == pytest.approx(1 / 3) and len(curves) == 2


def test_run_lengths_and_audio_come_back():
    gt = np.zeros((6, 6))
    gt[2:4, 1:5] = [0.5, 1, 1, 0.5]
    runs = clips.run_lengths(gt)
    assert np.array_equal(np.repeat(runs[::2], np.int64(runs[1::2])).reshape(6, 6), gt)
    waveform = 0.5 * torch.sin(torch.arange(20_000) / 20)
    decoded, rate = soundfile.read(io.BytesIO(base64.b64decode(clips.ogg(waveform, 8000))))
    assert rate == 8000 and len(decoded) == 20_000
    assert np.corrcoef(decoded, waveform.numpy())[0, 1] > 0.98


def test_a_gallery_of_pairs(interactive, tmp_path):
    test_set, scores, gallery = interactive
    assert [s.group for s in gallery.samples] == ["first", "best", "worst"]
    first = gallery.samples[0]
    assert [clip.name.split(":")[0] for clip in first.clips] == [
        "its own",
        "the other object's",
        "another image's",
        "silence",
    ]
    own = scores[""]
    for clip, i in zip(first.clips, (0, 1)):
        score = metrics.localization(
            metrics.resize(clip.heatmaps, 224, align_corners=False), clip.gt
        )
        assert score["ciou"].item() == pytest.approx(own["ciou"][i])
        assert clip.facts["cIoU adaptive"] == own["ciou_adaptive"][i]
        assert torch.equal(clip.waveform, test_set.waveform(i))
    other = shuffled_partners(test_set.groups, test_set.labels)[0]
    assert torch.equal(first.clips[2].waveform, test_set.waveform(other))
    assert torch.equal(first.clips[3].gt, first.clips[0].gt) and not first.clips[3].waveform.any()
    assert own["ciou"][int(gallery.samples[1].name[-6:])] == own["ciou"].max()

    result = Evaluation()
    result.add(test_set, scores, {"": "model"})
    result.galleries.append(gallery)
    run = tmp_path / "toy" / "a"
    run.mkdir(parents=True)
    result.write_sheets(run)
    data = read_page(run / "report.html")
    assert [t["columns"][0] for t in data["tables"]] == ["model"]
    assert data["galleries"][0]["curves"]["cIoU@0.5"][0] > 0
    assert len(data["audio"]) < sum(len(s.clips) for s in gallery.samples)  # none is there twice


def hostile_sample():
    image = np.full((40, 60, 3), 128, np.uint8)
    clip = page.Clip(HOSTILE, torch.zeros(800), 8000, torch.rand(1, 3, 4), facts={HOSTILE: 0.5})
    clip.labels, clip.boxes = [HOSTILE], [torch.tensor([[0.1, 0.1, 0.5, 0.9]])]
    return page.Sample(HOSTILE, [image], [clip], HOSTILE)


def test_names_from_outside_are_text(tmp_path):
    table = evaluation.tables.Table(HOSTILE, [HOSTILE], [{"name": HOSTILE, "values": {}}], 1)
    folder = tmp_path / "</script><b>" / "'\"&"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"data": HOSTILE, "commit": HOSTILE}))
    (folder / "log.jsonl").write_text(json.dumps({"step": 1, HOSTILE: 2.0}))
    page.write_report(folder, "report.html", [table], [page.Gallery(HOSTILE, [hostile_sample()])])
    data = read_page(folder / "report.html")
    assert data["galleries"][0]["samples"][0]["clips"][0]["name"] == HOSTILE
    assert data["title"] == "script><b>, '\"&" and list(data["series"]) == [HOSTILE]


def test_a_page_stays_under_its_size(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    samples = [
        page.Sample(str(i), [rng.integers(0, 256, (150, 150, 3), dtype=np.uint8)], [page.Clip()])
        for i in range(9)
    ]
    monkeypatch.setattr(report, "MAX_BYTES", 350_000)
    page.write_page(tmp_path / "a.html", "a", [page.Gallery("", samples)])
    data = read_page(tmp_path / "a.html")
    assert [s["name"] for s in data["galleries"][0]["samples"]] == ["0", "4", "8"]
    monkeypatch.setattr(report, "MAX_BYTES", 1)
    page.write_page(tmp_path / "b.html", "b", [page.Gallery("", samples[:1])])
    assert json.loads(report.DATA.search((tmp_path / "b.html").read_text())[1])["galleries"]


# A run --------------------------------------------------------------------------------------------


def test_the_page_of_a_run_that_is_going(tmp_path):
    folder = tmp_path / "sslalign" / "now"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"preset": "tiny", "seed": 3, "commit": "abc1234"}')
    rows = [{"step": k, "loss": 1 / k, "lr": 0.1, "data_s": 0.2} for k in range(1, 1001)]
    rows[9] |= {"validation/score": -0.5, "odd": None}
    log = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1001, "lo'
    (folder / "log.jsonl").write_text(log)
    path = report.rebuild(folder)
    data, facts = read_page(path), dict(read_page(path)["facts"])
    assert data["galleries"] == data["tables"] == [] and facts["steps"] == "1000"
    assert list(data["series"]) == ["loss", "validation/score", "lr"]
    assert len(data["series"]["loss"]) == 250 and data["series"]["validation/score"] == [[10, -0.5]]
    assert data["series"]["loss"][0] == [4, pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]), 1e-4)]
    assert facts["seed"] == "3" and data["paper"]["url"] == "https://arxiv.org/abs/2407.13676"
    assert data["paper"]["title"].startswith("Aligning Sight and Sound: Advanced Sound Source")

    page.write_report(folder, "report.html", [], [page.Gallery("set", [hostile_sample()])])
    (folder / "metrics.json").write_text('{"seconds": 61.4}')
    before, after = read_page(path), read_page(report.rebuild(folder))
    assert after["galleries"] == before["galleries"] and after["audio"] == before["audio"]
    assert dict(after["facts"])["time"] == "1 min 1 s"
    path.write_text("not a page")
    with pytest.raises(InputError):
        report.rebuild(folder)


@pytest.mark.parametrize("method", ["turn", "stmnet", "avkd", "sslalign"])
def test_every_readme_shows_the_page(method):
    """The picture is that of tests/browser.py."""
    text, name = (
        (report.HERE.parents[2] / method / "README.md").read_text("utf-8"),
        f"page-{method}",
    )
    assert f"make report-{method}" in text and f"](../docs/{name}.png)" in text
    path = report.HERE.parents[2] / "docs" / f"{name}.png"
    assert read_image(path).shape[1] == 1280 and path.stat().st_size < 200_000


@pytest.mark.parametrize("method", ["turn", "stmnet", "avkd", "sslalign"])
def test_every_paper_has_a_title_and_an_address(method):
    paper = report.paper(method)
    assert len(paper["title"]) > 30 and paper["url"].startswith("https://")
    assert report.paper("") is None and report.paper("no such method") is None


# One's own files and the demo ---------------------------------------------------------------------


def test_a_score_that_is_not_defined_is_not_on_the_page(tmp_path):
    """cIoU of nothing with nothing, as of two samples of VGG-SS that have no box."""
    image = np.zeros((8, 8, 3), np.uint8)
    clip = page.Clip(facts={"cIoU": np.float64("nan"), "maximum of the map": 0.5})
    page.write_page(
        tmp_path / "a.html", "a", [page.Gallery("", [page.Sample("s", [image], [clip])])]
    )
    (sample,) = read_page(tmp_path / "a.html")["galleries"][0]["samples"]
    assert sample["clips"][0]["facts"] == {"maximum of the map": [0.5]}


@pytest.fixture()
def files(tmp_path):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "street one.png", rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    for name in ("horn.wav", "bell.wav"):
        write_audio(tmp_path / name, rng.normal(0, 0.1, 4000), 8000)
    return tmp_path


def test_the_page_of_one_s_own_files(files, capsys):
    args = evaluation.localization_parser("toy", "").parse_args([])
    args.image, args.out = str(files / "street one.png"), str(files / "made" / "street.html")
    args.audio = f"{files / 'horn.wav'} {files / 'bell.wav'}"
    evaluation.write_localization(args, toy_model(), {"variant": "x"})
    printed = capsys.readouterr().out
    assert "trained on 12 drawn shapes: on photographs its answer means nothing" in printed
    assert "silence: 1 box, similarity 0.50" in printed and "noise: " in printed
    assert "horn.wav: 1 box, similarity 0.50, similarity of silence 0.50, " in printed
    data = read_page(files / "made" / "street.html")
    names = ["horn.wav", "bell.wav", "silence", "noise"]
    assert [clip["name"] for clip in data["galleries"][0]["samples"][0]["clips"]] == names
    assert "12 drawn shapes" in data["note"]
    found = json.loads((files / "made" / "street.json").read_text())
    assert found["boxes"] == [[17.5, 12.5, 52.5, 25.0]] and found["scores"] == [0.875]
    assert len(found["clips"]) == 4 and found["variant"] == "x"
    assert (files / "made" / "street.png").is_file()


def test_two_files_of_one_name_have_their_own_answers(files):
    args = evaluation.localization_parser("toy", "").parse_args([])
    (files / "other").mkdir()
    write_audio(files / "other" / "horn.wav", np.zeros(4000), 8000)
    args.image, args.out = str(files / "street one.png"), str(files / "a.png")
    args.audio = f"{files / 'horn.wav'} {files / 'other' / 'horn.wav'}"
    model = toy_model()
    loudness = lambda image, waveform: page.Clip(
        boxes=[torch.zeros(1, 5)], facts={"loudness": waveform.abs().max()}
    )
    evaluation.write_localization(args, model._replace(locate=loudness), {})
    clips = read_json(files / "a.json")["clips"]
    assert [c["audio"] for c in clips] == [*args.audio.split(), "silence", "noise"]
    assert [c["loudness"] > 0 for c in clips] == [True, False, False, True]


@pytest.mark.parametrize("audio", ["it's.wav", " ", "no.wav " * 60])
def test_audio_that_is_no_file(files, audio):
    args = evaluation.localization_parser("toy", "").parse_args([])
    args.image, args.out, args.audio = str(files / "street one.png"), str(files / "a.png"), audio
    with pytest.raises(InputError, match=r"--audio|no\.wav"):
        evaluation.write_localization(args, toy_model(), {})


class Client:
    """Posts to a demo."""

    def __init__(self, server):
        self.server, self.host = server, server.hosts[0]
        self.good = {"Host": self.host, "Origin": f"http://{self.host}", "X-Token": server.token}

    def post(self, body, path="/locate", **headers):
        """→ the status and the answer. The body is sent only if its length is true."""
        headers = {**self.good, "Content-Length": str(len(body)), **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], 30)
        connection.putrequest("POST", path, skip_host=True)
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value)
        is_true = headers["Content-Length"] == str(len(body))
        connection.endheaders(body if is_true else None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture()
def client():
    with demo.Demo(toy_model()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def request(files, **changes) -> bytes:
    body = {
        "name": HOSTILE,
        "image": (files / "street one.png").read_bytes(),
        "audio": (files / "horn.wav").read_bytes(),
    } | changes
    return json.dumps(
        {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in body.items()}
    ).encode()


def test_the_demo_answers_its_own_page(client, files):
    status, answer = client.post(request(files))
    assert status == 200
    sample = answer["samples"][0]
    assert [clip["name"] for clip in sample["clips"]] == [HOSTILE[:100], "silence", "noise"]
    assert len(sample["clips"][0]["maps"]) == 1 and len(answer["audio"]) == 3
    png = (files / "street one.png").read_bytes()
    for status, body, headers in (
        (403, request(files), {"Origin": "http://evil.example"}),
        (403, request(files), {"Origin": None}),
        (403, request(files), {"Host": "evil.example"}),
        (403, request(files), {"X-Token": "guess"}),
        (403, request(files), {"X-Token": None}),
        (411, request(files), {"Content-Length": "many"}),
        (413, b"", {"Content-Length": str(100 * 2**20)}),
        (413, b"", {"Content-Length": "9" * 5000}),
        (400, request(files, audio=b"a text"), {}),
        (400, request(files, image=b"a text"), {}),
        (400, request(files, image=png[: len(png) // 2]), {}),
        (400, request(files, image="!"), {}),
        (400, b"[]", {}),
        (400, b"[" * 200_000, {}),
        (400, b"\xff", {}),
    ):
        found, answer = client.post(body, **headers)
        assert found == status and list(answer) == ["error"] and "\n" not in answer["error"]
        assert "/" not in answer["error"]  # no path of the server
    assert client.post(request(files), path="/other")[0] == 404
    assert "truncated" in client.post(request(files, image=png[:100]))[1]["error"].lower()
    client.server.posts.extend([client.server.posts[-1]] * demo.MAX_POSTS)
    assert client.post(request(files))[0] == 429
    assert client.post(b" " * demo.MAX_BODY)[0] == 429  # read, or the connection would break


def test_the_demo_keeps_nothing(client, files, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert client.post(request(files))[0] == 200 and not [*folder.iterdir()]


@pytest.mark.parametrize("sent", [0, 8, 60, None])
def test_a_client_that_leaves_is_no_error(client, capfd, sent):
    """It resets its connection: at once, in the first line, in the headers, in the body."""
    with socket.create_connection(client.server.server_address) as connection:
        lines = [f"{name}: {value}" for name, value in client.good.items()]
        lines = ["POST /locate HTTP/1.1", *lines, "Content-Length: 1000", "", "half"]
        connection.sendall("\r\n".join(lines).encode()[:sent])
        linger = struct.pack("ii", 1, 0)  # closing resets the connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert client.post(b"{}")[0] == 400 and capfd.readouterr().err == ""


def test_the_demo_listens_on_the_loopback_address_alone(client):
    host, port = client.server.socket.getsockname()
    assert host == "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.settimeout(5)
        assert other.connect_ex(("127.0.0.2", port)) != 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200 and client.server.token in text and "12 drawn shapes" in text
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 404


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium (Debian's package: chromium)")
    with chromium() as tab:
        yield tab


CARD = "document.querySelectorAll('.card')"
PIXELS = f"{CARD}[0].querySelector('canvas').toDataURL()"
SCORE = f"parseFloat({CARD}[0].querySelector('.score').textContent.slice(4))"


@needs_chromium
def test_one_hears_and_sees_in_a_browser(browser, interactive, tmp_path):
    _, scores, gallery = interactive
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
    page.write_report(tmp_path, "report.html", [], [gallery])
    browser.errors.clear()
    browser.open((tmp_path / "report.html").as_uri())
    own, press = scores[""], f"{CARD}[0].querySelectorAll('.buttons button')"
    assert browser.run(f"{CARD}.length") == 3
    assert browser.run(SCORE) == pytest.approx(own["ciou"][0], abs=1e-3)
    first = browser.run(PIXELS)
    browser.run(f"{press}[1].click()")  # the other object's audio
    browser.wait("player.currentTime > 0.05")
    assert browser.run("!player.paused") and browser.run(PIXELS) != first
    assert browser.run(f"{press}[1].ariaPressed") == "true"
    assert browser.run(SCORE) == pytest.approx(own["ciou"][1], abs=1e-3)
    browser.run(f"{press}[1].click()")
    assert browser.run("player.paused")

    browser.run(f"{CARD}[0].querySelectorAll('.marks button')[1].click()")  # adaptive
    assert browser.run(SCORE) == pytest.approx(own["ciou_adaptive"][1], abs=1e-3)
    before = browser.run(PIXELS)
    browser.run(
        f"for (const x of [{CARD}[0].querySelector('.threshold')]) {{ x.value = 0.9;"
        "x.dispatchEvent(new Event('input')); }"
    )
    assert browser.run(SCORE) != pytest.approx(own["ciou_adaptive"][1], abs=1e-3)
    assert browser.run(PIXELS) != before
    assert "0.90" in browser.run("document.querySelector('.curve figcaption').textContent")
    assert browser.run("document.querySelectorAll('.curves svg').length") == 1
    for width, dark in (390, True), (1280, False):
        browser.open((tmp_path / "report.html").as_uri(), width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth") == width  # nothing sticks out
        assert len(browser.screenshot(tmp_path / f"{width}.png")) > 10_000
    assert browser.errors == []


@needs_chromium
def test_names_from_outside_are_text_in_a_browser(browser, tmp_path):
    sample = hostile_sample()
    table = evaluation.tables.Table(HOSTILE, [HOSTILE], [{"name": HOSTILE, "values": {}}], 1)
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, HOSTILE: 2.0}))
    page.write_report(tmp_path, "report.html", [table], [page.Gallery(HOSTILE, [sample])])
    browser.errors.clear()
    browser.open((tmp_path / "report.html").as_uri())
    assert browser.run("document.querySelectorAll('main img, main script').length") == 1
    assert browser.run("document.querySelector('h3').textContent") == f"{HOSTILE}: {HOSTILE}"
    assert browser.run("document.querySelector('main img').alt") == f"image: {HOSTILE}"
    assert browser.errors == []


@needs_chromium
def test_the_frames_follow_the_sound_track(browser, tmp_path):
    frames = [np.full((40, 60, 3), 60 * k, np.uint8) for k in range(4)]
    gt = torch.zeros(4, 224, 224)
    gt[:, :100, :100] = 1
    boxes = [torch.tensor([[0, 0, k / 4, 1]]) for k in range(4)]
    clip = page.Clip(
        "own", torch.rand(16000) / 9, 8000, torch.rand(4, 3, 3), boxes, list("abcd"), gt
    )
    clip.gt, clip.facts = [None, gt[1], None, gt[3]], {"similarity": torch.arange(4) / 4}
    sample = page.Sample("video", frames, [clip], "", range(4), ["", "background", "", "x"])
    page.write_page(tmp_path / "a.html", "video", [page.Gallery("", [sample])])
    browser.errors.clear()
    browser.open((tmp_path / "a.html").as_uri())
    shown = f"[...{CARD}[0].querySelectorAll('.strip span')].findIndex(x => x.matches('.now'))"
    assert browser.run(shown) == 1  # the first that is annotated
    names = browser.run(f"[...{CARD}[0].querySelectorAll('.strip span')].map(x => x.className)")
    assert [name.replace("now", "").strip() for name in names] == ["", "background", "", "on"]
    assert browser.run(f"{CARD}[0].querySelector('.score').textContent").startswith("IoU 0.")
    assert "similarity: 0.250" in browser.run(f"{CARD}[0].textContent")
    browser.run(f"{CARD}[0].querySelectorAll('.strip span')[3].click()")
    assert browser.run(shown) == 3
    browser.run(f"{CARD}[0].querySelectorAll('.strip span')[1].click()")
    assert browser.run("document.documentElement.scrollWidth") == 1280  # nothing sticks out
    browser.run(f"{CARD}[0].querySelector('.time').focus()")  # scrubbing with the keyboard
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent",
            type=kind,
            key="ArrowRight",
            code="ArrowRight",
            windowsVirtualKeyCode=39,
        )
    assert browser.run(shown) == 2
    assert "annotated: not here" in browser.run(f"{CARD}[0].textContent")
    assert browser.run(f"{CARD}[0].querySelector('.score').textContent") == "1 box"
    browser.run(f"{CARD}[0].querySelector('.buttons button').click()")
    browser.wait("player.currentTime > 0")
    assert browser.run("player.currentTime") >= 0.99  # from the third frame on
    browser.wait(f"{shown} >= 3")
    assert "predicted: d" in browser.run(f"{CARD}[0].textContent")
    legends = "document.querySelectorAll('.legend').length"
    assert browser.run(legends) == 1
    boxes = page.Sample("image", frames[:1], [page.Clip("own", boxes=boxes[:1])])
    page.write_page(tmp_path / "b.html", "boxes", [page.Gallery("", [boxes])])
    browser.open((tmp_path / "b.html").as_uri())  # no heatmap, so its colours are not explained
    assert browser.run(legends) == 0 and "lime" in browser.run("main.textContent")
    assert browser.errors == []


def decoded(url):
    """The samples of an Ogg file in a data URL."""
    return soundfile.read(io.BytesIO(base64.b64decode(url.partition(",")[2])))[0]


@needs_chromium
def test_the_demo_in_a_browser(browser, client, files):
    browser.errors.clear()
    browser.open(f"http://{client.host}/")
    for name, kind in ("street one.png", "image/png"), ("horn.wav", "audio/wav"):
        data = base64.b64encode((files / name).read_bytes()).decode()
        browser.run(
            f"(async () => {{ const list = new DataTransfer(), blob = await (async () => new Blob("
            f"[Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0))]))();"
            f"list.items.add(new File([blob], '{name}', {{ type: '{kind}' }}));"
            "const input = document.querySelector('input[type=file]'); input.files = list.files;"
            "input.dispatchEvent(new Event('change')); })()"
        )
    browser.wait(f"{CARD}.length == 1")
    assert browser.run(f"{CARD}[0].querySelectorAll('.buttons button').length") == 3
    assert browser.run(f"{CARD}[0].querySelector('h3').textContent") == "horn.wav"
    record = "[...document.querySelectorAll('button')].find(x => /record|stop/.test(x.textContent))"
    browser.run(f"{record}.click()")  # Chromium's microphone of its own, which beeps
    browser.wait(f"{record}.textContent == 'stop'")
    browser.run("new Promise((done) => setTimeout(done, 1200))")
    browser.run(f"{record}.click()")
    browser.wait(f"{CARD}.length == 2")
    assert browser.run(f"{CARD}[0].querySelector('h3').textContent") == "recording"
    recorded = decoded(browser.run(f"{CARD}[0].querySelector('button').click(), player.src"))
    assert len(recorded) > 4000 and np.abs(recorded).max() > 0.01
    assert browser.run(f"{record}.textContent") == "record audio"
    assert browser.errors == []

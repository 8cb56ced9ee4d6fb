"""third_party/fetch.py against a local server that can stop, ignore ranges, send wrong bytes."""

import fcntl
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.io import InputError
from third_party import fetch as module
from third_party.fetch import CHECKPOINTS, HERE, fetch, main

BODY = b"PK\x03\x04" + (bytes(range(256)) * 12000)[4:]  # 3 MB, more than one block
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """A server with `.url`, the `.ranges` of its requests, and how it responds: `.body`,
    `.stop_after` bytes, `.ignore_ranges`, `.shift` of the range."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            start = (
                int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                if asked and not server.ignore_ranges
                else 0
            )
            if self.path == "/absent":
                self.send_error(404)
                return
            if server.answer is not None:
                self.wfile.write(server.answer)
                return
            if start >= len(server.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = server.body[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range",
                    f"bytes {start + server.shift}-{len(server.body) - 1}/{len(server.body)}",
                )
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: server.stop_after])

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that hangs up is part of the tests
    server.url = f"http://127.0.0.1:{server.server_port}/x.pth"
    server.answer = None  # the bytes of a whole response
    server.ranges, server.body, server.stop_after, server.ignore_ranges, server.shift = (
        [],
        BODY,
        None,
        False,
        0,
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def entry(server, **more):
    return {"file": "x.pth", "url": server.url, "sha256": SHA256, "size": len(BODY), **more}


def names(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "lock")


def test_fetch_then_nothing_to_do(server, tmp_path):
    path, done = fetch(entry(server), tmp_path / "weights")
    assert path.read_bytes() == BODY and "as published" in done and SHA256 in done
    assert names(path.parent) == ["SHA256SUMS", "x.pth"]
    assert (path.parent / "SHA256SUMS").read_text() == f"{SHA256}  x.pth\n"
    assert "there already" in fetch(entry(server), tmp_path / "weights")[1] and server.ranges == [
        None
    ]


@pytest.mark.parametrize("sized", [True, False])
def test_resumes_where_it_stopped(server, tmp_path, sized):
    item = entry(server) if sized else {k: v for k, v in entry(server).items() if k != "size"}
    server.stop_after = 2_000_000
    with pytest.raises(
        InputError, match=f"ended after 2000000 of {len(BODY)} bytes.*{tmp_path}/x.pth"
    ):
        fetch(item, tmp_path)
    assert names(tmp_path) == ["x.pth.part"]
    server.stop_after = None
    assert fetch(item, tmp_path)[0].read_bytes() == BODY
    assert server.ranges == [None, "bytes=2000000-"] and names(tmp_path) == ["SHA256SUMS", "x.pth"]


def test_server_without_ranges_begins_anew(server, tmp_path):
    (tmp_path / "x.pth.part").write_bytes(b"\xff" * 1000)
    server.ignore_ranges = True
    assert fetch(entry(server), tmp_path)[0].read_bytes() == BODY and server.ranges == [
        "bytes=1000-"
    ]


def test_another_range_than_asked_for_is_refused(server, tmp_path):
    (tmp_path / "x.pth.part").write_bytes(BODY[:1000])
    server.shift = 7
    with pytest.raises(InputError, match="another part"):
        fetch(entry(server), tmp_path)
    assert (tmp_path / "x.pth.part").read_bytes() == BODY[:1000]


@pytest.mark.parametrize("sized", [True, False])
def test_complete_part_is_only_checked(server, tmp_path, sized):
    (tmp_path / "x.pth.part").write_bytes(BODY)
    item = entry(server) if sized else {k: v for k, v in entry(server).items() if k != "size"}
    assert fetch(item, tmp_path)[0].read_bytes() == BODY
    assert server.ranges == ([] if sized else [f"bytes={len(BODY)}-"])


def test_part_that_is_too_long_is_removed(server, tmp_path):
    (tmp_path / "x.pth.part").write_bytes(BODY + b"more")
    with pytest.raises(InputError, match="removed"):
        fetch(entry(server), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"sha256": "01234567"}, {"md5": "0" * 32}])
def test_wrong_digest_leaves_nothing(server, tmp_path, wrong):
    with pytest.raises(InputError, match=f"has {next(iter(wrong))} .* not 0.*removed"):
        fetch(entry(server, **wrong), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [len(BODY) - 1, len(BODY) + 1])
def test_wrong_size_is_refused_before_it_is_sent(server, tmp_path, size):
    with pytest.raises(InputError, match=f"offers {len(BODY)} bytes, not {size}"):
        fetch(entry(server, size=size), tmp_path)
    assert names(tmp_path) == []


def test_a_file_larger_than_any_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(InputError, match="not a file of this list"):
        fetch({"file": "x.pth", "url": server.url}, tmp_path)


@pytest.mark.parametrize(
    "digest, said",
    [
        ({"sha256": SHA256[:8]}, "8 published digits"),
        ({"md5": MD5}, "md5 as published"),
        ({}, "no published digest"),
    ],
)
def test_partly_known_digests(server, tmp_path, digest, said):
    done = fetch({"file": "x.pth", "url": server.url, **digest}, tmp_path)[1]
    assert (
        said in done
        and SHA256 in done
        and (tmp_path / "SHA256SUMS").read_text() == f"{SHA256}  x.pth\n"
    )


def test_unknown_digest_is_held_to_the_first_download(server, tmp_path):
    item = {"file": "x.pth", "url": server.url}
    path, _ = fetch(item, tmp_path)
    path.unlink()
    server.body = BODY[:4] + BODY[:3:-1]
    with pytest.raises(InputError, match=f"not {SHA256} as at first"):
        fetch(item, tmp_path)
    assert names(tmp_path) == ["SHA256SUMS"]


def test_file_put_there_by_hand_is_checked(server, tmp_path):
    (tmp_path / "x.pth").write_bytes(BODY)
    assert "there already" in fetch(entry(server), tmp_path)[1] and server.ranges == []
    (tmp_path / "x.pth").write_bytes(BODY[:-1] + b"?")
    with pytest.raises(InputError, match="has sha256"):
        fetch(entry(server), tmp_path)
    assert (tmp_path / "x.pth").exists()  # a person's file is not ours to remove


@pytest.mark.parametrize("file", ["../x.pth", "/tmp/x.pth", "a/b", "..", ""])
def test_never_outside_the_folder(server, tmp_path, file):
    with pytest.raises(InputError, match="not paths"):
        fetch(entry(server, file=file), tmp_path / "weights")
    assert names(tmp_path) == [] and server.ranges == []


def test_main_names_what_to_put_where(server, tmp_path, monkeypatch, capsys):
    absent = entry(server, file="absent.pth", url=server.url.replace("x.pth", "absent"))
    nowhere = entry(server, file="nowhere.pth", url="http://127.0.0.1:9/nowhere")
    monkeypatch.setattr(
        module, "CHECKPOINTS", {"absent": absent, "nowhere": nowhere, "x": entry(server)}
    )
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    assert main([]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "http" in line]
    assert (
        len(lines) == 2
        and "404" in lines[0]
        and f"put the file at {tmp_path}/absent.pth" in lines[0]
    )
    assert "cannot be fetched" in lines[1] and f"put the file at {tmp_path}/nowhere.pth" in lines[1]
    assert "x.pth: fetched" in out and names(tmp_path) == ["SHA256SUMS", "x.pth"]
    assert main(["x"]) == 0


def test_unknown_name_lists_the_names(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["detr"])
    text = capsys.readouterr().err
    assert stop.value.code == 2 and all(name in text for name in CHECKPOINTS)


def test_list_and_the_table_itself(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKPOINTS) + 1
    for line, (name, e) in zip(lines[1:], CHECKPOINTS.items()):
        assert line.startswith(name) and e["file"] in line and e["for"] in line
        assert set(e["used_by"]) <= {"turn", "stmnet", "avkd", "sslalign"} and e["url"].startswith(
            "https://"
        )
        assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})?", e.get("sha256", ""))
        for digits in re.findall(
            r"-([0-9a-f]{8})\.pth", e["file"]
        ):  # the digits that a name carries
            assert e["sha256"].startswith(digits)
        assert e["licence"] == "not stated" or (HERE / "licences" / f"{e['licence']}.txt").is_file()


# What servers and people do


@pytest.mark.parametrize(
    "answer, reason",
    [
        (b"HTTP/1.0 416 Bad\r\n\r\n", "did not fit"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1e9\r\n\r\nPK", "a length of '1e9'"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: -5\r\n\r\nPK", "a length of '-5'"),
        (b"HTTP/1.0 302 Go\r\nLocation: http://[::1\r\n\r\n", "cannot be fetched"),
        (b"HTTP/1.0 302 Go\r\nLocation: file:///etc/passwd\r\n\r\n", "302"),
        (b"what is this\r\n\r\n", "cannot be fetched"),
        (b"", "cannot be fetched"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>" + b"Log in " * 50_000, "no checkpoint"),
        (b"HTTP/1.0 200 OK\r\n\r\nPK\3\4 and little more", "no checkpoint"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "no checkpoint"),
        (b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b", "another coding"),
    ],
)
def test_odd_answers_are_one_line_and_pin_nothing(server, tmp_path, answer, reason):
    server.answer = answer
    with pytest.raises(InputError, match=reason):
        fetch({"file": "x.pth", "url": server.url}, tmp_path)  # no digest is known
    assert set(names(tmp_path)) <= {"x.pth.part"}


def test_a_server_that_is_too_slow(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "SLOWEST", 1e12)
    with pytest.raises(InputError, match="bytes a second: run again to go on"):
        fetch(entry(server), tmp_path)


def test_what_was_pinned_is_said(server, tmp_path):
    assert "later files must have" in fetch({"file": "x.pth", "url": server.url}, tmp_path)[1]


def test_sums_in_other_forms(server, tmp_path):
    upper = SHA256.upper()
    (tmp_path / "SHA256SUMS").write_bytes(f"# of 2020\n\n{upper} *x.pth\n\xff\n".encode("latin1"))
    unknown = {"file": "x.pth", "url": server.url}
    fetch(unknown, tmp_path)
    server.body = BODY[:-1] + b"x"
    (tmp_path / "x.pth").unlink()
    with pytest.raises(InputError, match="as at first"):
        fetch(unknown, tmp_path)


@pytest.mark.parametrize("name", ["x.pth", "x.pth.part", "SHA256SUMS", "SHA256SUMS.part", "lock"])
def test_links_are_not_written_through(server, tmp_path, name):
    (tmp_path / "weights").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "weights" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="is a link"):
        fetch(entry(server), tmp_path / "weights")
    assert (tmp_path / "mine").read_text() == "mine"


def test_two_at_once(server, tmp_path):
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another fetch"):
            fetch(entry(server), tmp_path)


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "file" / "weights")
    monkeypatch.setattr(module, "CHECKPOINTS", {"x": entry(server)})
    assert main(["x"]) == 2 and capsys.readouterr().err.count("\n") == 1

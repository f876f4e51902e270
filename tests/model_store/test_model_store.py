"""`idclip models` against a local server: interrupted and resumed, wrong, too large, without ranges, not accepted."""

import hashlib
import io
import socket
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from open_clip_idplugin import cli
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.model_store import (
    MODELS,
    FaceModel,
    ModelFile,
    fetching,
    get_model,
    installation,
    remove_model,
    unpacking,
)
from open_clip_idplugin.model_store.unpacking import unpack
from open_clip_idplugin.storage.output_folder import locked

DETECTOR = bytes(range(256)) * 400  # 102,400 bytes: more than one block
ENCODER = b"encoder" * 1000


class Server:
    """Files by path, and how badly they are served; `asked` keeps (path, Range)."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ranges, self.cut, self.length, self.redirect = True, None, True, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        asked = handler.headers.get("Range")
        self.asked.append((path, asked))
        if self.redirect is not None and not path.startswith("/moved"):
            handler.send_response(302)
            handler.send_header("Location", self.redirect.format(path=path))
            handler.end_headers()
            return
        content = self.files.get(path.removeprefix("/moved"))
        if content is None:
            handler.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.length:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : None if self.cut is None else start + self.cut])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nobody's real models."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(fetching, "_SECONDS", 5.0)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def file_of(server: Server, name: str, content: bytes) -> ModelFile:
    server.files[f"/{name}"] = content
    return ModelFile(name, f"https://example.org/{name}", len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def opencv(server, monkeypatch) -> FaceModel:
    """A model of two plain files in the place of OpenCV's."""
    files = (file_of(server, "yunet.onnx", DETECTOR), file_of(server, "sface.onnx", ENCODER))
    model = FaceModel("opencv", "opencv:default", "two nets", "MIT", files)
    monkeypatch.setitem(MODELS, "opencv", model)
    return model


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


PACK = {"buffalo_sc/det.onnx": DETECTOR, "buffalo_sc/rec.onnx": ENCODER, "buffalo_sc/LICENSE": b"research only"}


@pytest.fixture
def pack(server, monkeypatch) -> FaceModel:
    """A model in a zip, whose licence must be accepted."""
    file = file_of(server, "buffalo_sc.zip", zipped({**PACK, "buffalo_sc/setup.py": b"no", "__MACOSX/._det.onnx": b""}))
    model = FaceModel("buffalo_sc", "insightface:buffalo_sc", "a pack", "research only", (file,), True, "https://terms")
    monkeypatch.setitem(MODELS, "buffalo_sc", model)
    return model


def test_files_come_whole_with_their_origin(server, opencv, home, capsys):
    folder = get_model("opencv", mirror=server.address)
    assert folder == home / "data" / "open_clip_idplugin" / "models" / "opencv"
    assert (folder / "yunet.onnx").read_bytes() == DETECTOR and (folder / "sface.onnx").read_bytes() == ENCODER
    assert opencv.files[0].sha256 in (folder / installation.ORIGIN_FILE).read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["opencv"]  # nothing half done beside it
    server.asked.clear()
    assert get_model("opencv", mirror=server.address) == folder and server.asked == []
    assert remove_model("opencv") == folder and not folder.exists()
    with pytest.raises(IdClipError, match="there is no opencv to remove"):
        remove_model("opencv")


def test_an_interrupted_download_goes_on_where_it_was(server, opencv):
    server.cut = 30_000  # the connection ends after so many bytes, again and again
    folder = get_model("opencv", mirror=server.address)
    assert (folder / "yunet.onnx").read_bytes() == DETECTOR
    assert [asked for path, asked in server.asked if "yunet" in path] == [
        None, "bytes=30000-", "bytes=60000-", "bytes=90000-",
    ]  # fmt: skip


def test_the_same_command_goes_on_after_a_failure(server, opencv, home):
    server.cut = 10_000
    with pytest.raises(IdClipError, match=r"yunet\.onnx broke off after 40,000 of 102,400 bytes .*the same command"):
        get_model("opencv", mirror=server.address)
    assert not installation.opencv_folder().exists()
    server.cut, server.asked = None, []
    folder = get_model("opencv", mirror=server.address)
    assert (folder / "yunet.onnx").read_bytes() == DETECTOR
    assert server.asked == [("/yunet.onnx", "bytes=40000-"), ("/sface.onnx", None)]


@pytest.mark.parametrize("length", [True, False])
def test_a_server_without_ranges_starts_again(server, opencv, length):
    server.cut = 10_000
    with pytest.raises(IdClipError, match="broke off"):
        get_model("opencv", mirror=server.address)
    server.cut, server.ranges, server.length = None, False, length
    assert (get_model("opencv", mirror=server.address) / "yunet.onnx").read_bytes() == DETECTOR


@pytest.mark.parametrize(
    ("content", "length", "sentence"),
    [
        (DETECTOR[:-1] + b"!", True, r"not the file yunet\.onnx that was published \(its SHA-256 differs\)"),
        (DETECTOR + b"!", True, "it has 102,401 bytes, not 102,400"),
        (DETECTOR + b"!", False, "it has more than 102,400 bytes, not 102,400"),
        (DETECTOR[:-1], True, "it has 102,399 bytes, not 102,400"),
    ],
)
def test_another_file_is_thrown_away(server, opencv, content, length, sentence):
    server.files["/yunet.onnx"], server.length = content, length
    with pytest.raises(IdClipError, match=sentence):
        get_model("opencv", mirror=server.address)
    assert not installation.opencv_folder().exists()
    server.files["/yunet.onnx"], server.length = DETECTOR, True
    assert (get_model("opencv", mirror=server.address) / "yunet.onnx").read_bytes() == DETECTOR


def test_a_part_longer_than_the_servers_file_is_dropped(server, opencv):
    server.cut = 10_000
    with pytest.raises(IdClipError, match="broke off"):
        get_model("opencv", mirror=server.address)
    server.files["/yunet.onnx"], server.cut = DETECTOR[:5], None
    with pytest.raises(IdClipError, match="answers 416"):
        get_model("opencv", mirror=server.address)
    server.files["/yunet.onnx"] = DETECTOR
    assert (get_model("opencv", mirror=server.address) / "yunet.onnx").read_bytes() == DETECTOR


def test_what_the_network_refuses_is_a_sentence(server, opencv):
    del server.files["/yunet.onnx"]
    with pytest.raises(IdClipError, match=r"yunet\.onnx could not be fetched: http://127\S+ answers 404 Not Found"):
        get_model("opencv", mirror=server.address)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(IdClipError, match=r"could not be fetched from .*check the network"):
        get_model("opencv", mirror=closed)
    for mirror in ("file:///etc", "ftp://example.org", "no address"):
        with pytest.raises(IdClipError, match="--mirror must be an http or https address"):
            get_model("opencv", mirror=mirror)


def test_redirects_lead_to_https_or_the_mirror_alone(server, opencv):
    other = Server()
    other.files = dict(server.files)
    for target, sentence in (
        (
            f"{other.address}/moved{{path}}",
            r"^http://\S+ redirects to http://\S+, which is not https, and was not followed$",
        ),
        ("ftp://example.org/x", "redirects to ftp://example.org/x, which is not https"),
        ("file:///etc/passwd", "Redirection to url 'file:///etc/passwd' is not allowed"),
    ):
        server.redirect = target
        with pytest.raises(IdClipError, match=sentence):
            get_model("opencv", mirror=server.address)
    assert other.asked == []
    server.redirect = f"{server.address}/moved{{path}}"
    assert (get_model("opencv", mirror=server.address) / "yunet.onnx").read_bytes() == DETECTOR
    other.close()
    assert not "http://example.org/".startswith(fetching._allowed("https://example.org/a", None))


def test_a_licence_must_be_accepted_before_anything_is_asked(server, pack, home):
    with pytest.raises(
        IdClipError, match=r"research only \(see https://terms\): say `idclip models get buffalo_sc --acc"
    ):
        get_model("buffalo_sc", mirror=server.address)
    assert server.asked == []
    folder = get_model("buffalo_sc", accept_licence=True, mirror=server.address)
    assert folder == home / ".insightface" / "models" / "buffalo_sc"
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "det.onnx", "origin.json", "rec.onnx"]
    assert (folder / "det.onnx").read_bytes() == DETECTOR


def test_where_nothing_can_be_written(server, opencv, pack, home):
    (home / "data").write_text("a file where the folder should be")
    with pytest.raises(IdClipError, match=r"cannot make the folder .*opencv\.part"):
        get_model("opencv", mirror=server.address)
    folder = installation.insightface_folder("buffalo_sc")
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(
        IdClipError, match=r"buffalo_sc is there, but is not buffalo_sc as it was published; move it away"
    ):
        get_model("buffalo_sc", accept_licence=True, mirror=server.address)
    with pytest.raises(IdClipError, match="was not fetched by `idclip models`"):
        remove_model("buffalo_sc")
    assert (folder / "notes.txt").read_text() == "mine" and server.asked == []


def test_an_empty_folder_of_a_broken_download_is_no_hindrance(server, pack):
    installation.insightface_folder("buffalo_sc").mkdir(parents=True)
    assert (get_model("buffalo_sc", accept_licence=True, mirror=server.address) / "rec.onnx").exists()


def test_no_room_and_a_second_command_at_once(server, opencv, monkeypatch):
    writing = pytest.raises(IdClipError, match=r"another process is writing to .*\.opencv\.part; wait for it to end")
    with locked(installation.opencv_folder().parent / ".opencv.part"), writing:
        get_model("opencv", mirror=server.address)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(IdClipError, match=r"opencv needs 0 MB, and there are 0 MB left"):
        get_model("opencv", mirror=server.address)
    assert server.asked == []


def linked() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("det.onnx")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


def claiming(size: int) -> bytes:
    """A zip whose directory claims that its one member, of 1000 bytes, has `size`."""
    content = bytearray(zipped({"det.onnx": b"\0" * 1000}))
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = size.to_bytes(4, "little")
    return bytes(content)


def damaged() -> bytes:
    content = bytearray(zipped({"det.onnx": DETECTOR}))
    content[60:90] = b"!" * 30
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (zipped({"../det.onnx": b"x"}), "leads out of its folder"),
        (zipped({"/etc/det.onnx": b"x"}), "leads out of its folder"),
        (zipped({"a\\..\\det.onnx": b"x"}), "leads out of its folder"),
        (zipped({"a/det.onnx": b"x", "b/det.onnx": b"y"}), "two files named 'det.onnx'"),
        (zipped({f"{number}.onnx": b"x" for number in range(65)}), "holds more than a face pack can"),
        (claiming(10), "no usable zip"),
        (zipped({"det.onnx": bytes(300_000)}), "holds more than a face pack can"),
        (linked(), "holds the link 'det.onnx'"),
        (damaged(), "no usable zip"),
        (b"no zip at all", "no usable zip"),
    ],
)
def test_hostile_zips_are_refused(tmp_path, monkeypatch, content, sentence):
    monkeypatch.setattr(unpacking, "_MOST_BYTES", 200_000)
    path, folder = tmp_path / "pack.zip", tmp_path / "deep" / "folder"
    path.write_bytes(content)
    folder.mkdir(parents=True)
    with pytest.raises(IdClipError, match=sentence):
        unpack(path, folder)
    assert not list(tmp_path.glob("*.onnx")) and not list((tmp_path / "deep").glob("*.onnx"))


def test_the_registry_names_https_addresses_and_whole_hashes():
    assert {"opencv", "buffalo_l"} <= set(MODELS)
    for name, model in MODELS.items():
        assert model.name == name and (model.terms is None) == ("non-commercial" not in model.licence)
        for file in model.files:
            assert file.url.startswith("https://") and file.size > 1000
            assert len(file.sha256) == 64 and int(file.sha256, 16)


def test_the_verb_lists_fetches_and_removes(server, opencv, pack, home, capsys):
    own = home / ".insightface" / "models" / "mine"
    own.mkdir(parents=True)
    (own / "rec.onnx").write_bytes(bytes(2_000_000))
    assert idclip("models") == 0
    listed = capsys.readouterr().out
    assert (
        "opencv:default" in listed and "missing" in listed and "idclip models get buffalo_sc --accept_licence" in listed
    )
    assert any(line.split()[:4] == ["mine", "insightface:mine", "there", "2"] for line in listed.splitlines())
    assert any(line.startswith("miniature") for line in listed.splitlines())
    assert idclip("models", "get", "opencv", "--mirror", server.address) == 0
    out = capsys.readouterr().out
    assert "opencv is in " in out and "--faces opencv:default" in out
    assert idclip("models", "list") == 0
    assert any(
        line.split()[:3] == ["opencv", "opencv:default", "there"] for line in capsys.readouterr().out.splitlines()
    )
    assert idclip("models", "remove", "opencv") == 0 and not installation.opencv_folder().exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fetch", "opencv"), "say list, get NAME or remove NAME"),
        (("get",), "needs a name: opencv, buffalo_l"),
        (("get", "buffalo_xxl"), "there is no model 'buffalo_xxl' to fetch; choose one of opencv"),
        (("get", "buffalo_l"), "say `idclip models get buffalo_l --accept_licence`"),
        (("get", "--accept_licence", "buffalo_xxl"), "there is no model 'buffalo_xxl' to fetch"),
        (("list", "opencv"), "takes no names"),
    ],
)
def test_the_verb_refuses_in_a_sentence(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("network used"))
    assert idclip("models", *words) == 2
    assert sentence in capsys.readouterr().err


def idclip(*words: str) -> int:
    return cli.run(cli.VERBS, words, "idclip")


def test_opencv_default_is_the_fetched_folder(home, monkeypatch):
    pytest.importorskip("cv2")
    from face_pack_fixtures import toy_picture, write_sface, write_yunet

    from open_clip_idplugin.faces import PackNotFound, load_face_engine

    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("network used"))
    with pytest.raises(PackNotFound, match=r"models/opencv .*does not exist; `idclip models get opencv` fetches it"):
        load_face_engine("opencv:default")
    folder = installation.opencv_folder()
    folder.mkdir(parents=True)
    write_yunet(folder)
    write_sface(folder)
    assert len(load_face_engine("opencv:default").detect(toy_picture((64, 96)))) == 1


def test_private_paths_stay_in_the_users_folder(home):
    from open_clip_idplugin.gallery.file import default_gallery

    assert default_gallery() == home / "data" / "open_clip_idplugin" / "gallery.sqlite"
    assert Path(installation.opencv_folder()).parent.parent == default_gallery().parent


def test_the_registry_agrees_with_a_file_from_its_project():
    """The one published file that is at hand where the tests run."""
    import real_photos

    model = MODELS["opencv"].files[0]
    path = real_photos.REAL / "models" / model.name
    if not path.is_file():
        pytest.skip("no folder of real photographs with models")
    assert path.stat().st_size == model.size and hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256

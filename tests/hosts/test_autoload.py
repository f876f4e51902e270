"""The start-up hook, in fresh processes of a throwaway environment: stock commands know the models, and nobody is harmed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import autoload

pytestmark = pytest.mark.host

IDCLIP = ("-c", "from open_clip_idplugin.cli import main; main()")
LISTS = "import open_clip; print([name for name in open_clip.list_models() if 'IdCLIP' in name])"
MODEL = "IdCLIP-ViT-miniature"


class Environment:
    """A virtual environment that has this checkout, and the packages of the one that runs the tests."""

    def __init__(self, folder: Path, holds_package: bool = True) -> None:
        venv.EnvBuilder(symlinks=True).create(folder)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        self.python = folder / "bin" / "python"
        if holds_package:
            places = f"{ROOT}\n{sysconfig.get_path('purelib')}\n"  # paths alone: no .pth file in there is read
            (self.packages / "packages.pth").write_text(places)

    def surroundings(self, path: Path | None = None, **variables: str) -> dict[str, str]:
        """Environment variables of its processes; `path` comes before all packages."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return kept | variables | ({} if path is None else {"PYTHONPATH": str(path)})

    def run(self, *words: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *words],
            env=self.surroundings(path, **variables),
            cwd=self.packages.parent,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    """With the hook."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    result = made.run(*IDCLIP, "hosts", "--autoload", "on")
    assert result.returncode == 0, result.stderr
    return made


@pytest.fixture
def other_open_clip(tmp_path) -> Path:
    """A folder with a package open_clip that is not as the patch rows expect."""
    package = tmp_path / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("from open_clip.factory import get_tokenizer\n__version__ = '9.0'\n")
    (package / "factory.py").write_text("def get_tokenizer(model_name): return 'its own'\n")
    return tmp_path


def test_on_status_and_off_leave_nothing_behind(tmp_path):
    empty = Environment(tmp_path / "env")
    before = sorted(empty.packages.rglob("*"))

    def hosts(*words):
        result = empty.run(*IDCLIP, "hosts", *words, PYTHONDONTWRITEBYTECODE="")
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert hosts().startswith("off: ")
    assert hosts("--autoload", "on").startswith("On: ")
    assert hosts("--autoload", "status").startswith(
        "on: every `import open_clip` of "
    )  # a start that compiles the hook
    (empty.packages / f"{autoload.NAME}.py").write_text("def wait(): pass\n")
    assert hosts().startswith("on, of another version: ")
    assert "removed" in hosts("--autoload", "off")
    assert sorted(empty.packages.rglob("*")) == before
    assert hosts("--autoload", "off").startswith("Off: there was no hook")


def test_a_start_of_python_imports_nothing_of_this_package(environment):
    code = (
        "import sys; print([type(finder).__name__ for finder in sys.meta_path if not isinstance(finder, type)], "
        "[name for name in ('wrapt', 'open_clip_idplugin', 'open_clip') if name in sys.modules])"
    )
    result = environment.run("-c", code)
    assert result.stdout == "['WaitingFinder'] []\n", result.stderr


def test_an_open_clip_that_does_not_fit_stays_as_it_was_with_one_warning(environment, other_open_clip):
    code = (
        "import importlib, open_clip\n"
        "importlib.reload(open_clip)\n"
        "print(open_clip.get_tokenizer('x'), [name for name in vars(open_clip.factory) if name[:2] != '__'])"
    )
    result = environment.run("-c", code, path=other_open_clip)
    assert result.stdout == "its own ['get_tokenizer']\n" and result.returncode == 0
    assert result.stderr.count("RuntimeWarning") == 1
    assert "open_clip is as without them (the plugin needs open_clip.factory:CustomTextCLIP, which" in result.stderr
    assert "`idclip hosts --autoload off` ends this" in result.stderr


def test_where_warnings_are_errors_open_clip_can_still_be_imported(environment, other_open_clip):
    result = environment.run("-W", "error::RuntimeWarning", "-c", "import open_clip", path=other_open_clip)
    assert result.returncode == 0 and "the IdCLIP models are not registered" in result.stderr


def test_who_imports_the_plugin_is_told_by_an_error_and_not_by_a_warning(environment, other_open_clip):
    result = environment.run("-c", "import open_clip_idplugin, open_clip", path=other_open_clip)
    assert result.returncode == 1 and "HostMismatchError: the plugin needs" in result.stderr
    assert "RuntimeWarning" not in result.stderr


def test_looking_for_open_clip_registers_nothing(environment, other_open_clip):
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.find_spec('open_clip')\n"
        "print('open_clip_idplugin' in sys.modules, spec.loader.get_filename(), spec.loader.is_package('open_clip'))"
    )
    result = environment.run("-c", code, path=other_open_clip)
    assert result.stdout == f"False {other_open_clip / 'open_clip' / '__init__.py'} True\n", result.stderr


def test_a_plugin_that_was_uninstalled_is_one_warning(tmp_path, other_open_clip):
    bare = Environment(tmp_path / "env", holds_package=False)
    shutil.copy(Path(autoload.__file__).with_name("autoload_hook.py"), bare.packages / f"{autoload.NAME}.py")
    (bare.packages / f"{autoload.NAME}.pth").write_text(f"import {autoload.NAME}; {autoload.NAME}.wait()\n")
    result = bare.run("-c", "import open_clip; print(open_clip.__version__)", path=other_open_clip)
    assert result.stdout == "9.0\n"
    assert "No module named 'open_clip_idplugin'" in result.stderr and str(bare.packages) in result.stderr


def test_an_environment_that_lacks_the_package_is_refused(tmp_path):
    bare = Environment(tmp_path / "env", holds_package=False)
    for_this_process_alone = f"import sys; sys.path += [{str(ROOT)!r}, {sysconfig.get_path('purelib')!r}]; {IDCLIP[1]}"
    result = bare.run("-c", for_this_process_alone, "hosts", "--autoload", "on")
    assert result.returncode == 2 and not list(bare.packages.glob(f"{autoload.NAME}*"))
    assert "does not hold this package, which is found by PYTHONPATH" in result.stderr.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "packages").touch()  # no folder, so that root cannot write there either
    monkeypatch.setattr(autoload, "hook_folder", lambda: tmp_path / "packages")
    monkeypatch.setattr(autoload, "_require_own_environment", lambda _folder: None)
    with pytest.raises(
        IdClipError, match=r"cannot be written to .*packages .*: run the command as who owns this Python"
    ):
        autoload.hosts("on")


def test_the_systems_python_is_refused(tmp_path, monkeypatch):
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    with pytest.raises(IdClipError, match="belongs to the operating system"):
        autoload.switch_on(tmp_path)


def test_a_hook_of_which_a_file_is_gone_is_named(tmp_path):
    (tmp_path / f"{autoload.NAME}.py").touch()
    assert autoload.state_of(tmp_path) == autoload.HALF
    assert autoload.describe(tmp_path).startswith("incomplete: ")


@pytest.mark.parametrize("word", ["maybe", "", "On"])
def test_other_words_are_refused(word):
    with pytest.raises(IdClipError, match="say on, off or status"):
        autoload.hosts(word)


def train(environment: Environment, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """open_clip's own command, for one epoch on made-up data."""
    return environment.run(
        "-m", "open_clip_train.main", "--model", MODEL, "--dataset-type", "synthetic", "--train-num-samples", "4",
        "--batch-size", "2", "--epochs", "1", "--workers", "0", "--device", "cpu", "--precision", "fp32",
        "--logs", str(folder), "--name", "stock", *words,
    )  # fmt: skip


def test_stock_training_knows_the_model_and_says_once_what_it_leaves_out(environment, tmp_path):
    result = train(environment, tmp_path, "--distill-model", MODEL, "--distill-pretrained", "miniature")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said[-2000:]
    assert said.count("trains an IdCLIP with captions alone") == 1  # of two models
    assert "python -m training_patches" in said
    assert (tmp_path / "stock" / "checkpoints" / "epoch_1.pt").is_file()


@pytest.mark.slow
def test_without_the_hook_stock_training_does_not_know_the_model(tmp_path):
    result = train(Environment(tmp_path / "env"), tmp_path)
    assert result.returncode and "Model config" in result.stdout + result.stderr


def clip_retrieval(environment: Environment, *words: str) -> tuple[str, ...]:
    """The command line of clip-retrieval's console script."""
    script = environment.packages.parent / "clip-retrieval"
    script.write_text("from clip_retrieval.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    return (str(script), *words)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    pytest.importorskip("clip_retrieval")
    from retrieval_fixtures import draw_images, write_shard

    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "00000.tar", draw_images(12))
    return folder


@pytest.fixture(scope="module")
def vectors(shards):
    """[12, D] float32: the shards' pictures as this process's own model sees them."""
    from retrieval_fixtures import draw_images, encode_jpeg

    from open_clip_idplugin.checkpoints.loading import load_model

    loaded = load_model(MODEL, "miniature")
    return np.stack([encode_jpeg(loaded, image.jpeg) for image in draw_images(12)])


INFERENCE = (
    "inference", "--input_format", "webdataset", "--clip_model", f"open_clip:{MODEL}/miniature", "--batch_size", "4",
    "--num_prepro_workers", "1", "--wds_number_file_per_input_file", "12",
)  # fmt: skip


@pytest.mark.slow
def test_clip_retrieval_embeds_indexes_and_serves(environment, shards, vectors, tmp_path):
    """Its three commands as they are: `back` asks for TorchScript, which is its default."""
    places = ("--input_dataset", str(shards / "00000.tar"), "--output_folder", str(tmp_path / "embeddings"))
    result = environment.run(*clip_retrieval(environment, *INFERENCE, *places))
    assert result.returncode == 0, result.stderr[-2000:]
    embedded = np.load(tmp_path / "embeddings" / "img_emb" / "img_emb_0.npy")
    np.testing.assert_allclose(embedded, vectors, atol=1e-3)
    folders = ("--embeddings_folder", str(tmp_path / "embeddings"), "--index_folder", str(tmp_path / "index"))
    result = environment.run(*clip_retrieval(environment, "index", *folders))
    assert result.returncode == 0, result.stderr[-2000:]
    (tmp_path / "indices.json").write_text(json.dumps({"drawn": str(tmp_path / "index")}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nothing_else = ("safety_model", "violence_detector", "aesthetic_embeddings")
    words = clip_retrieval(
        environment, "back", "--port", str(port), "--indices_paths", str(tmp_path / "indices.json"),
        "--clip_model", f"open_clip:{MODEL}/miniature", "--enable_mclip_option", "False",
        *(word for name in nothing_else for word in (f"--provide_{name}", "False")),
    )  # fmt: skip
    request = {"embedding_input": vectors[7].tolist(), "modality": "image", "num_images": 2, "indice_name": "drawn"}
    texts = {"text": "picture number 3", "modality": "image", "num_images": 12, "indice_name": "drawn"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([environment.python, *words], env=environment.surroundings(), stdout=log, stderr=log)
        try:
            assert answer(port, request, server)[0]["id"] == 7
            assert sorted(found["id"] for found in answer(port, texts, server)) == list(range(12))
        finally:
            server.terminate()
            server.wait()


def answer(port: int, request: dict, server: subprocess.Popen) -> list[dict]:
    """What the backend answers, once it does."""
    data = json.dumps({"use_safety_model": False, "use_violence_detector": False, **request}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/knn-service", data=data, headers={"Content-Type": "application/json"}
    )
    while server.poll() is None:
        try:
            with urllib.request.urlopen(asked, timeout=60) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from None
        except OSError:  # it has not begun to listen
            time.sleep(0.5)
    raise AssertionError("the backend ended")


SPARK_DRIVER = """
import sys
from clip_retrieval.clip_inference import clip_inference
from pyspark.sql import SparkSession

shards, output, model = sys.argv[1:]
SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
clip_inference(
    shards, output, input_format="webdataset", clip_model=model, batch_size=4, num_prepro_workers=1,
    wds_number_file_per_input_file=12, distribution_strategy="pyspark", enable_text=False,
)
"""


@pytest.mark.slow
def test_spark_workers_know_the_models(environment, shards, vectors, tmp_path):
    """The driver imports nothing of this package, and neither do the workers."""
    pytest.importorskip("pyspark")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    (tmp_path / "driver.py").write_text(SPARK_DRIVER)
    words = (str(shards / "00000.tar"), str(tmp_path / "embeddings"), f"open_clip:{MODEL}/miniature")
    result = environment.run(str(tmp_path / "driver.py"), *words, PYSPARK_PYTHON=str(environment.python))
    assert result.returncode == 0, result.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "embeddings" / "img_emb" / "img_emb_0.npy"), vectors, atol=1e-3)

"""Published weights by name, from a server on this computer; the files are generated."""

import functools
import http.server
import re
import shlex
import threading

import numpy as np
import pytest
from PIL import Image

import deeplab_tf
from deeplab_tf import import_weights, predict
from deeplab_tf.config.programs import ImportConfig, PredictConfig
from deeplab_tf.jobs import weight_import
from deeplab_tf.messages import UserError
from deeplab_tf.weights import published
from tests.serving import cases
from tests.weights import writers
from tests.weights.test_ssseg import IMAGES, Oracle

NAME = "voc_r50_os16"


def write_ssseg(path):
    """A file of 21 classes in SSSegmentation's layout, of a shallower network."""
    oracle = Oracle()
    oracle.mmseg(IMAGES, 18, "v1", 16, (6, 12), 21, False)
    writers.write_pth(path, {"state_dict": oracle.arrays})


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The name's file on a local server; returns the server's list of requests."""
    monkeypatch.setenv("DEEPLAB_TF_HOME", str(tmp_path / "home"))
    (tmp_path / "www").mkdir()
    write_ssseg(tmp_path / "www/weights.pth")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *arguments):
            requests.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    redirect(monkeypatch, f"http://127.0.0.1:{server.server_port}/weights.pth")
    yield requests
    server.shutdown()


def redirect(monkeypatch, url):
    weights = published.PUBLISHED[NAME]
    settings = {**weights.settings, "atrous_rates": (6, 12)}
    changed = {**vars(weights), "url": url, "settings": settings}
    monkeypatch.setitem(published.PUBLISHED, NAME, published.Published(**changed))


def test_weights_are_fetched_and_converted_once(served, tmp_path, capsys):
    pixels = cases.pictures(1)[0]
    first = deeplab_tf.load(NAME).predict(pixels)
    printed = capsys.readouterr().out
    facts = ["address: http://127.0.0.1", "hash: none is published", "licence: MIT"]
    assert [fact for fact in facts if fact not in printed] == [] and len(first.names) == 21
    again = deeplab_tf.load(NAME).predict(pixels)
    assert served == ["/weights.pth"] and capsys.readouterr().out == ""
    np.testing.assert_array_equal(again.labels, first.labels)

    output = tmp_path / "by_path"
    weight_import.main(
        ImportConfig(
            source=str(tmp_path / "www/weights.pth"),
            output=str(output),
            output_stride=16,
            atrous_rates=(6, 12),
        )
    )
    np.testing.assert_array_equal(deeplab_tf.load(output).predict(pixels).labels, first.labels)


def test_predict_takes_a_name(served, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    Image.fromarray(cases.pictures(1)[0]).save(tmp_path / "photos/a.png")
    places = {"input": (str(tmp_path / "photos"),), "output_dir": str(tmp_path / "out")}
    predict.main(PredictConfig(weights=NAME, **places))
    assert (tmp_path / "out/index/a.png").is_file()
    assert "step 0 (imported weights)" in capsys.readouterr().out


def test_without_network_the_sentence_names_a_way_that_works(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEEPLAB_TF_HOME", str(tmp_path / "home"))
    redirect(monkeypatch, "http://127.0.0.1:9/weights.pth")
    with pytest.raises(UserError, match="cannot be fetched .*; fetch the file elsewhere") as error:
        deeplab_tf.load(NAME)
    assert not published.PUBLISHED[NAME].folder.exists()
    assert "address: http://127.0.0.1:9/weights.pth" in capsys.readouterr().out

    write_ssseg(tmp_path / "fetched.pth")
    command = re.search("`python -m deeplab_tf.import_weights (.*)`", str(error.value))[1]
    command = command.replace("FILE", str(tmp_path / "fetched.pth"))
    monkeypatch.setattr("sys.argv", ["import_weights", *shlex.split(command)])
    with pytest.raises(SystemExit) as ended:
        import_weights.run()
    assert not ended.value.code
    assert len(deeplab_tf.load(NAME).names) == 21


def test_what_is_not_the_file_is_deleted_and_nothing_is_kept(served, tmp_path):
    (tmp_path / "www/weights.pth").write_bytes(b"<html>sign in</html>")
    with pytest.raises(UserError, match=r"^What http://127.*weights.pth sent was deleted"):
        deeplab_tf.load(NAME)
    write_ssseg(tmp_path / "www/weights.pth")
    assert len(deeplab_tf.load(NAME).names) == 21


def test_a_name_that_is_none_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="'voc_r101_os9'; did you mean voc_r101_os8?"):
        deeplab_tf.load("voc_r101_os9")
    with pytest.raises(UserError, match="is not a run's folder: it does not exist"):
        deeplab_tf.load("runs/own")
    with pytest.raises(UserError, match="are called 'resnet'. `python -m deeplab_tf.import_weig"):
        predict.main(PredictConfig(weights="resnet", input=("x",), output_dir=str(tmp_path)))

"""`python -m timix_jax.search`: what it prints, and its page, also in a browser."""

import base64
import html.parser
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from photo_folders import picture, run_embed, write_photos, write_tar
from saved_model import save_model

import timix_jax
from timix_jax.search import __main__ as search
from timix_jax.search.pictures import SIDE, heat_overlay, read_image, thumbnail

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
# Solid pictures, in RGB: far from the page's own colours and from those of heat maps.
COLOURS = {"green": (0, 200, 40), "blue": (30, 60, 255), "cyan": (0, 230, 230)}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def indexed(workdir, tmp_path_factory):
    """A folder with photos/ and emb/: odd names, captions and a picture that is gone."""
    folder = tmp_path_factory.mktemp("search")
    photos = write_photos(folder / "photos", 6)
    evil = photos / "<img src=x onerror=alert(1)>&\n.png"
    evil.write_bytes(picture(20))
    evil.with_suffix(".txt").write_text("<script>alert('x')</script> & \u202ereversed")
    (photos / "gone.png").write_bytes(picture(21))
    assert run_embed(photos, f"--model={workdir}", f"--out={folder / 'emb'}") == 0
    (photos / "gone.png").unlink()
    return folder


def run_search(*arguments):
    return search.main([*map(str, arguments), "--compile-cache="])


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def test_the_best_are_printed_and_shown(workdir, indexed, tmp_path, capsys):
    page = tmp_path / "page.html"
    text = "a red square"
    assert run_search(text, f"--index={indexed / 'emb'}", "--k=8", f"--html={page}") == 0
    lines = capsys.readouterr().out.splitlines()
    model = timix_jax.load(workdir)
    paths = sorted(path for path in (indexed / "photos").rglob("*.png"))
    cosines = model.similarity(paths, [text])[:, 0]
    order = [paths[index] for index in np.argsort(-cosines)]
    printed = [re.fullmatch(r" +\d+  (-?0\.\d{4})  (.*)", line) for line in lines[:8]]
    shown = [match[2].partition("  ")[0].replace("\\n", "\n") for match in printed]
    assert [path for path in shown if "gone" not in path] == [str(path) for path in order]
    scores = [float(match[1]) for match in printed]
    assert scores == sorted(scores, reverse=True)
    assert lines[8].startswith("8 images searched in")
    tags = Tags(page.read_text())
    assert tags.tags.count("figure") == 8
    assert tags.tags.count("img") == 7 * 2  # each with its heat map
    assert "cannot be shown: No such file or directory" in tags.text


def test_names_and_texts_are_escaped_and_nothing_is_fetched(indexed, tmp_path):
    page = tmp_path / "page.html"
    query = "</title><script>alert(2)</script>"
    assert run_search(query, f"--index={indexed / 'emb'}", f"--html={page}") == 0
    tags = Tags(page.read_text())
    allowed = (
        "html head meta title style body h1 bdi p input label main figure span img figcaption br"
    )
    assert set(tags.tags) <= set(allowed.split())
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    sources = [value for name, value in tags.attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith("data:image/") for value in sources)
    assert not re.search(r"https?:|url\(|@import", page.read_text())
    assert (
        "content",
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    ) in tags.attributes
    assert query in tags.text
    assert "<script>alert('x')</script> & \u202ereversed" in tags.text


def test_an_image_finds_itself_first(indexed, tmp_path, capsys):
    photo = indexed / "photos" / "b" / "003.png"
    page = tmp_path / "page.html"
    assert run_search(f"--image={photo}", f"--index={indexed / 'emb'}", f"--html={page}") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split()[:3] == ["1", "1.0000", str(photo)]
    assert 'class="heat"' not in page.read_text()


def test_pictures_of_tar_files(workdir, tmp_path, capsys):
    tar = tmp_path / "00000.tar"
    write_tar(tar, {"a/0.PNG": picture(0), "a/1.png": picture(1), "a/1.txt": b"a boat"})
    assert run_embed(tar, f"--model={workdir}", f"--out={tmp_path / 'emb'}") == 0
    page = tmp_path / "page.html"
    capsys.readouterr()
    assert run_search("a boat", f"--index={tmp_path / 'emb'}", f"--html={page}") == 0
    assert sorted(line.split()[2] for line in capsys.readouterr().out.splitlines()[:2]) == [
        f"{tar}/a/0.png",
        f"{tar}/a/1.png",
    ]
    assert page.read_text().count("data:image/jpeg") == 2
    assert read_image(f"{tar}/a/1.png") == picture(1)


def test_names_that_are_not_utf_8_are_found_again(tmp_path):
    with open(bytes(tmp_path) + b"/bad\xff.png", "wb") as file:
        file.write(b"data")
    assert read_image(f"{tmp_path}/bad\\udcff.png") == b"data"


def test_thumbnails_are_small_and_overlays_mark_the_highest():
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    small = decoded(thumbnail(data, "noise"))
    assert small.shape == (240, 320, 3)
    heat = decoded(heat_overlay(np.arange(16.0).reshape(4, 4)))
    assert heat.shape == (4, 4, 4)
    assert heat[0, 0, 3] == 0
    assert (np.diff(heat[..., 3].ravel().astype(int)) > 0).all()
    assert decoded(heat_overlay(np.zeros((4, 4))))[..., 3].max() == 0


def decoded(uri):
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


@pytest.mark.slow
def test_fifty_hits_of_noise_stay_below_ten_megabytes(workdir, tmp_path):
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(50):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        cv2.imwrite(str(photos / f"{index}.png"), pixels)
    page = tmp_path / "page.html"
    assert run_embed(photos, f"--model={workdir}", f"--out={tmp_path / 'emb'}") == 0
    arguments = (f"--index={tmp_path / 'emb'}", "--k=50", f"--html={page}")
    assert run_search("a boat", *arguments) == 0
    assert page.read_text().count("<figure>") == 50
    assert page.stat().st_size < 10e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index={emb}"], "give either a text"),
        (["  ", "--index={emb}"], "give either a text"),
        (["a", "--image=b.jpg", "--index={emb}"], "give either a text"),
        (["--image=none.jpg", "--index={emb}"], "none.jpg: cannot be read"),
        (["a", "--index={emb}", "--k=0"], "--k 0: give at least 1"),
        (["a", "--index={out}"], "holds no embeddings"),
        (["a", "--index={emb}", "--model={out}"], "does not exist"),
        (["a", "--index={emb}", "--html={emb}"], "is a folder"),
        (["a", "--index={emb}", "--html={out}/no/page.html"], "cannot be written"),
        (["a", "--index={emb}", "--heat=heat"], "'heat' is unknown"),
        (["a"], "required: --index"),
    ],
)
def test_refusals(indexed, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    places = {"emb": indexed / "emb", "out": tmp_path / "out"}
    assert run_search(*[text.format(**places) for text in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt install chromium")
def test_pictures_are_visible_in_a_browser(workdir, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in COLOURS.items():
        cv2.imwrite(str(photos / f"{name}.png"), np.full((80, 120, 3), colour[::-1], np.uint8))
    assert run_embed(photos, f"--model={workdir}", f"--out={tmp_path / 'emb'}") == 0
    page, heat = tmp_path / "page.html", tmp_path / "heat.html"
    index = f"--index={tmp_path / 'emb'}"
    assert run_search("a red square", index, f"--html={page}", "--heat=none") == 0
    assert run_search("a red square", index, f"--html={heat}") == 0
    plain, marked = (screenshot(file, tmp_path) for file in (page, heat))
    for name, colour in COLOURS.items():
        seen = np.abs(plain.astype(int) - colour).max(axis=-1) < 12
        assert seen.sum() > 15_000, name
        # The heat map covers it where the scores are high, and leaves it where they are lowest.
        distance = np.abs(marked.astype(int) - colour).max(axis=-1)[seen]
        assert (distance >= 12).mean() > 0.2, name
        assert distance.min() < 40, name


def screenshot(page, folder):
    """Return the page as a headless browser shows it, uint8 (900, 1200, 3)."""
    target = folder / f"{page.stem}.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", "--hide-scrollbars", "--window-size=1200,900"]
    command += [f"--user-data-dir={folder / f'profile_{page.stem}'}", f"--screenshot={target}"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
    return cv2.cvtColor(cv2.imread(str(target)), cv2.COLOR_BGR2RGB)

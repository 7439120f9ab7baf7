"""The documentation: its links, names and fields exist, and its examples run."""

import contextlib
import importlib
import json
import re
import sys
import types

import cv2
import jax
import numpy as np
import pytest
from repository import ROOT
from saved_model import save_model
from tiny_model import compiler_settings, make_batch
from tiny_run import metrics, tiny_config

from timix_jax.config import MUTABLE_FIELDS, default_config, flatten
from timix_jax.models.protocols import ImageTextModel, PatchPredicting, require
from timix_jax.objectives.pairs.soft_cross_entropy import symmetric_contrastive
from timix_jax.training.build import build_model, read_settings
from timix_jax.training.train import train_and_evaluate

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# The changelog also names what is gone.
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]

FIELDS = flatten(default_config())  # before examples add theirs

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
COMMENT = r"<!-- {}: (\S+) -->\n```python\n(.*?)^```$"
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
PATH = re.compile(r"`((?:configs|timix_jax|tests|launch|docs|benchmarks)/[\w./-]*)`")
NAME = re.compile(r"`(timix_jax(?:\.\w+)+)")
FLAG = re.compile(r"--config\.([\w.]+)=")
FIELD = re.compile(r"`config\.([a-z][\w.]*\w)[`=]")
CITATION = re.compile(r"docs/method\.md (?:§§?)(\d+(?:(?:, | and |–)§?\d+)*)(?:, point (\d+))?")

BY_PATH = {"ids": lambda page: str(page.relative_to(ROOT))}


def prose(page):
    """Return the text without code blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page):
    """Return the anchors that GitHub derives from the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    texts = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def marked_blocks(kind):
    """Map the subjects that comments in docs/extending.md name to the code blocks below them."""
    text = (ROOT / "docs" / "extending.md").read_text()
    return dict(re.findall(COMMENT.format(kind), text, re.DOTALL | re.MULTILINE))


def field(name):
    """Return the field of the configuration, or the group, called `a.b.c`."""
    value = default_config()
    for part in name.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("page", PAGES, **BY_PATH)
def test_links(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("page", PRESENT, **BY_PATH)
def test_paths(page):
    # The files of the examples do not exist.
    added = {f"{name.replace('.', '/')}.py" for name in marked_blocks("example")}
    for path in PATH.findall(page.read_text()):
        assert path in added or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PRESENT, **BY_PATH)
def test_dotted_names(page):
    for name in NAME.findall(page.read_text()):
        parts = name.split(".")
        found = None
        for length in range(len(parts), 0, -1):
            with contextlib.suppress(ModuleNotFoundError):
                found = importlib.import_module(".".join(parts[:length]))
                break
        for part in parts[length:]:
            found = getattr(found, part)  # an AttributeError names what is missing


@pytest.mark.parametrize("page", PRESENT, **BY_PATH)
def test_fields(page, registered):
    text = page.read_text()
    for name in FLAG.findall(text) + FIELD.findall(text):
        field(name)  # a KeyError names what is missing


def test_every_field_is_described():
    """docs/configuration.md has each field once, with its default; each of the mutable ones is named."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| .+ \|$", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(FIELDS)
    for name, shown in rows:
        if name != "augment.operations":
            value = eval(shown.strip("`"))  # 3/4 is no literal
            assert value == field(name), name
    (resumable,) = re.findall(r"A run can be resumed([^;]*);", text)
    assert sorted(re.findall(r"`([\w.]+)`", resumable)) == sorted(MUTABLE_FIELDS)


def test_every_package_is_described():
    text = (ROOT / "docs" / "architecture.md").read_text()
    described = re.findall(r"^\| `timix_jax/(\w+)/` \|", text, re.MULTILINE)
    packages = [file.parent.name for file in (ROOT / "timix_jax").glob("*/__init__.py")]
    assert sorted(described) == sorted(packages)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_citations_of_the_method():
    method = (ROOT / "docs" / "method.md").read_text()
    sections = set(re.findall(r"^## (\d+)\.", method, re.MULTILINE))
    points = set(re.findall(r"^(\d+)\. ", method[method.index("## 6.") :], re.MULTILINE))
    cited = 0
    for folder in ("timix_jax", "configs", "benchmarks", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            # A comment may break the line within a citation.
            text = re.sub(r"\s*\n\s*#?\s*", " ", file.read_text())
            for numbers, point in CITATION.findall(text):
                cited += 1
                assert set(re.findall(r"\d+", numbers)) <= sections, (file, numbers)
                assert not point or point in points, (file, point)
    assert cited > 20
    assert not re.search(r"METHOD\.md", method)


def load_example(name, code, monkeypatch):
    """Return the module `name`, made from a code block."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    exec(compile(code, f"docs/extending.md: {name}", "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def registered():
    """Register the examples of docs/extending.md and return everything that they define."""
    names = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        examples = marked_blocks("example")
        assert len(examples) == 5
        for name, code in examples.items():
            names |= vars(load_example(name, code, monkeypatch))
        for registry, lines in marked_blocks("registry").items():
            package, _, attribute = registry.rpartition(".")
            entries = getattr(importlib.import_module(package), attribute)
            for key, value in eval(f"{{{lines}}}", names).items():
                monkeypatch.setitem(entries, key, value)
        yield names


def write_folder(folder, count):
    """Write images of noise, each with a text file of two captions."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index:02d}.png"), pixels)
        (folder / f"{index:02d}.txt").write_text(f"picture {index}\nthe same picture {index}\n")
    return folder


@pytest.fixture(scope="module")
def run(registered, tmp_path_factory):
    """Train and evaluate with the examples, and return the folder of `runs/demo`."""
    folder = tmp_path_factory.mktemp("docs")
    images = write_folder(folder / "images", 24)
    config = tiny_config(2)
    config.loss.pta.weight = 0.0
    config.model.name = "bag_of_words"
    config.model.options.bag_of_words.patch = 4
    config.mix.mixer = "lower_part"
    config.mix.options.lower_part.share = 0.25
    config.loss.uniformity.weight = 0.1
    config.data.train = (f"folder:{images}?suffix=.png",)
    config.eval.sets = (f"val=folder:{images}?suffix=.png",)
    config.eval.evaluators = ("retrieval", "hubness")
    config.eval.options.hubness.k = 24
    config.eval.every = "2 steps"
    with compiler_settings():
        train_and_evaluate(config, str(folder / "runs" / "demo"))
    return folder


def test_examples_of_extensions_in_one_run(run):
    """The model trains on the source, mixed images and the summed losses, and the evaluator measures it."""
    results = json.loads((run / "runs" / "demo" / "results.json").read_text())
    assert results["val/unfound"] == 0.0  # with as many neighbours as images each is found
    assert "val/i2t_r1" in results
    lines = [line for line in metrics(run / "runs" / "demo") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["lambda"] == 0.75
        total = line["loss/itc"] + line["loss/mix"] + 0.1 * line["loss/uniformity"]
        assert np.isclose(line["loss"], total, rtol=1e-5)
        assert -4 <= line["loss/uniformity"] <= 0
        assert -1 <= line["text_similarity"] <= 1


def test_code_of_the_readme(tmp_path, monkeypatch, capsys):
    """Embeds a photograph with a tiny model in the demo's place."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "runs" / "demo")
    cv2.imwrite("photo.jpg", np.full((30, 40, 3), 128, np.uint8))
    names = {}
    with compiler_settings():
        exec(compile(code, "README.md", "exec"), names)
    similarities = names["images"] @ names["texts"].T
    assert str(similarities) in capsys.readouterr().out
    assert similarities.shape == (1, 2)
    assert np.abs(similarities).max() <= 1


def test_example_of_a_source_names_what_is_missing(registered, tmp_path):
    folder = write_folder(tmp_path / "images", 2)
    (folder / "01.txt").unlink()
    source = registered["open_folder"](str(folder), suffix=".png")
    assert source[0].captions == ("picture 0", "the same picture 0")
    with pytest.raises(registered["CorruptExample"], match=r"01\.png: no captions"):
        source[1]
    with pytest.raises(registered["UserError"], match=r"no file ends in '\.jpg'"):
        registered["open_folder"](str(folder))


def test_example_of_a_model(registered):
    """The model follows the protocol, and one step of gradient descent lowers its loss."""
    config = tiny_config(2, model__name="bag_of_words")
    config.model.options.bag_of_words.patch = 4
    model = build_model(read_settings(config), vocab_size=30, pad_id=0)
    assert model == registered["BagOfWords"](image_size=16, vocab_size=30, patch=4, embed_dim=8)
    assert isinstance(model, ImageTextModel)
    batch = make_batch()
    params = jax.jit(model.init)(jax.random.key(0))

    def loss(params):
        image = model.encode_image(params, model.embed_patches(params, batch["image"])).embedding
        text = model.encode_text(params, batch["tokens"]).embedding
        return symmetric_contrastive(image @ text.T / model.temperature(params))

    with compiler_settings():
        step = jax.jit(jax.value_and_grad(loss))
        before, gradient = step(params)
        after, _ = step(jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient))
    assert after < before
    with pytest.raises(registered["UserError"], match=r"needs a patch predictor .* BagOfWords"):
        require(model, PatchPredicting, "config.loss.pta")

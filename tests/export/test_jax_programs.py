"""`--format=jax`: programs for any batch size, which need neither this package nor Flax."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from captions import CAPTIONS
from exportable_runs import save_run
from tiny_model import compiler_settings

import timix_jax
from timix_jax.errors import UserError
from timix_jax.export.__main__ import main

# Blocks this package and Flax, runs the README's code, and embeds arrays of several batch sizes.
STRANGER = """
import sys
for name in ("timix_jax", "flax"):
    sys.modules[name] = None
readme = open("README.md").read()
exec("\\n".join(line[4:] for line in readme.splitlines() if line.startswith("    ")))
assert embeddings.shape == (2, 8), embeddings.shape
given = np.load("given.npz")
found = {}
for size in (1, 3, 5):
    found[f"images{size}"] = encode_image(params, given["images"][:size])
    found[f"tokens{size}"] = encode_text(params, given["tokens"][:size])
np.savez("found.npz", **found)
"""


@pytest.fixture(scope="module", autouse=True)
def fast_compiler():
    with compiler_settings():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that no published layout can express."""
    changes = {"model__image__stem": "hierarchical", "model__image__pool": "gap"}
    return save_run(tmp_path_factory.mktemp("runs") / "run", "bert", **changes)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "programs"
    assert main([str(run), "--format=jax", f"--out={out}"]) == 0
    return out


@pytest.mark.slow
def test_a_process_without_our_models_computes_the_same(run, folder):
    model = timix_jax.load(run, batch_size=8)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    tokens = model.tokenize(CAPTIONS[:5])
    np.savez(folder / "given.npz", images=images, tokens=tokens)
    code = textwrap.dedent(STRANGER)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=300)
    found = np.load(folder / "found.npz")
    expected = {"images": model.encode_image(images), "tokens": model.encode_text(CAPTIONS[:5])}
    for size in (1, 3, 5):
        for name, ours in expected.items():
            np.testing.assert_allclose(found[f"{name}{size}"], ours[:size], atol=1e-6)
            assert found[f"{name}{size}"].dtype == np.float32


def test_programs_are_loaded_as_a_model(run, folder):
    model, programs = (timix_jax.load(path, batch_size=8) for path in (run, folder))
    photo = np.random.default_rng(1).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    np.testing.assert_allclose(programs.encode_image(photo), model.encode_image(photo), atol=1e-6)
    np.testing.assert_allclose(
        programs.encode_text(CAPTIONS), model.encode_text(CAPTIONS), atol=1e-6
    )
    assert programs.temperature == pytest.approx(model.temperature)
    assert programs.tokenizer == model.tokenizer
    names = ["lemon", "dog"]
    np.testing.assert_allclose(
        programs.classify(photo, names), model.classify(photo, names), atol=1e-5
    )
    with pytest.raises(UserError, match="has no scores of patches"):
        programs.heatmap(photo, "a lemon")


def test_programs_cannot_be_exported_again(folder, tmp_path, capsys):
    for kind in ("open_clip", "jax"):
        assert main([str(folder), f"--format={kind}", f"--out={tmp_path / 'out'}"]) == 2
        assert "holds exported programs: export the run itself" in capsys.readouterr().err


def test_damage_and_other_devices_are_named(folder, tmp_path):
    import json
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "encode_text.jaxexport"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"copy is damaged .*export the model again"):
        timix_jax.load(copy)
    shutil.copy(folder / file.name, file)
    description = json.loads((copy / "jax_export.json").read_text())
    text = json.dumps(description | {"platforms": ["tpu"]})
    (copy / "jax_export.json").write_text(text)
    with pytest.raises(UserError, match="was exported for tpu, not for cpu"):
        timix_jax.load(copy)

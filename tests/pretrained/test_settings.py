"""Settings of published weights against those of a run, and damaged or foreign files: one clear line each."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from numpy_towers import CLIP
from published_cases import CASES, empty_params, model_of

from timix_jax.config import default_config, flatten
from timix_jax.errors import UserError
from timix_jax.pretrained import is_weights, read_public


@pytest.fixture(scope="module")
def clip():
    return CASES["open_clip"](True)


@pytest.fixture
def folder(clip, tmp_path):
    return clip.write(tmp_path / "clip")


def run_settings(folder, **changes):
    """Return a run's flat settings that fit the weights, with `changes` by names with __ for a dot."""
    settings = dict(flatten(default_config())) | dict(read_public(folder).settings)
    return settings | {f"model.{n.replace('__', '.')}": v for n, v in changes.items()}


def test_settings_that_fit_are_accepted(folder):
    weights = read_public(folder, run=run_settings(folder))
    weights.check(jax.eval_shape(model_of(weights.settings).init, jax.random.key(0)))
    # Other sizes that can be fitted, and the common name of the activation.
    run = run_settings(
        folder, image__size=20, text__max_tokens=5, image__act="", text__act="", act="quick_gelu"
    )
    read_public(folder, run=run)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"image__act": ""}, "--config.model.image.act=quick_gelu"),
        ({"text__act": "gelu_tanh"}, "--config.model.text.act=quick_gelu"),
        ({"image__eps": 0.0}, "--config.model.image.eps=1e-05"),
        ({"image__ln_pre": False}, "--config.model.image.ln_pre=True"),
        ({"image__pool": "gap"}, "--config.model.image.pool=cls"),
        ({"text__causal": False}, "--config.model.text.causal=True"),
        ({"text__pool": "last"}, "--config.model.text.pool=eot"),
        ({"text__max_tokens": 8}, "--config.model.text.max_tokens=7"),
        ({"image__heads": 4}, "--config.model.image.heads=2"),
        (
            {"embed_dim": 20, "text__width": 48},
            "--config.model.text.width=24 --config.model.embed_dim=12",
        ),
    ],
)
def test_settings_that_differ_are_named_with_the_flags_to_give(folder, changes, flags):
    with pytest.raises(UserError, match=re.escape(f"give {flags}") + "$"):
        read_public(folder, run=run_settings(folder, **changes))


def test_weights_that_pad_count_on_the_full_length(tmp_path):
    folder = CASES["huggingface_siglip"](True).write(tmp_path)
    with pytest.raises(UserError, match=r"give --config\.model\.text\.max_tokens=7$"):
        read_public(folder, run=run_settings(folder, text__max_tokens=5))


def test_without_a_configuration_file_the_fields_to_set_are_named(folder):
    (folder / "open_clip_config.json").unlink()
    run = dict(flatten(default_config()))
    with pytest.raises(
        UserError, match=r"states how it was trained: .*config\.model\.image\.act, "
    ):
        read_public(folder, run=run)
    with pytest.raises(UserError, match=r"states model\.image\.heads: give it"):
        read_public(folder)
    sizes = {"size": 12, "patch": 4, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 40}
    image = {**sizes, "act": "quick_gelu", "eps": 1e-5, "ln_pre": True}
    text = {n: sizes[n] for n in ("width", "depth", "heads", "mlp_dim")}
    text |= {"max_tokens": 7, "act": "quick_gelu", "eps": 1e-5, "pre_norm": True, "causal": True}
    text |= {"pool": "eot"}
    run |= {f"model.image.{n}": v for n, v in image.items()} | {"model.embed_dim": 12}
    run |= {f"model.text.{n}": v for n, v in text.items()}
    with pytest.raises(UserError, match=r"set config\.init_pixels to half, clip, imagenet"):
        read_public(folder, run=run)
    stated = read_public(folder, run=run | {"init_pixels": "clip"})
    bias = stated.leaves["image/patch_embed/bias"]
    with stated.files.reading(bias.sources) as read:
        kernel = read("visual.conv1.weight").astype(np.float64)
        shift = (0.5 - np.asarray(CLIP[0])) / np.asarray(CLIP[1])
        np.testing.assert_allclose(
            bias.build(read, (24,)), np.einsum("ocpq,c->o", kernel, shift), atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        ("huggingface_clip", ("quick_gelu", 1e-5, 12), ("quick_gelu", 1e-5, 8)),
        ("huggingface_siglip", ("gelu_tanh", 1e-6, 12), ("gelu_tanh", 1e-6, 12)),
        ("huggingface_vit", ("gelu", 1e-12, 12), None),
        ("bert", None, ("gelu", 1e-12, 12)),
    ],
)
def test_what_huggingface_leaves_out_has_the_value_of_its_classes(name, image, text, tmp_path):
    """Newer files hold what differs from the defaults of transformers' configuration classes."""
    folder = CASES[name](True).write(tmp_path)
    file = folder / "config.json"
    content = json.loads(file.read_text())
    for group in (content, *(content.get(f"{side}_config", {}) for side in ("vision", "text"))):
        for field in ("hidden_act", "layer_norm_eps", "num_attention_heads"):
            group.pop(field, None)
    file.write_text(json.dumps(content))
    settings = read_public(folder).settings
    # Without the file, nothing is known.
    file.unlink()
    with pytest.raises(UserError, match=r"how it was trained: .*config\.model\.(image|text)\.act"):
        read_public(folder, run=dict(flatten(default_config())))
    for tower, expected in (("image", image), ("text", text)):
        if expected:
            fields = (f"model.{tower}.{field}" for field in ("act", "eps", "heads"))
            assert tuple(settings[field] for field in fields) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision_cfg": {"pool_type": "avg"}}, "pool_type='avg', which the towers cannot express"),
        ({"vision_cfg": {"attentional_pool": True}}, "attentional_pool=True"),
        ({"text_cfg": {"embed_cls": True}}, "embed_cls=True"),
    ],
)
def test_architectures_that_the_towers_cannot_express_are_refused(folder, options, message):
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    for name, values in options.items():
        content["model_cfg"][name] |= values
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_public(folder)


def load(folder):
    weights = read_public(folder)
    return weights.load(empty_params(model_of(weights.settings)))[0]


def rewrite(folder, change):
    """Write the weights again after `change(arrays)`."""
    from safetensors.numpy import load_file, save_file

    file = next(folder.glob("*.safetensors"))
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)


def test_parts_that_a_tower_does_not_have_are_refused(folder):
    rewrite(folder, lambda a: a.update({"visual.transformer.resblocks.0.ls_1.gamma": np.ones(24)}))
    weights = read_public(folder)
    with pytest.raises(
        UserError, match=r"holds visual\.transformer\.resblocks\.0\.ls_1\.gamma, parts"
    ):
        weights.check(empty_params(model_of(weights.settings)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("visual.ln_post.bias"), "lacks the array visual.ln_post.bias"),
        (
            lambda a: a.pop("visual.positional_embedding"),
            "lacks the array visual.positional_embedding",
        ),
        (
            lambda a: a.update(
                {"visual.transformer.resblocks.1.ln_1.weight": np.ones(5, np.float32)}
            ),
            r"do not have the shapes of image/blocks/layers/norm1/scale \(layer 1 has",
        ),
        (
            lambda a: a.update({"visual.ln_post.bias": np.ones(5, np.float32)}),
            r"visual\.ln_post\.bias make image/norm/bias \(5,\), and the model has \(24,\)",
        ),
        (lambda a: a.update({"visual.ln_post.bias": np.full(24, np.nan, np.float32)}), "holds NaN"),
        (lambda a: a.update({"visual.ln_post.bias": np.full(24, 1e30, np.float32)}), r"1e\+30"),
    ],
)
def test_damaged_arrays_are_named(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["open_clip", "big_vision"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_truncated_files_are_refused_with_one_line(name, share, tmp_path):
    CASES[name](True).write(tmp_path)
    file = next(f for f in tmp_path.iterdir() if f.suffix in (".safetensors", ".npz"))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(UserError, match="damaged or cut short") as caught:
        read_public(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path):
    CASES["big_vision"](True).write(tmp_path)
    file = tmp_path / "siglip.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path)


def test_pickles_are_refused_with_the_conversion(tmp_path):
    for name in ("pytorch_model.bin", "clip.pt", "albef.pth"):
        folder = tmp_path / name[:4]
        folder.mkdir()
        (folder / name).write_bytes(b"\x80\x02}q\x00.")
        assert is_weights(folder)
        for path in (folder, folder / name):
            with pytest.raises(UserError, match=r"is a pickle.*is not read") as caught:
                read_public(path)
            assert re.search(r"torch\.load.*weights_only=True", str(caught.value))
    np.savez(tmp_path / "odd.npz", a=np.asarray([{}], object))
    with pytest.raises(UserError, match="a is a pickle"):
        read_public(tmp_path / "odd.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UserError, match="not an archive"):
        read_public(tmp_path / "one.npz")


def test_unknown_layouts_and_folders(tmp_path):
    np.savez(tmp_path / "other.npz", w=np.ones(3))
    with pytest.raises(
        UserError, match=r"has no layout that is read .*BertModel.*first arrays are w"
    ):
        read_public(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_public(tmp_path / "nowhere.npz")
    np.savez(tmp_path / "second.npz", w=np.ones(3))
    with pytest.raises(UserError, match=r"several files of weights \(other\.npz, second\.npz\)"):
        read_public(tmp_path)


def test_half_precision_files_are_read(folder):
    import ml_dtypes

    shapes = read_public(folder)
    whole, _ = shapes.load(empty_params(model_of(shapes.settings)))
    for dtype in (np.float16, ml_dtypes.bfloat16):
        rewrite(folder, lambda a, d=dtype: a.update({n: v.astype(d) for n, v in a.items()}))
        rounded, _ = read_public(folder).load(empty_params(model_of(shapes.settings)))
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2)
        jax.tree.map(close, rounded, whole)


def test_distilled_deit_and_relatives_of_bert_are_refused(tmp_path):
    folder = CASES["huggingface_vit"](True).write(tmp_path / "vit")
    rewrite(folder, lambda a: a.update({"vit.embeddings.distillation_token": np.ones((1, 1, 24))}))
    with pytest.raises(UserError, match="distilled DeiT"):
        read_public(folder)
    folder = CASES["bert"](True).write(tmp_path / "bert")
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(UserError, match="is a 'roberta'"):
        read_public(folder)


def test_a_single_tower_leaves_a_projection_to_another_space_fresh(folder):
    run = run_settings(folder, embed_dim=20, text__width=99)
    weights = read_public(folder, run=run, part="image")
    assert "image/projection/kernel" not in weights.leaves
    assert not any(name.startswith("text") for name in weights.leaves)
    model = dataclasses.replace(model_of(weights.settings), embed_dim=20)
    _, report = weights.load(empty_params(model))
    assert "image/projection/kernel" in report.fresh
    assert (
        "image/projection/kernel"
        in read_public(folder, run=run_settings(folder), part="image").leaves
    )
    with pytest.raises(UserError, match="has no image tower"):
        read_public(CASES["bert"](True).write(folder.parent / "bert"), part="image")

"""The formulas against XLA's own count of unrolled programs, which also counts elementwise work."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from timix_jax.objectives.unmixed import Unmixed
from tiny_model import encode_site
from tiny_run import tiny_config

from timix_jax.config import complete
from timix_jax.mixing import build_mixer
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.patch_predictor import PatchPredictor
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.objectives import Objective, Pass, build_objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.training import build as experiment
from timix_jax.training.flops import (
    block_flops,
    patch_embed_flops,
    predictor_flops,
    text_flops,
    train_step_flops,
    vit_flops,
)
from timix_jax.training.step import shared_passes, step_passes, total_loss

MODEL = DualEncoder(
    image=VitShape(64, 8, 192, 3, 3, 768),
    text=TextShape(50, 24, 192, 2, 3, 768),
    embed_dim=64,
    tpp_layer=1,
    scan=False,
)
B, REGION_IMAGES, REGIONS = 4, 2, 3


ITC, PTA = build_objective("itc"), build_objective("pta")


def mix(score="tpp", mixer="timix", model=MODEL, **options):
    built = build_mixer(mixer, grid=8)
    source = build_score_source(score, model) if built.needs_scores else None
    return MixedContrastive(built, source, **options)


def step_flops(*objectives, model=MODEL, batch_size=B):
    passes = step_passes(model, objectives, batch_shapes(batch_size))
    return train_step_flops(model, passes)


def shapes(function, *arguments):
    return jax.eval_shape(function, *arguments)


def xla_flops(function, *arguments):
    cost = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return cost["flops"]


@pytest.fixture(scope="module")
def params():
    return shapes(MODEL.init, jax.random.key(0))


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def batch_shapes(batch_size=B, length=24):
    def pairs(images, *texts):
        return {
            "image": array(images, 64, 64, 3),
            "tokens": array(images, *texts, dtype=jnp.int32),
        }

    regions = pairs(REGION_IMAGES, REGIONS, length)
    regions |= {
        "boxes": array(REGION_IMAGES, REGIONS, 4),
        "mask": array(REGION_IMAGES, REGIONS, dtype=jnp.bool_),
    }
    return {**pairs(batch_size, 24), "regions": regions}


def test_published_size():
    # ViT-B/16 at 224 px: 17.6 G multiply-adds (Dosovitskiy et al.; timm), without the classifier.
    vit_b = VitShape(224, 16, 768, 12, 12, 3072)
    assert vit_flops(vit_b) / 2 == pytest.approx(17.56e9, rel=5e-3)
    assert vit_flops(vit_b, blocks=6) < 0.51 * vit_flops(vit_b)
    # By hand: 4 tokens, width 2, MLP 3: qkv and output 2·4·2·8, MLP 2·4·2·6, attention 4·4·4·2.
    assert block_flops(4, 2, 3) == 128 + 96 + 128


def test_image_tower(params):
    def forward(p, images):
        return MODEL.encode_image(p, MODEL.embed_patches(p, images)).embedding

    counted = xla_flops(forward, params, array(B, 64, 64, 3))
    assert B * vit_flops(MODEL.image, embed_dim=64) == pytest.approx(counted, rel=0.06)
    stem = xla_flops(
        lambda p, x: encode_site(MODEL, p, MODEL.embed_patches(p, x)), params, array(B, 64, 64, 3)
    )
    assert B * vit_flops(MODEL.image, blocks=2) == pytest.approx(stem, rel=0.06)


def test_text_tower(params):
    counted = xla_flops(
        lambda p, x: MODEL.encode_text(p, x).embedding, params, array(B, 24, dtype=jnp.int32)
    )
    assert B * text_flops(MODEL.text, embed_dim=64) == pytest.approx(counted, rel=0.08)


def test_patch_predictor():
    # As wide as ViT-B: at small widths its three exact GELUs outweigh the products.
    predictor = PatchPredictor()
    h, c = array(1, 256, 768), array(1, 512)
    variables = shapes(predictor.init, jax.random.key(0), h, c)
    counted = xla_flops(predictor.apply, variables, h, c)
    assert predictor_flops(256, 768, 512) == pytest.approx(counted, rel=0.08)


def plain_loss(p, batch):
    patches = MODEL.embed_patches(p, batch["image"])
    image = MODEL.encode_image(p, patches, blocks=(MODEL.tpp_layer,))
    text = MODEL.encode_text(p, batch["tokens"])
    logits = image.embedding @ text.embedding.T / MODEL.temperature(p)
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits))), (patches, image, text)


def extra_loss(p, batch):
    """Contrastive + a second, mixed view scored by the predictor + patch-text alignment."""
    loss, (patches, image, text) = plain_loss(p, batch)
    site = jax.lax.stop_gradient(MODEL.patch_tokens(image.captured))
    score = jax.lax.stop_gradient(MODEL.patch_logp(p, site, jax.lax.stop_gradient(text.cls)))
    mixed = jnp.where(score[..., :1] > score[..., 1:], patches, patches[::-1])
    view = MODEL.encode_image(p, mixed).embedding
    logits = view @ text.embedding.T
    loss -= jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))
    stem = encode_site(MODEL, p, MODEL.embed_patches(p, batch["regions"]["image"]))
    cls = MODEL.encode_text(p, batch["regions"]["tokens"].reshape(-1, 24)).cls
    return loss - MODEL.patch_logp(p, jnp.repeat(stem, REGIONS, axis=0), cls)[..., 1].mean()


def replace_loss(p, batch):
    """Mixed images in the place of the clean ones, scored by a frozen pass to the predictor."""
    patches = MODEL.embed_patches(p, batch["image"])
    text = MODEL.encode_text(p, batch["tokens"])
    frozen, still, cls = jax.lax.stop_gradient((p, patches, text.cls))
    score = MODEL.patch_logp(frozen, encode_site(MODEL, frozen, still), cls)
    mixed = jnp.where(score[..., :1] > score[..., 1:], patches, patches[::-1])
    logits = MODEL.encode_image(p, mixed).embedding @ text.embedding.T
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))


@pytest.mark.parametrize(
    ("loss", "objectives"),
    [
        (lambda p, batch: plain_loss(p, batch)[0], [ITC]),
        (extra_loss, [ITC, PTA, mix()]),
        (replace_loss, [mix(placement="replace")]),
    ],
    ids=["plain", "extra", "replace"],
)
def test_training_step(params, loss, objectives):
    counted = xla_flops(jax.grad(loss), params, batch_shapes())
    assert step_flops(*objectives) == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    "objectives",
    [
        [build_objective("itc", alpha=0.4)],
        [mix(target="pred")],  # the clean pass is read only
        [build_objective("pta", full_captions=True), mix("similarity", placement="replace")],
    ],
    ids=["teacher", "read only", "full captions"],
)
def test_declared_passes_are_those_that_run(params, objectives):
    """The loss as the step computes it, on XLA's count."""

    def loss(p, batch):
        step, key = jnp.int32(0), jax.random.key(0)
        forward = shared_passes(MODEL, objectives, p, p, batch, step=step, seed_key=key)
        return total_loss(MODEL, objectives, forward)[0]

    counted = xla_flops(jax.grad(loss), params, batch_shapes())
    assert step_flops(*objectives) == pytest.approx(counted, rel=0.06)


def test_training_step_with_patch_dropout(params):
    model = dataclasses.replace(MODEL, patch_dropout=0.5)

    def loss(p, batch):
        patches = model.embed_patches(p, batch["image"])
        kept = model.draw_kept(jax.random.key(0), B)
        image = model.encode_image(p, patches, kept=kept).embedding
        text = model.encode_text(p, batch["tokens"]).embedding
        return -jnp.mean(jnp.diag(jax.nn.log_softmax(image @ text.T)))

    batch = {"image": array(B, 64, 64, 3), "tokens": array(B, 24, dtype=jnp.int32)}
    counted = xla_flops(jax.grad(loss), params, batch)
    whole, thinned = (step_flops(ITC, model=m) for m in (MODEL, model))
    assert thinned == pytest.approx(counted, rel=0.1)
    assert thinned < 0.8 * whole
    # The scores of an extra view see every patch: a pass of their own, as where the clean images are replaced.
    assert [run.blocks * run.rows for run in frozen(model)] == [B * 2]
    assert [run.blocks * run.rows for run in frozen(MODEL)] == [0]


def frozen(model):
    passes = step_passes(model, [ITC, mix(model=model)], batch_shapes())
    return [run for run in passes if not run.gradient]


def test_passes_of_options():
    """What each option adds, against the forward counts written out."""
    block = block_flops(65, 192, 768)

    def cost(*objectives, batch_size=8):
        return step_flops(*objectives, batch_size=batch_size)

    plain = cost(ITC)
    half = cost(ITC, mix("random", fraction=0.5)) - plain
    assert half == 3 * 4 * (3 * block + 2 * 192 * 64) + 3 * 4 * 4 * 2 * 64
    pixels = cost(ITC, mix(mixer="cutmix", fraction=0.5)) - plain
    assert pixels == half + 3 * 4 * patch_embed_flops(MODEL.image)
    assert cost(mix(mixer="cutmix", placement="replace")) == plain
    teacher = cost(build_objective("itc", alpha=0.4)) - plain
    logits = 8 * 8 * 2 * 64
    assert teacher == pytest.approx(
        8 * vit_flops(MODEL.image, embed_dim=64) + 8 * text_flops(MODEL.text, embed_dim=64) + logits
    )

    def replace(score):
        return cost(mix(score, placement="replace"))

    assert replace("random") == cost(Unmixed()) == plain
    assert replace("similarity") - plain == 8 * 3 * block
    assert replace("attention") - plain == 8 * 2 * block
    assert replace("tpp") - plain == 8 * 2 * block + 8 * predictor_flops(64, 192, 192)
    captions = cost(ITC, build_objective("pta", full_captions=True)) - cost(ITC, PTA)
    assert captions == 3 * 8 * (2 * block + predictor_flops(64, 192, 192))
    assert cost(ITC, batch_size=16) > 2 * plain  # the similarity matrices grow with the square
    assert patch_embed_flops(MODEL.image) == 2 * 64 * 8 * 8 * 3 * 192


def test_shorter_region_texts_cost_less():
    whole, short = (
        train_step_flops(MODEL, PTA.passes(MODEL, batch_shapes(length=length)))
        for length in (24, 10)
    )
    long_text, short_text = (text_flops(MODEL.text._replace(max_tokens=n)) for n in (24, 10))
    assert whole - short == 3 * REGION_IMAGES * REGIONS * (long_text - short_text)


def test_an_objective_adds_what_it_declares():
    """Nothing by default, however many read the clean pass."""

    class Silent(Objective):
        def __call__(self, model, forward):
            raise NotImplementedError

    class Reader(Silent):
        name, needs_clean = "reader", True

    class Runner(Silent):
        name = "runner"

        def passes(self, model, batch):
            return [Pass(rows=batch["image"].shape[0], blocks=1)]

    assert step_flops(Reader()) == step_flops(Reader(), Reader())
    added = step_flops(ITC, Reader(), Runner()) - step_flops(ITC)
    assert added == 3 * B * block_flops(65, 192, 768)


@pytest.mark.parametrize(
    ("placement", "score"), [("extra", "tpp"), ("replace", "tpp"), ("replace", "similarity")]
)
def test_training_costs_less_when_mixing_has_ended(placement, score):
    mixing = {"mix__placement": placement, "mix__score": score, "mix__target": "hard"}

    def built(**fields):
        return experiment.build(complete(tiny_config(10, **fields)))

    plain = built(mix__mixer="none").step_flops()
    run = built(**mixing, mix__until="4 steps")
    mixed = run.step_flops()
    assert mixed > plain
    assert run.training_flops(1, 4) == 3 * mixed
    assert run.training_flops(4, 7) == 3 * plain
    assert run.training_flops(2, 9) == 2 * mixed + 5 * plain
    assert built(**mixing, mix__until="100%").training_flops(0, 10) == 10 * mixed

"""FLOPs counted in the jaxpr of a loss, against the formulas from shapes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from analytic_flops import (
    Pass,
    analytic_flops,
    block_flops,
    patch_embed_flops,
    predictor_flops,
    text_flops,
    vit_flops,
)
from jax.sharding import AxisType

from timix_jax.mixing import build_mixer
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.objectives import Feature, Objective, Term, build_objective
from timix_jax.objectives.base import prepare_forward
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.training.flops import StepFlops, count_flops
from timix_jax.training.step import total_loss

MODEL = DualEncoder(
    image=VitShape(64, 8, 192, 3, 3, 768),
    text=TextShape(50, 24, 192, 2, 3, 768),
    embed_dim=64,
    tpp_layer=1,
)
B, REGION_IMAGES, REGIONS = 4, 2, 3
ITC, PTA = build_objective("itc"), build_objective("pta")


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def flops(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def mix(score="tpp", mixer="timix", model=MODEL, **options):
    built = build_mixer(mixer, grid=8)
    source = build_score_source(score, model) if built.needs_scores else None
    return MixedContrastive(mixer=built, score=source, **options)


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


def loss_flops(*objectives, model=MODEL, **sizes):
    """Count the gradient of these objectives' loss."""

    def loss(p, batch):
        step, key = jnp.int32(0), jax.random.key(0)
        forward = prepare_forward(model, objectives, p, batch, teacher=p, step=step, seed_key=key)
        return total_loss(objectives, forward)

    params = jax.eval_shape(model.init, jax.random.key(0))
    return flops(jax.value_and_grad(loss, has_aux=True), params, batch_shapes(**sizes))


@functools.cache
def plain_flops():
    return loss_flops(ITC)


class TestFormulas:
    """The reference itself, on published figures."""

    def test_published_size(self):
        # ViT-B/16 at 224 px: 17.6 G multiply-adds (Dosovitskiy et al.; timm), without the classifier.
        vit_b = VitShape(224, 16, 768, 12, 12, 3072)
        assert vit_flops(vit_b) / 2 == pytest.approx(17.56e9, rel=5e-3)
        assert vit_flops(vit_b, blocks=6) < 0.51 * vit_flops(vit_b)
        # By hand: 4 tokens, width 2, MLP 3: qkv and output 2·4·2·8, MLP 2·4·2·6, attention 4·4·4·2.
        assert block_flops(4, 2, 3) == 128 + 96 + 128

    def test_towers(self):
        params = jax.eval_shape(MODEL.init, jax.random.key(0))
        images, tokens = array(B, 64, 64, 3), array(B, 24, dtype=jnp.int32)

        def image(p, x):
            return MODEL.encode_image(p, MODEL.embed_patches(p, x)).embedding

        def site(p, x):
            return MODEL.encode_blocks(p, MODEL.embed_patches(p, x), (1,))[1]

        def text(p, x):
            return MODEL.encode_text(p, x).embedding

        assert flops(image, params, images).model == B * vit_flops(MODEL.image, embed_dim=64)
        assert flops(site, params, images).model == B * vit_flops(MODEL.image, blocks=2)
        assert flops(text, params, tokens).model == B * text_flops(MODEL.text, embed_dim=64)
        predict = flops(MODEL.patch_logp, params, array(B, 64, 192), array(B, 192)).model
        assert predict == B * predictor_flops(64, 192, 192)


# What each set of objectives runs, declared by hand.
TEXT = Pass(rows=B, text_tokens=24)
STEM = Pass(rows=B, stem=True)
TOWER = Pass(rows=B, blocks=3, projected=True)
COMPARED = Pass(rows=B, compared=B)
REGION = (
    Pass(rows=REGION_IMAGES, stem=True, blocks=2),
    Pass(rows=REGION_IMAGES * REGIONS, text_tokens=24, predictor=True),
)
PREDICTED = Pass(rows=B, predictor=True, gradient=False)
SCORED = Pass(rows=B, blocks=2, predictor=True, gradient=False)
PLAIN = (STEM, TEXT, TOWER, COMPARED)


def frozen(run):
    return dataclasses.replace(run, gradient=False)


RUNS = {
    "plain": ([ITC], PLAIN),
    "extra": ([ITC, PTA, mix()], (*PLAIN, *REGION, PREDICTED, TOWER, COMPARED)),
    "replace": ([mix(placement="replace")], (*PLAIN, SCORED)),
    "teacher": (
        [build_objective("itc", alpha=0.4)],
        (*PLAIN, *(frozen(run) for run in (STEM, TEXT, TOWER)), frozen(COMPARED)),
    ),
    "read only": (
        [mix(target="pred")],
        (STEM, TEXT, frozen(TOWER), frozen(COMPARED), PREDICTED, TOWER, COMPARED),
    ),
    "full captions": (
        [build_objective("pta", full_captions=True), mix("similarity", placement="replace")],
        (
            *(*PLAIN, *REGION, Pass(rows=B, blocks=2, predictor=True)),
            Pass(rows=B, blocks=3, gradient=False),
        ),
    ),
    "half, on pixels": (
        [ITC, mix(mixer="cutmix", fraction=0.5)],
        (
            *(*PLAIN, Pass(rows=B // 2, stem=True, blocks=3, projected=True)),
            Pass(rows=B // 2, compared=B // 2),
        ),
    ),
}


class TestModel:
    @pytest.mark.parametrize("name", RUNS)
    def test_objectives(self, name):
        """The formulas count a gradient of the pixels, unused projections and no single product of a score."""
        objectives, passes = RUNS[name]
        counted = loss_flops(*objectives)
        assert counted.model == pytest.approx(analytic_flops(MODEL, passes), rel=0.03)
        assert counted.rematerialised == counted.optimizer == 0

    def test_the_plain_step_exactly(self):
        pixels = B * patch_embed_flops(MODEL.image)  # they need no gradient
        assert plain_flops().model == analytic_flops(MODEL, PLAIN) - pixels

    def test_patch_dropout(self):
        model = dataclasses.replace(MODEL, patch_dropout=0.5)
        thinned = dataclasses.replace(TOWER, thinned=True)
        pixels = B * patch_embed_flops(MODEL.image)
        expected = analytic_flops(model, (STEM, TEXT, thinned, COMPARED)) - pixels
        assert loss_flops(ITC, model=model).model == expected
        # The scores of an extra view see every patch, in a pass of their own.
        added = loss_flops(ITC, mix(model=model), model=model).model - expected
        assert added == pytest.approx(analytic_flops(model, (SCORED, thinned, COMPARED)), rel=0.01)

    def test_shorter_region_texts_cost_less(self):
        whole, short = (loss_flops(PTA, length=length).model for length in (24, 10))
        long_text, short_text = (text_flops(MODEL.text._replace(max_tokens=n)) for n in (24, 10))
        saved = 3 * REGION_IMAGES * REGIONS * (long_text - short_text)
        assert whole - short == pytest.approx(saved, rel=0.01)

    @pytest.mark.parametrize("scan", [False, True])
    @pytest.mark.parametrize("remat", ["none", "dots", "full"])
    def test_layers_and_rematerialisation(self, scan, remat):
        model = dataclasses.replace(MODEL, scan=scan, remat=remat)
        counted, plain = loss_flops(ITC, model=model), plain_flops()
        assert counted.model == plain.model
        # "dots" keeps the products with weights and repeats those of attention.
        depth = MODEL.image.depth * block_flops(65, 192, 768) + MODEL.text.depth * block_flops(
            24, 192, 768
        )
        attention = 3 * 2 * 2 * 65**2 * 192 + 2 * 2 * 2 * 24**2 * 192
        most = {"none": 0, "dots": B * attention, "full": B * depth}[remat]
        assert most / 3 <= counted.rematerialised <= most

    def test_microbatches(self):
        model = dataclasses.replace(MODEL, microbatches=4)
        counted, plain = loss_flops(ITC, model=model), plain_flops()
        assert counted.model == plain.model
        assert 0.25 * plain.model < counted.rematerialised < 0.34 * plain.model

    @pytest.mark.parametrize("method", ["gather", "ring"])
    @pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
    @pytest.mark.parametrize("devices", [1, 8])
    def test_tiled_losses(self, kind, method, devices):
        """The loss over pairs costs three products, whichever way it is computed."""
        mesh = jax.make_mesh((devices, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

        def loss(x, t, reduction):
            pairs = PairLoss(KINDS[kind], reduction)
            similarities = Similarities(x, t, jnp.float32(0.1), jnp.float32(0.0))
            return pairs.plain(similarities)

        x = array(16, 8)
        products = []
        for reduction in (PairReduction(), PairReduction(method, 4, mesh)):
            given = functools.partial(loss, reduction=reduction)
            products.append(flops(jax.value_and_grad(given, (0, 1), has_aux=True), x, x))
        once = 2 * 16 * 16 * 8
        assert products == [StepFlops(3 * once), StepFlops(3 * once, 3 * once)]

    def test_a_new_objective_adds_its_products(self):
        """It declares nothing."""

        @dataclasses.dataclass(frozen=True)
        class Bilinear(Objective):
            name = "bilinear"

            def reads(self, model):
                return [Feature("text")]

            def __call__(self, forward):
                text = forward.text().embedding
                return Term(jnp.sum(text @ text.T))

        assert loss_flops(ITC, Bilinear()).model - plain_flops().model == 3 * 2 * B * B * 64

"""Zero-shot accuracy of whole evaluations against plain NumPy; devices, ties, bad input."""

import numpy as np
import pytest
from lookup_model import GreySource, inputs_of, make_mesh

from timix_jax.errors import UserError
from timix_jax.evaluators import EVALUATORS, build_evaluator

IMAGES = 37
TEMPLATES = ("{}", "1{}", "2{}")


def evaluator_of(source, devices=1, batch_size=8, **options):
    inputs = inputs_of(source, make_mesh(devices), batch_size)
    return build_evaluator("classification", inputs, **options)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_case(seed=0, classes=(0, 3, 4, 5, 7, 8, 9)):
    """A source with unequal classes, the tables, and the figures in the words of CLIP's appendix."""
    rng = np.random.default_rng(seed)
    label = rng.choice(len(classes), IMAGES, p=np.arange(1, 8) / 28)
    texts = unit(rng.normal(size=(30, 6))).astype(np.float32)
    prompts = [[c, 10 + c, 20 + c] for c in classes]  # what TEMPLATES make of them
    centres = unit(texts[np.array(prompts)].mean(1))
    images = unit(centres[label] + 1.6 * unit(rng.normal(size=(IMAGES, 6)))).astype(np.float32)
    order = np.argsort(-images @ centres.T, axis=1)
    hit = order[:, 0] == label
    expected = {
        "top1": hit.mean(),
        "top5": (order[:, :5] == label[:, None]).any(1).mean(),
        "class_mean": np.mean([hit[label == c].mean() for c in np.unique(label)]),
        "top1_chance": 1 / 7,
    }
    assert len(np.unique(label)) == 7
    source = GreySource([[classes[c]] for c in label])
    return source, {"images": images, "texts": texts}, expected


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 8), (1, 100), (2, 5), (8, 16)])
def test_figures_are_those_of_sorted_similarities(devices, batch_size):
    source, params, expected = make_case()
    got = evaluator_of(source, devices, batch_size, templates=TEMPLATES).run(params)
    assert got == pytest.approx(expected, abs=1e-12)
    assert 0.2 < got["top1"] < got["top5"] < 1
    assert abs(got["class_mean"] - got["top1"]) > 0.01


def test_every_template_counts():
    source, params, expected = make_case(seed=1)
    one = evaluator_of(source, templates=("{}",)).run(params)
    assert one["top1"] != pytest.approx(expected["top1"])
    params["texts"][10:] = params["texts"][np.arange(10, 30) % 10]  # all prompts of a class alike
    three = evaluator_of(source, templates=TEMPLATES).run(params)
    assert three == pytest.approx(one)


@pytest.mark.parametrize("value", [np.nan, 1 / np.sqrt(6), 0.0])
def test_diverged_and_collapsed_weights_are_never_right(value):
    source, params, _ = make_case()
    params = {name: np.full_like(x, value) for name, x in params.items()}
    with np.errstate(all="raise"):
        got = evaluator_of(source, templates=("{}",)).run(params)
    assert (got["top1"], got["class_mean"]) == (0.0, 0.0)


def test_classes_are_read_once():
    source, params, _ = make_case()
    reads = []

    class Counting(GreySource):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    evaluator = evaluator_of(Counting(source._captions), templates=("{}",))
    assert sorted(reads) == sorted([0, *range(IMAGES)])
    reads.clear()
    first = evaluator.run(params)
    assert sorted(reads) == list(range(IMAGES))
    reads.clear()
    assert evaluator.run(params) == first
    assert sorted(reads) == list(range(IMAGES))


def test_sets_without_classes_go_without_it():
    kind = EVALUATORS["classification"]
    assert kind.applies_to(GreySource([[1], [2]]))
    assert not kind.applies_to(GreySource([[1, 2], [2]]))
    assert not kind.applies_to(GreySource([]))
    with pytest.raises(UserError, match="has no class names"):
        evaluator_of(GreySource([[1, 2], [2]]))


def test_an_image_of_two_classes_is_named():
    with pytest.raises(
        UserError, match=r"^grey:: 2 has 2 captions where one class name is expected"
    ) as error:
        evaluator_of(GreySource([[1], [2], [3, 4]]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{}", "a photo of {name}")])
def test_templates_without_a_place_are_refused(templates):
    with pytest.raises(UserError, match=r"config.eval.options.classification.templates=\("):
        evaluator_of(GreySource([[1]]), templates=templates)


def test_printed_line():
    line = evaluator_of(GreySource([[1]]), templates=("{}",)).text(
        {"top1": 0.123, "top5": 0.5, "class_mean": 0.25, "top1_chance": 0.01}
    )
    assert line == "zero-shot top 1/5 12.3 / 50.0%, mean over classes 25.0% (chance 1.0)"


def test_classes_with_equal_tokens_count_as_one():
    """Count "3" and "03", which have the same tokens, as one class: right for the images of both."""
    source = GreySource([["3"], ["03"], ["5"], ["5"]])
    texts = np.eye(6)
    images = texts[[3, 3, 5, 3]]
    got = evaluator_of(source, templates=("{}",)).run({"images": images, "texts": texts})
    assert got == {"top1": 0.75, "top5": 1.0, "class_mean": 0.75, "top1_chance": 0.5}


def test_classes_that_all_have_the_same_tokens_are_refused():
    with pytest.raises(UserError, match=r"^grey:: the prompts of all 2 classes .*'03' = '3'"):
        evaluator_of(GreySource([["3"], ["03"]]), templates=("{}",))
    alone = evaluator_of(GreySource([["3"], ["3"]]), templates=("{}",))
    assert alone.run({"images": np.eye(4)[[3, 3]], "texts": np.eye(4)})["top1_chance"] == 1

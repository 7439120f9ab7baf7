"""big_vision's two towers as .npz (SigLIP's layout)."""

from pathlib import Path

from timix_jax.export.folder import Exported
from timix_jax.export.parts import tokenizer_files
from timix_jax.export.refusals import Rule, check_rules
from timix_jax.export.trained import Trained
from timix_jax.pretrained.layouts import big_vision
from timix_jax.pretrained.leaves import split_leaves

TITLE = "big_vision's npz"
WEIGHTS_FILE = "model.npz"

_ACT, _EPS = big_vision.VARIANT["act"], big_vision.VARIANT["eps"]
_RULES = (
    Rule("image.stem", ("linear",), "its patches are one convolution"),
    Rule("image.pool", ("map", "gap"), "its image tower has no [CLS]"),
    Rule("image.ln_pre", (False,), "it has no norm before the blocks"),
    Rule("image.projection", ("none", "biased"), "its projection has a bias"),
    Rule("image.act", (_ACT,), "its code states the activation"),
    Rule("image.eps", (_EPS,), "its code states the epsilon"),
    Rule("text.pre_norm", (True,), "its norms come before each sublayer"),
    Rule("text.causal", (False,), "its text tower sees the whole text"),
    Rule("text.pad_mask", (False,), "it attends to padding"),
    Rule("text.pool", ("last",), "it takes the last position"),
    Rule("text.projection", ("biased",), "it projects texts with a bias"),
    Rule("text.act", (_ACT,), "its code states the activation"),
    Rule("text.eps", (_EPS,), "its code states the epsilon"),
)


def export(trained: Trained, target: Path) -> Exported:
    """Return arrays and tokenizer.

    Raises:
      UserError: names what the layout cannot express.
    """
    del target
    check_rules(trained, TITLE, _RULES)
    at = "params/"
    image = {
        **big_vision.image_end_leaves(
            at,
            pooled=trained.field("image.pool") == "map",
            projected=trained.field("image.projection") == "biased",
        ),
        **big_vision.block_leaves(f"{at}img/Transformer", trained.depth("image")),
    }
    text = {
        **big_vision.text_end_leaves(at),
        **big_vision.block_leaves(f"{at}txt/Encoder_0", trained.depth("text")),
    }
    arrays = {
        **split_leaves(image, trained.tower("image")),
        **split_leaves(text, trained.tower("text")),
        f"{at}t": trained.logit_scale.reshape(1),
    }
    if "logit_bias" in trained.params:
        arrays[f"{at}b"] = trained.params["logit_bias"].reshape(1)
    return Exported(WEIGHTS_FILE, arrays, tokenizer_files(trained), {})

"""From a configuration to the objects of a run: the one place where config fields become arguments."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from timix_jax import flops, schedule, train_state
from timix_jax.data.pipeline import Augment, TrainIterator, make_train_iterator
from timix_jax.data.records import CorruptExample
from timix_jax.data.sources import Source, open_source
from timix_jax.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from timix_jax.errors import UserError, located
from timix_jax.evaluators import Evaluator, build_evaluator
from timix_jax.mixing import build_mixer
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.objectives import Objective, build_objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.optim import make_optimizer
from timix_jax.parallel.mesh import check_batch_size, make_mesh

TOKENIZER_EXAMPLES = 200_000  # captions of so many examples a source train a tokenizer
_LR_SCALE = ([str, float], [str, int])
STACKED = r".*/layers/.*"  # parameters with a leading layer axis (models/transformer.py)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything of a run that does not change while it runs.

    Attributes:
      examples: length of an epoch.
      total_steps: updates of the whole training.
      every: periods in steps of "log", "eval" and "checkpoint"; 0 = never.
    """

    config: ConfigDict
    mesh: Mesh
    model: DualEncoder
    tokenizer: Tokenizer
    sources: tuple[Source, ...]
    objectives: tuple[Objective, ...]
    optimizer: optax.GradientTransformation
    schedule: schedule.Schedule
    examples: int
    total_steps: int
    every: dict[str, int]

    def create_state(self, key: jax.Array) -> train_state.TrainState:
        """A fresh training state, pure in ``key``."""
        ema = self.config.optim.ema > 0
        return train_state.create(self.model, self.optimizer, key, ema=ema)

    def step_flops(self) -> float:
        """Analytic FLOPs of one step over all devices."""
        return step_flops(self.config, self.model, self.objectives)

    @functools.cached_property
    def abstract_state(self) -> train_state.TrainState:
        """Shapes and dtypes of the state; nothing is computed."""
        return jax.eval_shape(self.create_state, jax.random.key(0))

    def train_iterator(self, start_step: int) -> TrainIterator:
        """The input pipeline; its element s is the batch of step s."""
        c = self.config
        with located("config.augment."):
            augment = Augment(**c.augment.to_dict())
        with located("config.data, config.train: "):
            return make_train_iterator(
                self.sources,
                c.data.weights or None,
                batch_size=c.train.batch_size,
                image_size=c.model.image.size,
                max_tokens=c.model.text.max_tokens,
                tokenizer=self.tokenizer,
                seed=c.seed,
                augment=augment,
                with_boxes=needs_boxes(c),
                region_batch_size=c.regions.batch_size if uses_regions(c) else 0,
                max_regions=c.regions.max_regions,
                region_max_tokens=c.regions.max_tokens or None,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                num_threads=c.data.threads,
                start_step=start_step,
            )


def step_flops(config: ConfigDict, model: DualEncoder, objectives: Sequence[Objective]) -> float:
    """Analytic FLOPs of one step over all devices."""
    c = config
    mix = next((o for o in objectives if isinstance(o, MixedContrastive)), None)
    text = model.text
    phrase = text._replace(max_tokens=c.regions.max_tokens or text.max_tokens)
    passes = flops.step_passes(
        model,
        c.train.batch_size,
        clean=any(o.name == "itc" for o in objectives),
        teacher=any(getattr(o, "alpha", 0) > 0 for o in objectives),
        mixed=mix.fraction if mix else 0.0,
        placement=mix.placement if mix else "extra",
        score=mix.score.name if mix and mix.score else None,
        region_images=c.regions.batch_size if uses_regions(c) else 0,
        regions=c.regions.max_regions,
        region_text=flops.text_flops(phrase) / flops.text_flops(text),
    )
    return flops.train_step_flops(model, passes)


def check_shapes(config: ConfigDict) -> Mesh:
    """The mesh, once batches and model are found to be possible; no data is read.

    Raises:
      UserError: the first field that cannot work.
    """
    mesh = build_mesh(config)
    check_batch_size(config.train.batch_size, mesh, field="config.train.batch_size")
    if uses_regions(config):
        check_batch_size(config.regions.batch_size, mesh, field="config.regions.batch_size")
    abstract_params(build_model(config, vocab_size=1, pad_id=0))
    _check_teacher(config)
    return mesh


def build(config: ConfigDict, *, tokenizer: Tokenizer | None = None) -> Experiment:
    """Builds a run from a complete configuration; nothing is compiled yet.

    Args:
      config: from `config.complete`.
      tokenizer: of a run that is resumed; otherwise it is loaded or trained as config.data says.

    Raises:
      UserError: the first field that cannot work.
    """
    mesh = check_shapes(config)
    sources = open_training_sources(config)
    tokenizer = tokenizer or build_tokenizer(config, sources)
    model = build_model(config, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    examples = sum(len(source) for source in sources)
    to_steps = functools.partial(
        schedule.steps, batch_size=config.train.batch_size, examples=examples
    )
    total = to_steps(config.train.duration, field="config.train.duration")
    if total < 1:
        raise UserError(f"config.train.duration={config.train.duration!r}: give at least 1 step")
    within = functools.partial(to_steps, total_steps=total)
    with located("config.optim."):
        rate = schedule.warmup_cosine(
            config.optim.lr,
            total,
            within(config.optim.warmup, field="config.optim.warmup"),
            config.optim.start_lr,
            config.optim.end_lr,
        )
    params = abstract_params(model)
    return Experiment(
        config=config,
        mesh=mesh,
        model=model,
        tokenizer=tokenizer,
        sources=sources,
        objectives=tuple(build_objectives(config, model, within)),
        optimizer=build_optimizer(config, params, rate),
        schedule=rate,
        examples=examples,
        total_steps=total,
        every={
            name: within(config[name].every, field=f"config.{name}.every")
            for name in ("log", "eval", "checkpoint")
        },
    )


def build_model(config: ConfigDict, *, vocab_size: int, pad_id: int) -> DualEncoder:
    """The model of ``config.model``."""
    m = config.model
    if m.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype={m.dtype!r} is unknown; use 'float32' or 'bfloat16'")
    v, t = m.image, m.text
    with located("config."):
        return DualEncoder(
            image=VitShape(v.size, v.patch, v.width, v.depth, v.heads, v.mlp_dim),
            text=TextShape(vocab_size, t.max_tokens, t.width, t.depth, t.heads, t.mlp_dim),
            embed_dim=m.embed_dim,
            tpp_layer=m.tpp_layer,
            pool=v.pool,
            text_pre_norm=t.pre_norm,
            pad_id=pad_id,
            temperature_init=m.temperature,
            temperature_range=tuple(m.temperature_range),
            act=m.act,
            dtype=jnp.dtype(m.dtype),
            scan=m.scan,
            remat=m.remat,
        )


def build_mesh(config: ConfigDict) -> Mesh:
    """The mesh of ``config.mesh`` over all devices."""
    with located("config."):
        return make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)


def abstract_params(model: DualEncoder) -> Any:
    """Shapes and dtypes of the parameters."""
    with located("config."):
        return jax.eval_shape(model.init, jax.random.key(0))


def _check_teacher(config: ConfigDict) -> None:
    alpha, ema = config.loss.itc.alpha, config.optim.ema
    if not 0 <= ema < 1:
        raise UserError(f"config.optim.ema={ema}: give 0 (none) or a decay below 1, such as 0.995")
    if alpha and not ema:
        raise UserError(
            f"config.loss.itc.alpha={alpha} needs a teacher: set config.optim.ema above 0, such as 0.995"
        )
    if alpha and config.mix.mixer != "none" and config.mix.placement == "replace":
        raise UserError(
            f"config.loss.itc.alpha={alpha} needs the clean images, whose place mixed ones take with "
            "config.mix.placement='replace'; set it to 0, or use 'extra'"
        )


def open_training_sources(config: ConfigDict) -> tuple[Source, ...]:
    """The sources of ``config.data.train``."""
    specs = config.data.train
    if not specs:
        raise UserError(
            "config.data.train=() names no data; give --config.data.train=\"('records:DIR',)\" "
            "(python -m timix_jax.data.prepare makes DIR) or \"('tfds:NAME',)\""
        )
    with located("config.data.train: "):
        sources = tuple(open_source(spec) for spec in specs)
    for spec, source in zip(specs, sources, strict=True):
        if len(source) == 0:
            raise UserError(f"config.data.train: {spec!r} is empty")
    if uses_regions(config) and not any(len(source.annotated) for source in sources):
        raise UserError(
            "config.loss.pta.weight is above 0, but no example of config.data.train has regions; "
            "prepare the data with regions, or set config.loss.pta.weight=0 and another mix.score"
        )
    return sources


def build_tokenizer(config: ConfigDict, sources: tuple[Source, ...]) -> Tokenizer:
    """Trains ``wordpiece`` or ``bpe`` on the captions at hand, or loads a file."""
    kind = config.data.tokenizer
    if kind not in ("wordpiece", "bpe"):
        with located(f"config.data.tokenizer={kind!r}: "):
            return load_tokenizer(kind)
    # Evenly spaced where there are many: the vocabulary does not gain from more captions than these.
    captions = (
        caption
        for source in sources
        for index in range(0, len(source), max(1, len(source) // TOKENIZER_EXAMPLES))
        for caption in _captions(source, index)
    )
    with located("config.data."):
        return train_tokenizer(captions, kind=kind, vocab_size=config.data.vocab_size)


def _captions(source: Source, index: int) -> tuple[str, ...]:
    try:
        return source[index].captions
    except CorruptExample:
        return ()  # the pipeline counts and names it when it is its turn


def build_objectives(
    config: ConfigDict, model: DualEncoder, to_steps: Callable[..., int]
) -> list[Objective]:
    """The terms of the loss with a weight above 0, the mixed one where there is a mixer."""
    mix, objectives = config.mix, []
    options = mix.options[mix.mixer].to_dict() if mix.mixer in mix.options else {}
    with located(f"config.mix.options.{mix.mixer}: " if options else "config.mix.mixer: "):
        mixer = build_mixer(mix.mixer, grid=model.grid, **options)
    for name, settings in config.loss.items():
        if settings.weight == 0 or (name == "itc" and mixer and mix.placement == "replace"):
            continue
        arguments = {
            key: to_steps(value, field=f"config.loss.{name}.{key}")
            if key.endswith("_steps")
            else value
            for key, value in settings.items()
        }
        with located("config.loss."):
            objectives.append(build_objective(name, **arguments))
    if mixer is not None:
        until = to_steps(mix.until, field="config.mix.until")
        with located("config."):
            objectives.append(
                MixedContrastive(
                    mixer=mixer,
                    score=build_score_source(mix.score, model) if mixer.needs_scores else None,
                    weight=mix.weight,
                    target=mix.target,
                    beta=mix.beta,
                    label_smoothing=mix.label_smoothing,
                    placement=mix.placement,
                    fraction=mix.fraction,
                    ramp_steps=to_steps(mix.ramp, field="config.mix.ramp"),
                    # "100%" is no end: then nothing is compiled for a time without mixing.
                    until_step=None
                    if until >= to_steps("100%", field="config.mix.until")
                    else until,
                )
            )
    return objectives


def build_evaluators(
    config: ConfigDict, model: DualEncoder, tokenizer: Tokenizer, mesh: Mesh
) -> dict[str, list[Evaluator]]:
    """Evaluation set → its evaluators, for every ``NAME=SOURCE`` of ``config.eval.sets``."""
    built: dict[str, list[Evaluator]] = {}
    for entry in config.eval.sets:
        name, equals, spec = entry.partition("=")
        if not equals or not name or name in built:
            raise UserError(f"config.eval.sets: {entry!r}; write NAME=SOURCE, each name once")
        with located("config.eval.sets: "):
            source = open_source(spec)
        if len(source) == 0:
            raise UserError(f"config.eval.sets: {entry!r} is empty")
        with located(f"config.eval, {name}: "):
            built[name] = [
                build_evaluator(
                    kind,
                    model=model,
                    source=source,
                    tokenizer=tokenizer,
                    mesh=mesh,
                    image_size=config.model.image.size,
                    max_tokens=config.model.text.max_tokens,
                    batch_size=config.eval.batch_size,
                )
                for kind in config.eval.evaluators
                if kind != "patch_text" or len(source.annotated)  # that one needs boxes
            ]
    return built


def build_optimizer(
    config: ConfigDict, params: Any, rate: schedule.Schedule
) -> optax.GradientTransformation:
    """AdamW of ``config.optim``."""
    o = config.optim
    for entry in o.lr_scales:
        if not isinstance(entry, (tuple, list)) or [type(x) for x in entry] not in _LR_SCALE:
            raise UserError(
                f"config.optim.lr_scales={o.lr_scales}: {entry!r} is not (pattern, factor); "
                "write (('image/.*', 0.1),)"
            )
    with located("config.optim."):
        return make_optimizer(
            params,
            schedule=rate,
            name=o.name,
            b1=o.b1,
            b2=o.b2,
            weight_decay=o.weight_decay,
            clip_norm=o.clip_norm or None,
            lr_scales=tuple((pattern, float(factor)) for pattern, factor in o.lr_scales),
            stacked=STACKED,
        )


def needs_boxes(config: ConfigDict) -> bool:
    """Whether the main batch must carry the boxes of its captions (the oracle's scores)."""
    return config.mix.mixer != "none" and config.mix.score == "oracle"


def uses_regions(config: ConfigDict) -> bool:
    """Whether a second stream of annotated images is read."""
    return config.loss.pta.weight > 0

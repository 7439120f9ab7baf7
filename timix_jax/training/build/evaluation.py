"""`config.eval` as arguments: the evaluation sets and their evaluators."""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from timix_jax.data.sources import open_source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError, error_prefix
from timix_jax.evaluators import EvaluationInputs, Evaluator, build_evaluator, evaluator_class
from timix_jax.models.protocols import ImageTextModel


def build_evaluators(
    config: ConfigDict, model: ImageTextModel, tokenizer: Tokenizer, mesh: Mesh
) -> dict[str, list[Evaluator]]:
    """Evaluation set → its evaluators, for every `NAME=SOURCE` of `config.eval.sets`."""
    built: dict[str, list[Evaluator]] = {}
    model = model.for_evaluation()
    for entry in config.eval.sets:
        name, equals, spec = entry.partition("=")
        if not equals or not name or name in built or set("/:?") & set(name):
            raise UserError(
                f"config.eval.sets: {entry!r}; write NAME=SOURCE, each name once and without '/', ':' or '?'"
            )
        with error_prefix("config.eval.sets: "):
            source = open_source(spec)
        if len(source) == 0:
            raise UserError(f"config.eval.sets: {entry!r} is empty")
        inputs = EvaluationInputs(
            model=model,
            source=source,
            tokenizer=tokenizer,
            mesh=mesh,
            image_size=config.model.image.size,
            max_tokens=config.model.text.max_tokens,
            batch_size=config.eval.batch_size,
            max_regions=config.regions.max_regions,
        )
        with error_prefix(f"config.eval, {name}: "):
            built[name] = [
                build_evaluator(kind, inputs, **config.eval.options[kind].to_dict())
                for kind in config.eval.evaluators
                if _applies(evaluator_class(kind), inputs)
            ]
        if not built[name]:
            raise UserError(
                f"config.eval.evaluators={tuple(config.eval.evaluators)!r}: none can use the set {name!r}; name one"
                " that can, such as 'retrieval'"
            )
    return built


def _applies(kind: type[Evaluator], inputs: EvaluationInputs) -> bool:
    return kind.supports(inputs.model) and kind.applies_to(inputs.source)

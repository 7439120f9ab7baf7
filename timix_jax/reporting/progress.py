"""The progress line that a training run prints at each log."""

import shutil
from collections.abc import Callable, Mapping, Sequence

import jax

from timix_jax.reporting.chrono import Speed
from timix_jax.reporting.peak_memory import DEVICE_MEMORY, HOST_MEMORY
from timix_jax.runtime.log import print_text


class ProgressPrinter:
    """Prints to the screen of process 0, and nothing on the other processes.

    Args:
      total_steps: the last step.
      weights: objective → its factor in the summed loss, shown where it is not 1.
      width: columns; the terminal's by default, kept between 80 and 140.
      write: takes the text; standard output by default.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        weights: Mapping[str, float] | None = None,
        width: int | None = None,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self._total_steps, self._weights = total_steps, dict(weights or {})
        columns = width or shutil.get_terminal_size((120, 24)).columns
        self._width = min(max(columns, 80), 140)
        self._write = write or print_text
        self._silent = jax.process_index() != 0

    def line(
        self,
        step: int,
        metrics: Mapping[str, float],
        speed: Speed | None = None,
        slowest: int | None = None,
    ) -> None:
        """Print the progress line of a step; see `progress_sections` for the metrics it shows."""
        sections = progress_sections(
            step, self._total_steps, metrics, speed, self._weights, slowest
        )
        self.text(wrap_sections(sections, self._width))

    def text(self, text: str) -> None:
        """Print any other text, such as the start-up summary."""
        if not self._silent:
            self._write(text)


def progress_sections(
    step: int,
    total_steps: int,
    metrics: Mapping[str, float],
    speed: Speed | None,
    weights: Mapping[str, float],
    slowest: int | None = None,
) -> list[str]:
    """Return the parts of a progress line.

    Args:
      step: number of steps taken.
      total_steps: the last step.
      metrics: `loss`, `loss/NAME` for each objective, `lr`, `temperature`, `lambda`, and the memory of
        `timix_jax.reporting.peak_memory`; missing ones are left out, others are not shown.
      speed: the rates, if they have been measured.
      weights: NAME → factor.
      slowest: the process that `data_wait` in the metrics belongs to; None for a single process.

    **Example:** `["step  120/1600", "loss 3.214 = itc 2.914 + 0.5·mix 0.600", "lr 1.0e-03 τ 0.052
    λ 0.73", "512 img/s (64 per device)", "data wait 1%", "MFU 31.0%", "peak memory 9.41 GiB",
    "ETA 3:12"]`
    """
    sections = [f"step {step:{len(str(total_steps))}d}/{total_steps}"]
    terms = []
    for name, value in metrics.items():
        if name.startswith("loss/"):
            objective = name.removeprefix("loss/")
            factor = weights.get(objective, 1.0)
            terms.append(f"{'' if factor == 1 else f'{factor:g}·'}{objective} {value:.3f}")
    if "loss" in metrics:
        parts = f" = {' + '.join(terms)}" if len(terms) > 1 or "·" in "".join(terms) else ""
        sections.append(f"loss {metrics['loss']:.3f}{parts}")
    settings = [
        f"{symbol} {metrics[name]:{form}}"
        for name, symbol, form in (
            ("lr", "lr", ".1e"),
            ("temperature", "τ", ".3f"),
            ("lambda", "λ", ".2f"),
        )
        if name in metrics
    ]
    if settings:
        sections.append(" ".join(settings))
    if speed is not None:
        several = round(speed.images_per_s) != round(speed.images_per_s_device)
        each = f" ({_count(speed.images_per_s_device)} per device)" if several else ""
        sections.append(f"{_count(speed.images_per_s)} img/s{each}")
        wait = round(100 * metrics.get("data_wait", speed.wait))
        where = f" (process {slowest})" if slowest is not None and wait else ""
        sections.append(f"data wait {wait}%{where}")
        if speed.mfu is not None:
            sections.append(f"MFU {100 * speed.mfu:.1f}%")
    for name, label in ((DEVICE_MEMORY, "peak memory"), (HOST_MEMORY, "peak RSS")):
        if name in metrics:
            sections.append(f"{label} {metrics[name]:.3g} GiB")
            break  # the host's memory only if the devices do not report theirs
    if speed is not None:
        sections.append(f"ETA {format_duration(speed.eta_s)}")
    return sections


def _count(rate: float) -> str:
    return f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"


def wrap_sections(sections: Sequence[str], width: int) -> str:
    """Join sections by `|`, breaking the line between them where it would exceed `width` columns."""
    lines = [sections[0]]
    indent = " " * len(sections[0])
    for section in sections[1:]:
        if len(lines[-1]) + 3 + len(section) > width:
            lines.append(indent)
        lines[-1] += f" | {section}"
    return "\n".join(lines)


def format_duration(seconds: float) -> str:
    """Format a duration as `3:12`, `1:03:12` or `2d 03:12:45`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}:{minute:02d}:{second:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def format_quantity(number: float, unit: str = "") -> str:
    """Format three significant digits with k, M, G, T or P: `format_quantity(86.4e6)` is `86.4 M`."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # The threshold rounds like the digits: 999,600 is 1 M, not 1e+03 k.
        if abs(number) >= 0.9995 * factor:
            return f"{_three_digits(number / factor)} {prefix}{unit}"
    return f"{_three_digits(number)} {unit}".rstrip()


def _three_digits(number: float) -> str:
    text = f"{number:.3g}"
    return text if "e" not in text else f"{number:.0f}"

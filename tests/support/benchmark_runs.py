"""A tiny recipe for benchmarks, a stand-in for the trainings they start, and the tables they print."""

import json
from pathlib import Path

TINY_RECIPE = """
from timix_jax.config import default_config

def get_config():
    c = default_config()
    c.data.train = ("synthetic:?examples=32&regions=2&captions=2",)
    c.data.vocab_size = 128
    c.data.threads = 1
    c.eval.sets = ("test=synthetic:?examples=32&seed=1",)
    c.model.image.update(size=16, patch=8, width=16, depth=2, heads=2, mlp_dim=16, pool="gap")
    c.model.text.update(max_tokens=8, width=16, depth=1, heads=2, mlp_dim=16)
    c.model.embed_dim = 8
    c.model.tpp_layer = 0
    c.train.batch_size = 8
    c.train.duration = "4 steps"
    c.optim.warmup = "1 steps"
    return c
"""


def rows(text):
    """Return the cells of the Markdown tables in `text`, without their rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if set("".join(row)) != {"-"}]


class FakeTraining:
    """Stands in for the training process: writes what a run leaves, at 80 images per second for timix.

    Args:
      slower: Slowdown of the machine with each run, as a share of its initial speed.
    """

    def __init__(self, slower=0.0):
        self.commands = []
        self._slower = slower

    def __call__(self, command, **_):
        fields = dict(part.split("=", 1) for part in command if part.startswith("--"))
        folder = Path(fields["--workdir"])
        folder.mkdir(parents=True)
        mixer = fields["--config.mix.mixer"]
        steps = int(fields["--config.train.duration"].split()[0])
        rate = 80.0 if mixer == "timix" else 160.0
        rate /= 1 + self._slower * len(self.commands)
        (folder / "config.json").write_text(json.dumps({"train.batch_size": 8}))
        logged = [{"step": step, "images_per_s": rate} for step in (1 + steps // 2, steps)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
        seed = int(fields.get("--config.seed", 0))
        metrics = ("i2t_r1", "t2i_r1", "i2t_r10", "t2i_r10", "mean_recall")
        results = {f"test/{metric}": 0.1 * (seed + 1) for metric in metrics}
        (folder / "results.json").write_text(json.dumps(results))
        self.commands.append(command)
        return type("Done", (), {"returncode": 0})

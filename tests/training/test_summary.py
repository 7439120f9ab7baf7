"""The summary printed before the first step."""

import jax

from timix_jax.training.summary import startup_summary


def test_startup_summary():
    text = startup_summary(
        "demo",
        devices=jax.devices(),
        mesh_shape={"data": 4, "fsdp": 2, "tensor": 1},
        data={"train": 40_000, "heldout_vendor": 500},
        parameters={"image": 1_200_000, "text": 800_000},
        batch_size=128,
        total_steps=1600,
        examples=40_000,
        flops_per_step=2.5e10,
        workdir="runs/demo",
    )
    assert text.split("\n") == [
        "demo",
        "  devices     8 × cpu (data 4, fsdp 2)",
        "  data        train 40,000, heldout_vendor 500",
        "  parameters  2 M: image 1.2 M, text 800 k",
        "  training    1,600 steps × 128 images = 5.12 epochs",
        "  compute     25 GFLOP per step",
        "  workdir     runs/demo",
    ]

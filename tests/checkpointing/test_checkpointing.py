"""Checkpoints are restored bit for bit on any devices and kept as configured."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import abstract, assert_same, make_state, mesh_of
from jax.sharding import NamedSharding, PartitionSpec

from timix_jax import checkpointing
from timix_jax.checkpointing import Checkpointer
from timix_jax.errors import UserError


def test_round_trip_keeps_bits_structure_shardings_and_meta(tmp_path):
    state = make_state()
    meta = {"step": 7, "config": {"lr": 0.1, "sizes": (1, 2)}, "tokenizer": "ü\n{}", "none": None}
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest_valid() is None
        checkpointer.save(7, state, meta)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest_valid() == 7
        restored, restored_meta = checkpointer.restore(7, abstract(state))
        assert checkpointer.read_meta(7) == restored_meta
    assert_same(restored, state)
    assert restored_meta == {**meta, "config": {"lr": 0.1, "sizes": [1, 2]}}
    shardings = [leaf.sharding for leaf in jax.tree.leaves(restored)]
    assert shardings == [leaf.sharding for leaf in jax.tree.leaves(state)]


def test_restores_on_other_devices_and_shardings(tmp_path):
    state = make_state(8)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
        checkpointer.wait()
        fewer = abstract(make_state(4))
        column = fewer.replace(
            params={
                **fewer.params,
                "image": {
                    **fewer.params["image"],
                    "kernel": jax.ShapeDtypeStruct(
                        (16, 16),
                        jnp.float32,
                        sharding=NamedSharding(mesh_of(2), PartitionSpec(None, "data")),
                    ),
                },
            }
        )
        for expected in (fewer, column, abstract(make_state(1)), abstract(state, devices=3)):
            restored, _ = checkpointer.restore(1, expected)
            assert_same(restored, state)
            for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
                assert got.sharding == want.sharding


@pytest.mark.parametrize("how", ["donated", "deleted"])
def test_state_may_be_overwritten_once_save_returns(tmp_path, how):
    values = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    state = {"w": jnp.asarray(values.copy()), "b": jnp.arange(3)}
    expected = abstract(state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, state, {})
            if how == "donated":
                jax.block_until_ready(overwrite(state))
            else:
                jax.tree.map(lambda leaf: leaf.delete(), state)
            state = {"w": jnp.asarray(values.copy()), "b": jnp.arange(3)}
        restored, _ = checkpointer.restore(checkpointer.latest_valid(), expected)
    np.testing.assert_array_equal(restored["w"], values)
    np.testing.assert_array_equal(restored["b"], np.arange(3))


def test_differences_to_another_model_are_named(tmp_path):
    state = {"params": {"a": jnp.zeros(3), "b": jnp.zeros((2, 2)), "old": jnp.zeros(1)}}
    other = {
        "params": {
            "a": jnp.zeros(3),
            "b": jnp.zeros((2, 4)),
            "c": jnp.zeros(1, jnp.int32),
        }
    }
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
        checkpointer.wait()
        with pytest.raises(UserError) as error:
            checkpointer.restore(1, abstract(other))
    message = str(error.value)
    assert "\n" not in message
    assert "3 differ: params/b: float32[2,2] → float32[2,4]; " in message
    assert "params/c: missing (expected int32[1]); params/old: unexpected (float32[1])" in message


def test_last_and_every_nth_are_kept(tmp_path):
    with Checkpointer(tmp_path, keep_last=2, keep_every=4) as checkpointer:
        for step in range(1, 11):
            checkpointer.save(step, {"x": jnp.full(4, step)}, {})
            checkpointer.wait()
            kept = {s for s in range(1, step + 1) if s > step - 2 or s % 4 == 0}
            assert {int(name) for name in os.listdir(tmp_path)} == kept
    with Checkpointer(tmp_path, keep_last=1) as checkpointer:
        checkpointer.latest_valid()
        checkpointer.save(11, {"x": jnp.zeros(4)}, {})
    assert os.listdir(tmp_path) == ["00000011"]


def test_other_files_in_the_folder_are_kept(tmp_path):
    names = ["00000099", "00000098.orbax-checkpoint-tmp"]
    for name in names:
        (tmp_path / name).write_text("a person's own")
    state = {"w": jnp.ones(3)}
    with Checkpointer(tmp_path, keep_last=1) as checkpointer:
        assert checkpointer.latest_valid() is None
        for step in (1, 2):
            checkpointer.save(step, state, {})
        assert checkpointer.latest_valid() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["00000002", *names])


def test_saved_step_is_not_saved_again_and_another_run_is_not_overwritten(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(5, {"x": jnp.zeros(4)}, {})
        checkpointer.save(5, {"x": jnp.ones(4)}, {})
        restored, _ = checkpointer.restore(5, abstract({"x": jnp.zeros(4)}))
        np.testing.assert_array_equal(restored["x"], np.zeros(4))
    for step in (3, 5):
        with (
            Checkpointer(tmp_path) as checkpointer,
            pytest.raises(UserError, match="already holds checkpoint 5"),
        ):
            checkpointer.save(step, {"x": jnp.zeros(4)}, {})


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (np.zeros(3), "params/w is a ndarray"),
        (jnp.zeros((0, 3)), r"params/w has no elements \(shape \(0, 3\)\)"),
    ],
)
def test_leaf_that_cannot_be_saved_is_named_at_once(tmp_path, leaf, said):
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises((TypeError, ValueError), match=said),
    ):
        checkpointer.save(1, {"params": {"w": leaf}}, {})


def test_params_of_another_run(tmp_path):
    state = make_state(seed=3)
    with Checkpointer(tmp_path / "run" / "checkpoints") as checkpointer:
        checkpointer.save(1, make_state(seed=2), {})
        checkpointer.save(2, state, {"config": {"a": 1}})
    step_folder = tmp_path / "run" / "checkpoints" / "00000002"
    for path in (tmp_path / "run", step_folder.parent, step_folder):
        assert_same(checkpointing.restore_params(path, abstract(state.params)), state.params)
        found = checkpointing.find_checkpoint(path)
        assert checkpointing.read_meta(found) == {"config": {"a": 1}}
    plain = checkpointing.restore_params(tmp_path / "run")
    assert isinstance(plain["image"]["kernel"], np.ndarray)
    assert_same(plain["image"], state.params["image"])
    count = checkpointing.restore_params(step_folder, part="opt_state")["1"]["0"]["count"]
    np.testing.assert_array_equal(count, 0)
    with pytest.raises(UserError, match="holds no ema_params, but opt_state, params, step"):
        checkpointing.restore_params(step_folder, part="ema_params")
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        checkpointing.restore_params(tmp_path / "nothing")
    os.truncate(step_folder / "_CHECKPOINT_METADATA", 3)
    assert int(checkpointing.find_checkpoint(tmp_path / "run").name) == 1
    with pytest.raises(UserError, match=r"00000002 cannot be used: _CHECKPOINT_METADATA"):
        checkpointing.restore_params(step_folder)

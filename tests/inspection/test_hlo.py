"""Collectives read from compiled programs whose communication is known, and from lines as TPU programs have them."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from timix_jax.inspection.hlo import collectives
from timix_jax.parallel.mesh import make_mesh

CUT = NamedSharding(make_mesh(jax.devices()[:4]), PartitionSpec("data"))


def compiled_text(function, *shapes_and_specs):
    mesh = make_mesh(jax.devices()[:4])
    arguments = [
        jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for shape, spec in shapes_and_specs
    ]
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(function, out_shardings=whole).lower(*arguments).compile().as_text()


def test_a_gather_and_a_sum_are_found_with_their_bytes():
    text = compiled_text(lambda x, y: (x * 2, jnp.sum(y)), ((8, 16), ("data",)), ((64,), ("data",)))
    found = {one.kind: one for one in collectives(text)}
    assert set(found) == {"all-gather", "all-reduce"}
    assert found["all-gather"].bytes == 8 * 16 * 4
    assert found["all-reduce"].bytes == 4
    assert all(one.runs == 1 for one in found.values())
    assert "jit(" in found["all-reduce"].source


def test_loops_are_counted_by_their_turns():
    def function(x):
        turn = lambda carry, _: (jnp.sin(carry - jnp.sum(carry)), None)
        return jax.lax.scan(turn, x, None, length=7)[0]

    reductions = [
        one
        for one in collectives(compiled_text(function, ((64,), ("data",))))
        if one.kind == "all-reduce"
    ]
    assert [one.runs for one in reductions] == [7]


def test_nothing_is_sent_on_one_device():
    text = jax.jit(lambda x: jnp.sum(x @ x)).lower(np.ones((8, 8), np.float32)).compile().as_text()
    assert collectives(text) == []


def test_pieces_of_one_asynchronous_collective_count_once_and_loops_by_their_condition():
    text = textwrap.dedent(
        """
        HloModule jit_step, is_scheduled=true

        %fused.1 (p: bf16[4,8]) -> bf16[16,8] {
          %p = bf16[4,8]{1,0} parameter(0)
          ROOT %all-gather.1 = bf16[16,8]{1,0:T(8,128)} all-gather(%p), channel_id=5, metadata={op_name="step/mul"}
        }

        %fused.2 (p: bf16[4,8]) -> bf16[16,8] {
          %p = bf16[4,8]{1,0} parameter(0)
          ROOT %all-gather.2 = bf16[16,8]{1,0:T(8,128)} all-gather(%p), channel_id=5, metadata={op_name="step/mul"}
        }

        %body (c: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
          %a = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%fused.1
          %b = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%fused.2
          %s = (f32[3]{0}, f32[3]{0}) collective-permute-start(%y), channel_id=6, source_target_pairs={{0,1},{1,0}}
          %d = f32[3]{0} collective-permute-done(%s)
        }

        %condition (c: (s32[], bf16[4,8])) -> pred[] {
          %constant.1 = s32[]{:T(128)} constant(12)
          ROOT %lt = pred[]{:T(512)} compare(%i, %constant.1), direction=LT
        }

        ENTRY %main (x: bf16[4,8]) -> bf16[4,8] {
          %w = (s32[], bf16[4,8]) while(%t), condition=%condition, body=%body
        }
        """
    )
    gather, permute = collectives(text)
    assert gather[:4] == ("all-gather", 16 * 8 * 2, 12, "step/mul")
    assert permute[:3] == ("collective-permute", 12, 12)
    assert permute.pairs == ((0, 1), (1, 0))
    assert permute.mirrors
    assert not gather.mirrors


def test_collectives_that_a_program_writes_itself_share_a_channel_and_count_each():
    mesh = make_mesh(jax.devices()[:4])
    round_ = [(i, (i + 1) % 4) for i in range(4)]

    def function(x):
        once = jax.lax.ppermute(x, "data", round_)
        turn = lambda carry, _: (jnp.sin(jax.lax.ppermute(carry, "data", round_)), None)
        return jax.lax.scan(turn, jnp.cos(once), None, length=5)[0] + jax.lax.psum(x, "data")

    spec = PartitionSpec("data")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    text = jax.jit(mapped).lower(jax.ShapeDtypeStruct((16,), np.float32)).compile().as_text()
    assert text.count("channel_id=1,") == 3
    found = sorted((one.kind, one.runs, one.bytes) for one in collectives(text))
    assert found == [
        ("all-reduce", 1, 16),
        ("collective-permute", 1, 16),
        ("collective-permute", 5, 16),
    ]


def test_pieces_of_a_collective_on_the_shared_channel_count_once():
    """Two gathers of one shape and origin, as a TPU program overlaps them with computation."""
    gather = (
        'f32[16,8]{1,0:T(8,128)} all-gather(%p), channel_id=1, metadata={op_name="step/all_gather"}'
    )
    pieces = "".join(
        f"""
        %{name} (p: f32[4,8]) -> f32[16,8] {{
          %p = f32[4,8]{{1,0}} parameter(0)
          ROOT %all-gather.{number} = {gather}
        }}
        """
        for number, name in enumerate(
            [
                *("fused_computation.1", "async_collective_fusion.2", "fused_computation.3"),
                *("fused_computation.4", "fused_computation.5"),
            ]
        )
    )
    text = (
        "HloModule jit_step\n"
        + textwrap.dedent(pieces)
        + textwrap.dedent(
            """
            ENTRY %main (x: f32[4,8]) -> f32[16,8] {
              %async-collective-start.7 = (f32[4,8]{1,0}) fusion(%x), kind=kCustom, calls=%fused_computation.1
              %fusion.2 = (f32[16,8]{1,0}) fusion(%y), kind=kOutput, calls=%async_collective_fusion.2
              %async-collective-done.7 = f32[16,8]{1,0} fusion(%y), kind=kCustom, calls=%fused_computation.3
              %async-collective-start.8 = (f32[4,8]{1,0}) fusion(%z), kind=kCustom, calls=%fused_computation.4
              ROOT %async-collective-done.8 = f32[16,8]{1,0} fusion(%z), kind=kCustom, calls=%fused_computation.5
            }
            """
        )
    )
    assert [(one.kind, one.bytes, one.runs) for one in collectives(text)] == [
        ("all-gather", 16 * 8 * 4, 1)
    ] * 2


def test_a_reversal_between_devices_is_told_from_a_shift():
    text = compiled_text(
        lambda x: jax.lax.with_sharding_constraint(x[::-1], CUT), ((8,), ("data",))
    )
    permutes = [one for one in collectives(text) if one.kind == "collective-permute"]
    assert permutes
    assert all(one.mirrors for one in permutes)
    shift = permutes[0]._replace(pairs=((0, 1), (1, 2), (2, 3), (3, 0)))
    assert not shift.mirrors
    assert shift.is_ring_step
    assert shift._replace(pairs=((0, 3), (1, 0), (2, 1), (3, 2))).is_ring_step
    assert not permutes[0].is_ring_step
    assert not shift._replace(pairs=((0, 2), (1, 3), (2, 0), (3, 1))).is_ring_step
    assert not shift._replace(pairs=((0, 1), (1, 0))).is_ring_step  # of two: no ring

"""What is said of the compilation cache, against programs that are or are not in it."""

import jax
import jax.numpy as jnp
import pytest
from tiny_model import compiler_settings

from timix_jax.compile_cache import cache_use


@pytest.fixture
def compile_anew(tmp_path):
    """Compiles one program as a new process would, all caches in memory forgotten."""

    def compile_anew():
        jax.clear_caches()
        with cache_use() as use:
            jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 5))).block_until_ready()
        return str(use)

    return compile_anew


def test_miss_then_hit(compile_anew, tmp_path):
    with compiler_settings(
        jax_compilation_cache_dir=str(tmp_path), jax_persistent_cache_min_compile_time_secs=0.0
    ):
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        assert compile_anew() == "compile cache: miss, stored for later runs"
        assert compile_anew() == "compile cache: hit"


def test_without_a_cache(compile_anew):
    with compiler_settings(jax_compilation_cache_dir=None):
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        assert compile_anew() == "compile cache: none"

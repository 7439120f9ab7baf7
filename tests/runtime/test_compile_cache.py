"""What is said of the compilation cache, against programs that are or are not in it."""

import jax
import jax.numpy as jnp
import pytest
from tiny_model import compiler_settings

from timix_jax.runtime.compile_cache import cache_use, use_cache


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


def test_without_a_home_folder_there_is_no_cache_and_no_folder_of_that_name(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    with compiler_settings(jax_compilation_cache_dir=None):
        use_cache("~no_such_person/xla")
        assert jax.config.values["jax_compilation_cache_dir"] is None
    assert "no compile cache: ~no_such_person/xla needs a home folder" in caplog.text
    assert not list(tmp_path.iterdir())


def test_without_a_cache(compile_anew):
    with compiler_settings(jax_compilation_cache_dir=None):
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        assert compile_anew() == "compile cache: none"

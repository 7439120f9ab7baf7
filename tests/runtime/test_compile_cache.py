"""The report on the compilation cache for programs that are and are not in it."""

import jax
import jax.numpy as jnp
import pytest
from tiny_model import compiler_settings

from timix_jax.runtime.compile_cache import cache_use, use_cache


@pytest.fixture
def compile_afresh(tmp_path):
    """Compile one program as a new process would, with all in-memory caches cleared."""

    def compile_afresh():
        jax.clear_caches()
        with cache_use() as use:
            jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 5))).block_until_ready()
        return str(use)

    return compile_afresh


def test_miss_then_hit(compile_afresh, tmp_path):
    with compiler_settings(
        jax_compilation_cache_dir=str(tmp_path), jax_persistent_cache_min_compile_time_secs=0.0
    ):
        assert compile_afresh() == "compile cache: miss, stored for later runs"
        assert compile_afresh() == "compile cache: hit"


def test_without_a_home_folder_there_is_no_cache_and_no_folder_named_tilde(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    with compiler_settings(jax_compilation_cache_dir=None):
        use_cache("~no_such_person/xla")
        assert jax.config.values["jax_compilation_cache_dir"] is None
    assert "no compile cache: ~no_such_person/xla needs a home folder" in caplog.text
    assert not list(tmp_path.iterdir())


def test_without_a_cache(compile_afresh):
    with compiler_settings(jax_compilation_cache_dir=None):
        assert compile_afresh() == "compile cache: none"

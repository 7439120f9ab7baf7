"""Working folders and data on gs://: the real clients against a local store (fake_gcs.py)."""

import logging
import os
from pathlib import Path

import fake_gcs
import jax
import numpy as np
import pytest
from etils import epath
from tiny_model import compiler_settings
from tiny_run import assert_same_run, tiny_config

from timix_jax import checkpointing
from timix_jax.checkpointing import Checkpointer
from timix_jax.data.records.manifest import read_manifest, shard_name, write_manifest
from timix_jax.data.records.writer import RecordWriter
from timix_jax.data.sources import local_copy, open_source
from timix_jax.data.sources.records import RecordSource
from timix_jax.data.sources.synthetic import open_synthetic
from timix_jax.data.tokenizers import load_tokenizer
from timix_jax.errors import USER_ERROR_CODE, RunError, UserError
from timix_jax.reporting.metrics import MetricsWriter
from timix_jax.reporting.plots.curves import read_curves
from timix_jax.runtime import remote
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.training.evaluate import evaluate_checkpoint
from timix_jax.training.train import train_and_evaluate

EXAMPLES = 48


@pytest.fixture(scope="module")
def server():
    """One store per module, because the clients keep the first address they use."""
    store = fake_gcs.Store()
    before = dict(os.environ)
    with fake_gcs.serve(store) as address:
        os.environ.update(fake_gcs.environment(address))
        fake_gcs.use_no_credentials()
        yield store
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def store(server):
    server.objects.clear()
    server.refuse = None
    return server


@pytest.fixture(scope="module")
def local_data(tmp_path_factory):
    """Prepared records of 16 px scenes, in two shards."""
    folder = tmp_path_factory.mktemp("data")
    source = open_synthetic("", examples=EXAMPLES, size=16, captions=2, regions=2)
    summaries = []
    for shard in range(2):
        with RecordWriter(folder / shard_name("scenes", shard, 2)) as writer:
            for index in range(shard, EXAMPLES, 2):
                writer.write(source[index])
        summaries.append(writer.summary)
    write_manifest(folder, "scenes", summaries)
    return folder


@pytest.fixture
def data(store, local_data):
    """The same records in the bucket."""
    for file in local_data.iterdir():
        store.put("bucket", f"data/{file.name}", file.read_bytes())
    return "gs://bucket/data"


def download(store, prefix: str, folder: Path) -> Path:
    """Copy a remote folder to compare it locally."""
    for name in store.names(prefix):
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(name))
    return folder


@pytest.fixture
def compile_cache_in_bucket():
    """Set the cache as --compile_cache=gs://… does."""
    with compiler_settings(
        jax_compilation_cache_dir="gs://bucket/cache",
        jax_persistent_cache_min_compile_time_secs=0.1,
    ):
        yield


@pytest.mark.slow
def test_whole_run_resumed(store, data, tmp_path, compile_cache_in_bucket):
    """A run on remote data and folders, cut back to its first checkpoint, resumes bit-equal."""
    config = tiny_config(
        4,
        data__train=(f"records:{data}",),
        log__tensorboard=True,
        mix__mixer="none",  # less to compile
        loss__pta__weight=0.0,
        eval__evaluators=("retrieval",),
        eval__every="0 steps",
        eval__sets=(f"val=records:{data}",),
        pictures__examples=1,
    )
    train_and_evaluate(config, "gs://bucket/runs/one")
    names = store.names("runs/one/")
    for expected in ("config.json", "tokenizer.json", "metrics.jsonl", "results.json"):
        assert f"runs/one/{expected}" in names
    for folder in ("tensorboard/", "pictures/training_curves.png"):
        assert any(name.startswith(f"runs/one/{folder}") for name in names), folder
    assert not [name for name in names if ".tmp" in name]
    assert store.names("cache/")
    uninterrupted = download(store, "runs/one/", tmp_path / "uninterrupted")

    for name in names:  # the state after a preemption between steps 2 and 4
        if "/00000004/" in name or "results.json" in name:
            del store.objects["bucket", name]
    train_and_evaluate(config, "gs://bucket/runs/one")
    resumed = download(store, "runs/one/", tmp_path / "resumed")
    assert_same_run(uninterrupted, resumed, 4)

    figures = evaluate_checkpoint(config, "gs://bucket/runs/one")
    assert store.read("runs/one/eval-4.json") == store.read("runs/one/results.json")
    assert figures["val/i2t_r10"] > 0


@pytest.mark.slow
def test_damaged_checkpoint_is_named_and_the_previous_one_is_used(store, caplog):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    with Checkpointer("gs://bucket/run/checkpoints") as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"params": {"w": jax.device_put(values + step, sharding)}}, {})
    largest = max(store.names("run/checkpoints/00000002/state"), key=lambda n: len(store.read(n)))
    damaged = bytearray(store.read(largest))
    damaged[len(damaged) // 2] ^= 1
    store.put("bucket", largest, bytes(damaged))
    with caplog.at_level(logging.WARNING):
        found = checkpointing.find_checkpoint("gs://bucket/run")
    assert found == epath.Path("gs://bucket/run/checkpoints/00000001")
    assert "SHA-256" in caplog.text
    np.testing.assert_array_equal(checkpointing.restore_params(found)["w"], values + 1)


def test_records_are_the_local_ones(data, local_data):
    remote_source, source = RecordSource(data), RecordSource(local_data)
    assert len(remote_source) == EXAMPLES
    for index in (0, 23, 24, 47):
        assert remote_source[index] == source[index]
    np.testing.assert_array_equal(remote_source.annotated, source.annotated)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: None, "missing"),
        (lambda data: data[:-1], r"\d+ bytes, the manifest says \d+"),
    ],
)
def test_incomplete_folder_is_refused(store, data, damage, message):
    name = "data/scenes-00001-of-00002.array_record"
    damaged = damage(store.objects.pop(("bucket", name)).data)
    if damaged is not None:
        store.put("bucket", name, damaged)
    with pytest.raises(UserError, match=f"gs://bucket/{name}: {message}"):
        RecordSource(data)


def test_local_copy_is_made_once_and_continued(store, data, local_data, tmp_path):
    spec = f"records:{data}?cache={tmp_path}"
    source = open_source(spec)
    assert source[5] == RecordSource(local_data)[5]
    copy = tmp_path / "bucket" / "data"
    assert read_manifest(copy)["examples"] == EXAMPLES

    store.requests.clear()
    open_source(spec)
    assert not [r for r in store.requests if "download" in r and "array_record" in r]

    (copy / "manifest.json").unlink()  # stopped before the end, with one shard damaged
    shard = copy / "scenes-00000-of-00002.array_record"
    shard.write_bytes(bytes(shard.stat().st_size))
    store.requests.clear()
    assert open_source(spec)[0] == RecordSource(local_data)[0]
    fetched = {r for r in store.requests if "download" in r and "array_record" in r}
    assert fetched == {f"GET /download/storage/v1/b/bucket/o/data/{shard.name}"}


def test_local_copy_refuses(store, data, local_data, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="already local"):
        open_source(f"records:{local_data}?cache={tmp_path}")
    monkeypatch.setattr(local_copy, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(UserError, match=r"the copy needs [\d,]+ more bytes, [\d,]+ are free"):
        open_source(f"records:{data}?cache={tmp_path}")
    monkeypatch.undo()
    name = "data/scenes-00001-of-00002.array_record"
    store.put("bucket", name, bytes(len(store.read(name))))
    with pytest.raises(UserError, match="not match the manifest's SHA-256"):
        open_source(f"records:{data}?cache={tmp_path}")
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("manifest.json"))


def test_metrics_reach_the_bucket_at_a_flush_and_are_continued(store):
    path = "gs://bucket/run"
    with MetricsWriter(path, first_step=0, tensorboard=False) as writer:
        writer.write(1, {"loss": 2.0})
        writer.flush()
        assert store.read("run/metrics.jsonl") == b'{"step": 1, "loss": 2.0}\n'
        writer.write(2, {"loss": 1.0})
    assert store.read("run/metrics.jsonl").count(b"\n") == 2
    with MetricsWriter(path, first_step=1, tensorboard=False) as writer:
        writer.write(2, {"loss": 0.5})
    curves = read_curves(f"{path}/metrics.jsonl")
    np.testing.assert_array_equal(curves["loss"].values, [2.0, 0.5])


def test_mirror_names_its_local_files_if_the_bucket_refuses_them(store, caplog):
    mirror = remote.Mirror(epath.Path("gs://bucket/run"), period_s=0)
    (mirror.folder / "metrics.jsonl").write_text("1\n")
    store.refuse = "POST"
    mirror.tick()
    mirror._thread.submit(lambda: None).result()
    mirror.tick()
    assert "will be retried" in caplog.text
    with pytest.raises(Exception, match="Forbidden"):
        mirror.close()
    assert f"remain in {mirror.folder}" in caplog.text
    assert (mirror.folder / "metrics.jsonl").read_text() == "1\n"
    (mirror.folder / "metrics.jsonl").unlink()
    mirror.folder.rmdir()


def test_files_of_other_processes_are_visible(store):
    folder = remote.as_path("gs://bucket/run")
    assert not folder.exists()
    store.put("bucket", "run/a", b"1")
    assert [path.name for path in folder.iterdir()] == ["a"]
    store.put("bucket", "run/b", b"2")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_remote_vocabulary(store):
    store.put(
        "bucket", "vocab.txt", "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lemon"]).encode()
    )
    assert load_tokenizer("gs://bucket/vocab.txt").vocab_size >= 5
    with pytest.raises(UserError, match=r"gs://bucket/none\.txt does not exist"):
        load_tokenizer("gs://bucket/none.txt")


def test_file_is_replaced_atomically(store):
    atomic_write_text("gs://bucket/run/a.json", "ü")
    atomic_write_text("gs://bucket/run/a.json", "ö")
    assert store.names("run") == ["run/a.json"]
    assert store.read("run/a.json") == "ö".encode()


@pytest.mark.parametrize("path", ["s3://bucket/run", "gs://", "file:///tmp/run"])
def test_other_stores_are_refused(path):
    with pytest.raises(UserError, match=f"'{path}': give a local path or gs://BUCKET/FOLDER"):
        remote.as_path(path)


def test_client_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'timix-jax\[gcs\]'"):
        remote.as_path("gs://bucket/run")
    assert remote.as_path("runs/demo") == epath.Path("runs/demo")


def test_bucket_that_cannot_be_read_is_one_line(store):
    said = r"--workdir=gs://other/run: bucket gs://other cannot be"
    with pytest.raises(UserError, match=said) as missing:
        train_and_evaluate(tiny_config(2), "gs://other/run")
    store.refuse = "GET"
    with pytest.raises(UserError, match=r"cannot be read \(Forbidden") as forbidden:
        evaluate_checkpoint(tiny_config(2), "gs://bucket/run")
    assert missing.value.exit_code == forbidden.value.exit_code == USER_ERROR_CODE


def test_bucket_that_may_answer_later(monkeypatch):
    class Silent:
        def iterdir(self):
            raise ConnectionError("no route to host")

    monkeypatch.setattr(remote.epath, "Path", lambda text: Silent())
    with pytest.raises(RunError, match=r"cannot be read \(no route to host\)"):
        remote.check_reachable("gs://bucket/run", "--workdir=")

"""Checkpoints that a running training deletes while another program reads them."""

import shutil

import pytest
from checkpoint_states import abstract, assert_same, make_state, two_checkpoints
from etils import epath

from timix_jax import checkpointing
from timix_jax.checkpointing import checksums, step_folders
from timix_jax.errors import RunError, UserError


def delete(folder, *, half=False):
    """Delete a step in the order of `delete_old`; `half` leaves its data as if that went on."""
    (folder / checksums.MANIFEST_FILE).unlink()
    if not half:
        shutil.rmtree(folder)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_newest_that_is_still_there_is_read(tmp_path, fails, half):
    newest = two_checkpoints(tmp_path)
    read = []

    def load(found):
        read.append(int(found.name))
        if len(read) == 1:
            delete(newest, half=half)
            if fails:
                raise ValueError("holds no params")
        return checkpointing.restore_params(found, abstract(make_state().params))

    # What was read without an error may lack files too: it is not used either.
    assert_same(checkpointing.read_newest(tmp_path, load), make_state(seed=1).params)
    assert read == [2, 1]


def test_errors_about_a_checkpoint_that_is_there_are_not_retried(tmp_path):
    two_checkpoints(tmp_path)
    read = []

    def load(found):
        read.append(found.name)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        checkpointing.read_newest(tmp_path, load)
    assert read == ["00000002"]


def test_a_step_that_was_named_is_not_replaced(tmp_path):
    newest = two_checkpoints(tmp_path)
    with pytest.raises(RunError, match="00000002 was deleted while it was read: give one that"):
        checkpointing.read_newest(newest, lambda found: delete(newest))
    with pytest.raises(UserError, match=r"00000002 cannot be used: the folder does not exist"):
        checkpointing.read_newest(newest, str)


def test_steps_that_are_deleted_faster_than_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpointing.lookup, "find_checkpoint", lambda path: epath.Path(path) / "7"
    )
    with pytest.raises(RunError, match="7 was deleted while it was read"):
        checkpointing.read_newest(tmp_path, str)


def test_all_listed_steps_are_deleted_while_they_are_verified(tmp_path, monkeypatch, caplog):
    """Two newer ones have appeared meanwhile; nothing is said about those that are gone."""
    two_checkpoints(tmp_path)
    later = [tmp_path / "00000003", tmp_path / "00000004"]
    problems = checksums.problems

    def slow(folder):
        if folder.name == "00000002" and not later[0].exists():
            for path in later:
                shutil.copytree(folder, path)
            for name in ("00000001", "00000002"):
                delete(tmp_path / name)
        return problems(folder)

    monkeypatch.setattr(checksums, "problems", slow)
    assert step_folders.find_latest(epath.Path(tmp_path)).step == 4
    assert not caplog.messages


def test_a_file_that_is_deleted_between_its_size_and_its_content(tmp_path, monkeypatch):
    newest = two_checkpoints(tmp_path)
    size_and_sum = checksums._size_and_sum

    def vanishing(path):
        path.unlink(missing_ok=True)
        return size_and_sum(path)

    monkeypatch.setattr(checksums, "_size_and_sum", vanishing)
    assert all(problem.endswith(": missing") for problem in checksums.problems(newest))
    assert checksums.problems(tmp_path / "none") == ["the folder does not exist"]

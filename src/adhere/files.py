"""Files written whole or not at all.

`whole_file`, `whole_folder`, `write_text_atomic` and `write_json_atomic` replace it in one step: a reader, or a run that was
killed, finds the old content or the new, never a part. `append_whole` and `append_line` add to the end of a file, and
leave it as it was when the disk fills up. Everything is on the disk (fsync) when they return.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adhere.errors import RunFolderError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to beside `path`; when the block ends well, it takes the place of `path` in one step.

    For what other libraries write (`safetensors.torch.save_file(tensors, part)`). When the block raises, `path` is as
    it was.

    Raises:
        RunFolderError: the file cannot be written (no space left, no permission, ...).
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, part: Path | None = None) -> Iterator[Path]:
    """Give a folder to fill beside `path`; when the block ends well, everything in it is on the disk and it becomes `path`.

    A `path` that is there already is removed just before. When the block raises, it is as it was; a killed process leaves
    the part, which the next one begins anew.

    Args:
        part: what the folder is called until then.

    Raises:
        RunFolderError: it cannot be written (no space left, no permission, ...).
    """
    part = part or path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        force_to_disk(part)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
        _sync(path.parent)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        if (of_disk := disk_error(error)) is not None:
            raise cannot_write(path, of_disk) from error
        raise


def force_to_disk(folder: Path) -> None:
    """Force everything in a folder, and the folder itself, to the disk. Raises RunFolderError when that fails."""
    try:
        for path in [*folder.rglob("*"), folder, folder.parent]:
            _sync(path)
    except OSError as error:
        raise cannot_write(folder, error) from error


_TORCH_CANNOT = ("PytorchStreamWriter failed", "iostream error", "unexpected pos")
"""What torch's writer of checkpoints says, depending on where in a file the disk was full."""


def disk_error(error: BaseException) -> OSError | None:
    """What the operating system said where a library reports in its own words that a file could not be written.

    None for an error that has nothing to do with the disk.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error if error.errno in (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS) else None
    said = str(error)
    for number in (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS):
        if os.strerror(number) in said:
            return OSError(number, os.strerror(number))
    # torch does not say why: a full disk is why.
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if any(words in said for words in _TORCH_CANNOT) else None


def write_text_atomic(path: Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8, line ends as they are), whole or not at all.

    Raises:
        RunFolderError: the file cannot be written; its old content stands.
    """
    content = text.encode("utf-8")
    with whole_file(path) as part:
        part.write_bytes(content)


def write_json_atomic(path: Path, value: object) -> None:
    """Replace the content of `path` by `value` as JSON that any reader takes (no NaN), whole or not at all.

    Raises:
        RunFolderError: the file cannot be written; its old content stands.
        ValueError: `value` holds NaN or an infinity. TypeError: it holds something JSON has no form for.
    """
    write_text_atomic(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def append_whole(path: Path, content: bytes) -> None:
    """Add `content` to the end of `path`, made if missing; when that fails the file is cut back to what it was.

    A process killed in the middle may leave a part of `content`: the reader drops it (`sample_store`, `append_line`).

    Raises:
        RunFolderError: the file cannot be written (no space left, no permission, ...).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            end = os.fstat(descriptor).st_size
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            except BaseException:  # Ctrl-C too: half a batch must not stay
                with suppress(OSError):
                    os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Add one line to a text file, first removing a last line that a killed process left without its end.

    Raises:
        RunFolderError: the file cannot be written.
        ValueError: `line` holds a line feed.
    """
    if "\n" in line:
        raise ValueError(f"append_line takes one line, got {line.count(chr(10)) + 1}: {line[:60]!r}")
    cut_torn_line(path)
    append_whole(path, line.encode("utf-8") + b"\n")


def cut_torn_line(path: Path) -> None:
    """Cut `path` back to its last line feed; nothing happens when it ends with one, is empty or missing.

    Raises:
        RunFolderError: the file cannot be written.
    """
    try:
        with open(path, "r+b") as stream:
            end = size = stream.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - 65536)
                stream.seek(start)
                newline = stream.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            if end < size:
                stream.truncate(end)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunFolderError:
    """The error for a person whose `path` could not be written: what happened, what was kept, what to do."""
    if error.errno in _FULL:
        return RunFolderError(
            f"no space left to write {path}: free some (or raise the quota) and resume; everything before it is kept"
        )
    return RunFolderError(
        f"cannot write {path}: {error.strerror or error}; everything before it is kept: mend that, or choose another "
        "output folder"
    )


def _sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

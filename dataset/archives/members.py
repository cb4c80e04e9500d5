"""List the files inside of tar and zip archives: names, and where their bytes are."""

import os
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of name and extra field
SPECIAL = "links and special files"
ENCRYPTED = 1  # bit of a zip member's flags


class Member(NamedTuple):
    """A regular file inside of an archive."""

    name: str
    start: int  # first byte in the archive
    size: int  # bytes in the archive
    deflated: bool = False


def tar_members(
    path: Path, passed_over: Counter[str], start: int = 0, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Member]:
    """The files of a tar archive, or of one that begins at byte `start` inside of another file.

    A hard link has the place of its target. passed_over: counts symbolic links and special files.
    advance: called with the number of bytes that were passed. Raises UserError for a damaged or compressed archive.
    """
    done, targets = start, {}
    try:
        with path.open("rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                total = os.fstat(file.fileno()).st_size
                for member in archive:
                    archive.members = []  # tarfile would keep them all
                    end = member.offset_data + (member.size if member.isreg() else 0)
                    if end > total:
                        raise tarfile.ReadError(f"it ends before byte {end}")
                    advance(end - done)
                    done = end
                    if member.isreg() and not member.issparse():
                        targets[member.name] = Member(member.name, member.offset_data, member.size)
                        yield targets[member.name]
                    elif member.islnk() and member.linkname in targets:
                        targets[member.name] = targets[member.linkname]._replace(name=member.name)
                        yield targets[member.name]
                    elif not member.isdir():
                        passed_over[SPECIAL] += 1
                # tarfile takes a damaged header for the end of the archive.
                if os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"it is cut off or damaged at byte {archive.offset}")
    except tarfile.ReadError as error:
        hint = "; in a compressed one no image can be found: undo the compression"
        raise UserError(f"{path} cannot be read as a tar archive ({error}){hint}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def zip_members(path: Path, advance: Callable[[int], None] = lambda _: None) -> Iterator[Member]:
    """The files of a zip archive. Raises UserError if it is damaged, encrypted or compressed in a rare way."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                if member.flag_bits & ENCRYPTED:
                    raise UserError(f"{path}: {member.filename} is encrypted; unpack the archive")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(f"{path}: {member.filename} is neither stored nor deflated; pack the archive so")
                header = os.pread(file.fileno(), LOCAL_HEADER.size, member.header_offset)
                signature, *lengths = LOCAL_HEADER.unpack(header)
                start = member.header_offset + LOCAL_HEADER.size + sum(lengths)
                if signature != b"PK\3\4":
                    raise zipfile.BadZipFile(f"{member.filename} is not where the table of contents says")
                advance(member.compress_size)
                yield Member(member.filename, start, member.compress_size, member.compress_type == zipfile.ZIP_DEFLATED)
    except (OSError, zipfile.BadZipFile, struct.error, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as a zip archive ({error})") from error

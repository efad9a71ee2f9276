"""Whether bytes are the beginning of a DICOM file."""

from __future__ import annotations

HEAD = 132
_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x08")  # file meta; identification, little and big endian
_LONGEST = 0x1000  # bytes of the first element of a file without preamble


def dicom_kind(head: bytes) -> str:
    """``marked``: with preamble and DICM; ``bare``: elements from the first byte on; else empty.

    Scanners before 1993, and programs that cut the preamble off, write bare files. The first
    element of one belongs to group 0002 or 0008, and has a value representation of two capitals
    or a short, even length.

    Args:
        head: the first ``HEAD`` bytes, or more.
    """
    if head[128:132] == b"DICM":
        return "marked"
    if len(head) < 16 or head[:2] not in _GROUPS:
        return ""
    order = "big" if head[0] == 0 else "little"
    element = int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
    if element > 0x0100:
        return ""
    if head[4:6].isalpha() and head[4:6].isupper():
        return "bare"
    length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
    return "bare" if length % 2 == 0 and length <= _LONGEST and any(head[8:16]) else ""

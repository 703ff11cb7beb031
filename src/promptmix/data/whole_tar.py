"""Tar files that are whole or refused: Python's own reader takes whatever is damaged for the end, and walks in circles."""

from __future__ import annotations

import tarfile

__all__ = ["WholeTar"]


class WholeTar(tarfile.TarFile):
    """A tar file whose members follow one another up to the mark at its end.

    Raises:
        tarfile.ReadError: while its members are read: one has a negative size or leads back, or what comes after the last is not
            the mark, so that the file is cut off or damaged there.
    """

    def next(self) -> tarfile.TarInfo | None:
        if self.firstmember is not None:  # type: ignore[attr-defined]  # read when the file was opened
            return super().next()
        start = self.offset
        member = super().next()
        if member is None:
            self._refuse_missing_end()
        elif member.size < 0 or self.offset <= start:
            raise tarfile.ReadError(f"the member at byte {start:,} has a negative size")
        return member

    def _refuse_missing_end(self) -> None:
        assert self.fileobj is not None
        self.fileobj.seek(self.offset)
        # Two blocks of zeros; some writers leave it at one.
        mark = self.fileobj.read(2 * tarfile.BLOCKSIZE)
        if len(mark) < tarfile.BLOCKSIZE or any(mark):
            raise tarfile.ReadError(f"at byte {self.offset:,} is neither a member nor the end")

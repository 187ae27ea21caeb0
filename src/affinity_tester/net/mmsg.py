"""Datagrams by the batch: recvmmsg(2) and sendmmsg(2), which Python's sockets lack, through ctypes.

One system call for up to 64 datagrams saves the server about a fifth of its CPU per reply beside `recvfrom` and
`sendto` (docs/performance.md). 64-bit Linux alone; `is_available` says whether it works here.

A slot of the buffers, for either direction, holds a datagram with its peer before it:

    sockaddr_in (16 bytes) or sockaddr_in6 (28)  ||  datagram (up to 65,507 bytes)
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

SIZE = 64
"""Datagrams of one batch: past it a system call's own cost no longer shows."""

_STRIDE = 65_536 + 512
"""Bytes of a slot: any datagram fits. Not a power of two, or the slots' first lines would share one set of the caches."""

_NAME_SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}

_IOVEC = struct.Struct("@PN")
_MMSGHDR = struct.Struct("@PI4xPNPNi4xI4x")
"""struct msghdr (name, its length, iovec, their number, control, its length, flags) and the datagram's length."""
_LENGTH = struct.Struct("@56xI4x")
"""An `_MMSGHDR`, of which the length alone counts."""

Start = tuple[bytes, bytes, bytes, bytes, bytes]
"""A datagram's peer (its sockaddr), and of the datagram the first 8 bytes, 8 more, and twice 4 more."""

Started = tuple[int, Start, tuple[int]]
"""A received datagram: its index in the batch, how it starts, and its (length,)."""


def is_available() -> bool:
    """Whether this system has the calls, and lets them be made (a sandbox's filter may not)."""
    if sys.platform != "linux" or struct.calcsize("P") != 8:  # noqa: PLR2004 - the structs here are those of 64 bits
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        batch = Batch(socket.AF_INET)
        try:
            batch.send(sock.fileno(), 0, 0)
            batch.receive(sock.fileno())
        except BlockingIOError:  # as it must be: nothing was sent there
            return True
        except (OSError, AttributeError):
            return False
    return False


@functools.cache
def _functions() -> tuple[Any, Any]:
    """The C library's recvmmsg and sendmmsg. Raises `AttributeError` where it lacks them."""
    library = ctypes.CDLL(None, use_errno=True)
    receive, send = library.recvmmsg, library.sendmmsg
    receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return receive, send


def _checked(result: int) -> int:
    """A system call's result. Raises `OSError` for a negative one."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _address(buffer: bytearray | mmap.mmap) -> int:
    """Where a buffer is in memory; it stays there while the buffer lives, since it can then not be resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class _Buffer:
    """The slots of one direction, and the headers that describe them to the kernel."""

    def __init__(self, name_size: int) -> None:
        # Anonymous memory: pages that no datagram reaches are never there.
        self.slots = mmap.mmap(-1, SIZE * _STRIDE)
        self._iovecs = bytearray(SIZE * _IOVEC.size)
        self.headers = bytearray(SIZE * _MMSGHDR.size)
        self.address = _address(self.headers)
        slots, iovecs = _address(self.slots), _address(self._iovecs)
        for index in range(SIZE):
            slot, iovec = slots + index * _STRIDE, index * _IOVEC.size
            _IOVEC.pack_into(self._iovecs, iovec, slot + name_size, _STRIDE - name_size)
            header = (slot, name_size, iovecs + iovec, 1, 0, 0, 0, 0)
            _MMSGHDR.pack_into(self.headers, index * _MMSGHDR.size, *header)

    def set_length(self, index: int, length: int) -> None:
        """How long the datagram in a slot is."""
        ctypes.c_size_t.from_buffer(self._iovecs, index * _IOVEC.size + 8).value = length


class Batch:
    """Room for one batch in each direction, for the sockets of one address family. Not for two threads at once."""

    def __init__(self, family: int) -> None:
        self._recvmmsg, self._sendmmsg = _functions()
        self.name_size = _NAME_SIZES[socket.AddressFamily(family)]
        """Bytes of a peer."""
        self._received = _Buffer(self.name_size)
        self._start = struct.Struct(f"={self.name_size}s8s8s4s4s{_STRIDE - self.name_size - 24}x")
        self._view = memoryview(self._received.slots)
        self._headers = memoryview(self._received.headers)
        self._out = _Buffer(self.name_size)
        self.lengths = [0] * SIZE
        """How long the datagrams to send are; `set_length` changes it."""
        self.out = self._out.slots
        """Where datagrams to send are written: the one of `index` (its peer first) at `index * stride`."""
        self.stride = _STRIDE

    def receive(self, fd: int) -> int:
        """Receive what is queued at a non-blocking socket; returns how many datagrams. Raises `OSError`."""
        return _checked(self._recvmmsg(fd, self._received.address, SIZE, 0, None))

    def starts(self, count: int) -> Iterator[Started]:
        """Of each datagram just received: its index, how it starts (past its end: anything), and its (length,)."""
        starts: Iterator[Any] = self._start.iter_unpack(self._view[: count * _STRIDE])
        lengths: Iterator[Any] = _LENGTH.iter_unpack(self._headers[: count * _LENGTH.size])
        return zip(range(count), starts, lengths, strict=True)

    def datagram(self, index: int, size: int) -> bytes:
        """One of those just received, as a whole."""
        start = index * _STRIDE + self.name_size
        return self._received.slots[start : start + size]

    def put(self, index: int, peer: bytes, datagram: bytes) -> None:
        """Write one to send."""
        at = index * _STRIDE
        self.out[at : at + self.name_size + len(datagram)] = peer + datagram
        self.set_length(index, len(datagram))

    def sent_start(self, index: int, size: int) -> bytes:
        """The first bytes of one to send."""
        start = index * _STRIDE + self.name_size
        return self.out[start : start + size]

    def set_length(self, index: int, length: int) -> None:
        """Say how long the datagram is that was written into `out`."""
        self.lengths[index] = length
        self._out.set_length(index, length)

    def send(self, fd: int, first: int, end: int) -> int:
        """Send those from `first` to before `end`; returns how many went. Raises `OSError` when the first one failed."""
        return _checked(self._sendmmsg(fd, self._out.address + first * _MMSGHDR.size, end - first, 0))


def peer_ip(name_size: int) -> slice:
    """Where the IP address is in a sockaddr of so many bytes."""
    return slice(4, 8) if name_size == _NAME_SIZES[socket.AF_INET] else slice(8, 24)


def peer_address(peer: bytes) -> tuple[str, int]:
    """A sockaddr_in's or sockaddr_in6's (IP address, port)."""
    port = int.from_bytes(peer[2:4], "big")
    family = socket.AF_INET if len(peer) == _NAME_SIZES[socket.AF_INET] else socket.AF_INET6
    return socket.inet_ntop(family, peer[peer_ip(len(peer))]), port

"""Datagrams by the batch: recvmmsg(2) and sendmmsg(2), which Python's sockets lack, through ctypes.

One system call for up to 64 datagrams saves the server about a fifth of its CPU per reply beside `recvfrom` and
`sendto` (docs/performance.md). 64-bit Linux alone; `is_available` says whether it works here.

A received datagram lies in a slot of its own, with its peer before it:

    sockaddr_in (16 bytes) or sockaddr_in6 (28)  ||  datagram (up to 65,507 bytes)

Those to send lie one after the other, and so do their peers.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import socket
import struct
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

SIZE = 64
"""Datagrams of one batch: past it a system call's own cost no longer shows."""

_STRIDE = 65_536 + 512
"""Bytes of a slot: any datagram fits. Not a power of two, or the slots' first lines would share one set of the caches."""

_LARGEST = 65_535
"""Bytes of a UDP datagram at most."""

_NAME_SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}

_IOVEC = struct.Struct("@PN")
_MMSGHDR = struct.Struct("@PI4xPNPNi4xI4x")
"""struct msghdr (name, its length, iovec, their number, control, its length, flags) and the datagram's length."""

_LENGTHS = tuple(struct.Struct("@" + "56xI4x" * count) for count in range(SIZE + 1))
"""So many of `_MMSGHDR`, of which the lengths alone count."""

Address = tuple[Any, ...]
"""(IP address, port), and for IPv6 flow label and scope."""

Datagram = tuple[bytes, bytes]
"""A peer (its sockaddr) and what came from there."""


def is_available() -> bool:
    """Whether this system has the calls, and lets them be made (a sandbox's filter may not)."""
    if sys.platform != "linux" or struct.calcsize("P") != 8:  # noqa: PLR2004 - the structs here are those of 64 bits
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        batch = Batch(socket.AF_INET, 1)
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


class _Headers:
    """The message headers and iovecs of one direction, which describe a batch to the kernel."""

    def __init__(self, name_size: int, first_name: int, name_stride: int) -> None:
        self.iovecs = bytearray(SIZE * _IOVEC.size)
        self.headers = bytearray(SIZE * _MMSGHDR.size)
        self.address = _address(self.headers)
        iovecs = _address(self.iovecs)
        for index in range(SIZE):
            header = (first_name + index * name_stride, name_size, iovecs + index * _IOVEC.size, 1, 0, 0, 0, 0)
            _MMSGHDR.pack_into(self.headers, index * _MMSGHDR.size, *header)

    def place(self, first: int, lengths: Iterable[int]) -> None:
        """Say that datagrams of these lengths lie one after the other from an address on."""
        lengths = tuple(lengths)
        pairs = zip(accumulate(lengths, initial=first), lengths, strict=False)
        packed = array("Q", chain.from_iterable(pairs)).tobytes()
        self.iovecs[: len(packed)] = packed


class Batch:
    """Room for one batch in each direction, for the sockets of one address family. Not for two threads at once."""

    def __init__(self, family: int, max_peers: int) -> None:
        """Keep the addresses of so many peers decoded; one takes some 300 bytes."""
        self._max_peers = max_peers
        self.addresses: OrderedDict[bytes, Address] = OrderedDict()
        """By sockaddr, as Python's sockets have them; `decode` adds to them."""
        self._recvmmsg, self._sendmmsg = _functions()
        self.name_size = _NAME_SIZES[socket.AddressFamily(family)]
        """Bytes of a peer."""
        # Anonymous memory: pages that no datagram reaches are never there.
        self._slots = mmap.mmap(-1, SIZE * _STRIDE)
        self._view = memoryview(self._slots)
        slots = _address(self._slots)
        self._in = _Headers(self.name_size, slots, _STRIDE)
        room = _STRIDE - self.name_size
        self._in.iovecs[:] = array(
            "Q", chain.from_iterable((slots + index * _STRIDE + self.name_size, room) for index in range(SIZE))
        ).tobytes()
        self._names = bytearray(SIZE * self.name_size)
        self._out = mmap.mmap(-1, SIZE * (_LARGEST + 1))
        self._out_address = _address(self._out)
        self._headers = _Headers(self.name_size, _address(self._names), self.name_size)
        self._placed_size = -1
        """The size of all datagrams to send for which the headers are right; -1 when the sizes differ."""
        self._reader_of: Callable[[int], struct.Struct] = functools.lru_cache(maxsize=256)(self._reader)

    def receive(self, fd: int) -> int:
        """Receive what is queued at a non-blocking socket; returns how many datagrams. Raises `OSError`."""
        return _checked(self._recvmmsg(fd, self._in.address, SIZE, 0, None))

    def received(self, count: int) -> Iterable[Datagram]:
        """The datagrams just received; where all are of one size it takes a single pass in C."""
        lengths = _LENGTHS[count].unpack_from(self._in.headers)
        size = lengths[0]
        if lengths.count(size) == count:
            return self._reader_of(size).iter_unpack(self._view[: count * _STRIDE])
        reader_of, view = self._reader_of, self._view
        starts = range(0, count * _STRIDE, _STRIDE)
        return [reader_of(size).unpack_from(view, at) for size, at in zip(lengths, starts, strict=True)]

    def decode(self, peer: bytes) -> Address:
        """The address of a peer that is not among `addresses`; it takes the place of the oldest one there."""
        if len(self.addresses) >= self._max_peers:
            self.addresses.popitem(last=False)
        address = self.addresses[peer] = peer_address(peer)
        return address

    def put(self, peers: Sequence[bytes], datagrams: Sequence[bytes | bytearray | memoryview]) -> None:
        """Take up to 64 datagrams to send."""
        self._names[: len(peers) * self.name_size] = b"".join(peers)
        data = b"".join(datagrams)
        self._out[: len(data)] = data
        size = len(datagrams[0])
        lengths = list(map(len, datagrams))
        if lengths.count(size) != len(lengths):
            self._headers.place(self._out_address, lengths)
            self._placed_size = -1
        elif self._placed_size != size:
            self._headers.place(self._out_address, (size,) * SIZE)
            self._placed_size = size

    def send(self, fd: int, first: int, end: int) -> int:
        """Send those from `first` to before `end`; returns how many went. Raises `OSError` when the first one failed."""
        return _checked(self._sendmmsg(fd, self._headers.address + first * _MMSGHDR.size, end - first, 0))

    def _reader(self, size: int) -> struct.Struct:
        """Reads (peer, datagram) of so many bytes from a slot."""
        return struct.Struct(f"={self.name_size}s{size}s{_STRIDE - self.name_size - size}x")


def peer_address(peer: bytes) -> Address:
    """A sockaddr_in's (IP address, port), or a sockaddr_in6's (IP address, port, flow label, scope), as Python's sockets."""
    port = int.from_bytes(peer[2:4], "big")
    if len(peer) == _NAME_SIZES[socket.AF_INET]:
        return socket.inet_ntop(socket.AF_INET, peer[4:8]), port
    flow, scope = int.from_bytes(peer[4:8], "big"), int.from_bytes(peer[24:28], sys.byteorder)
    return socket.inet_ntop(socket.AF_INET6, peer[8:24]), port, flow, scope

"""Sends and receives datagrams in batches with recvmmsg(2) and sendmmsg(2), which Python's sockets lack, through ctypes.

One system call for up to 64 datagrams saves the server about a fifth of its CPU time per reply, compared with `recvfrom` and
`sendto` (docs/performance.md). It works on 64-bit Linux only; `is_available` checks that.

Each received datagram has a slot of its own, with its peer's sockaddr first:

    sockaddr_in (16 bytes) or sockaddr_in6 (28)  ||  datagram (up to 65,507 bytes)

Datagrams to send lie one after the other, and so do their peers' sockaddrs.
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

BATCH_SIZE = 64
"""The most datagrams of one batch. With more, a system call's share of the cost is no longer measurable."""

_SLOT_SIZE = 65_536 + 512
"""Bytes of a slot, which fits any datagram.

With a power of two, the first bytes of all slots would fall into the same cache set.
"""

_MAX_DATAGRAM = 65_535
"""The largest UDP datagram, in bytes."""

_NAME_SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}

_IOVEC = struct.Struct("@PN")
_MMSGHDR = struct.Struct("@PI4xPNPNi4xI4x")
"""struct mmsghdr: a msghdr (name, namelen, iov, iovlen, control, controllen, flags) and the datagram's length."""

_LENGTHS = tuple(struct.Struct("@" + "56xI4x" * count) for count in range(BATCH_SIZE + 1))
"""Read only the datagrams' lengths out of an array of mmsghdr, by the number of its elements."""

Address = tuple[Any, ...]
"""(IP address, port), and for IPv6 also flow label and scope."""

Datagram = tuple[bytes, bytes]
"""A peer's sockaddr, and the datagram that came from it."""


def is_available() -> bool:
    """True if this system has the calls and permits them (a sandbox may not)."""
    if sys.platform != "linux" or struct.calcsize("P") != 8:  # noqa: PLR2004 - the structs here are those of 64 bits
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        batch = Batch(socket.AF_INET, 1)
        try:
            batch.send(sock.fileno(), 0, 0)
            batch.receive(sock.fileno())
        except BlockingIOError:  # as expected, since nothing was sent to the socket
            return True
        except (OSError, AttributeError):
            return False
    return False


@functools.cache
def _functions() -> tuple[Any, Any]:
    """Return the C library's recvmmsg and sendmmsg. Raise `AttributeError` if it has none."""
    library = ctypes.CDLL(None, use_errno=True)
    receive, send = library.recvmmsg, library.sendmmsg
    receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return receive, send


def _checked(result: int) -> int:
    """Return a system call's result. Raise `OSError` if it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _address(buffer: bytearray | mmap.mmap) -> int:
    """Return a buffer's address in memory. It never moves, since a buffer that ctypes has exported cannot be resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class _Headers:
    """The mmsghdrs and iovecs of one direction, which describe a batch to the kernel."""

    def __init__(self, name_size: int, first_name: int, name_stride: int) -> None:
        self.iovecs = bytearray(BATCH_SIZE * _IOVEC.size)
        self.headers = bytearray(BATCH_SIZE * _MMSGHDR.size)
        self.address = _address(self.headers)
        iovecs = _address(self.iovecs)

        for index in range(BATCH_SIZE):
            header = (first_name + index * name_stride, name_size, iovecs + index * _IOVEC.size, 1, 0, 0, 0, 0)
            _MMSGHDR.pack_into(self.headers, index * _MMSGHDR.size, *header)

    def describe(self, first: int, lengths: Iterable[int]) -> None:
        """Describe datagrams of these lengths that lie one after the other, the first at the address `first`."""
        lengths = tuple(lengths)
        pairs = zip(accumulate(lengths, initial=first), lengths, strict=False)
        packed = array("Q", chain.from_iterable(pairs)).tobytes()
        self.iovecs[: len(packed)] = packed


class Batch:
    """Buffers for one batch in each direction, for sockets of one address family. Not thread-safe."""

    def __init__(self, family: int, max_peers: int) -> None:
        """Keep the decoded addresses of up to `max_peers` peers, some 300 bytes each."""
        self._max_peers = max_peers
        self.addresses: OrderedDict[bytes, Address] = OrderedDict()
        """Decoded addresses by sockaddr, in the form of Python's socket module. `decode` adds to them."""
        self._recvmmsg, self._sendmmsg = _functions()
        self.name_size = _NAME_SIZES[socket.AddressFamily(family)]
        """Bytes of a sockaddr of this family."""
        # Anonymous memory: pages that no datagram ever reaches take no memory.
        self._slots = mmap.mmap(-1, BATCH_SIZE * _SLOT_SIZE)
        self._view = memoryview(self._slots)

        slots = _address(self._slots)
        self._receive_headers = _Headers(self.name_size, slots, _SLOT_SIZE)
        room = _SLOT_SIZE - self.name_size
        self._receive_headers.iovecs[:] = array(
            "Q", chain.from_iterable((slots + index * _SLOT_SIZE + self.name_size, room) for index in range(BATCH_SIZE))
        ).tobytes()

        self._send_names = bytearray(BATCH_SIZE * self.name_size)
        self._send_data = mmap.mmap(-1, BATCH_SIZE * (_MAX_DATAGRAM + 1))
        self._send_data_address = _address(self._send_data)
        self._send_headers = _Headers(self.name_size, _address(self._send_names), self.name_size)
        self._equal_size = -1
        """The size that the send headers describe for all datagrams; -1 if they describe datagrams of several sizes."""
        self._unpacker_of: Callable[[int], struct.Struct] = functools.lru_cache(maxsize=256)(self._unpacker)

    def receive(self, fd: int) -> int:
        """Receive the datagrams queued at a non-blocking socket; return how many they are. Raise `OSError`."""
        return _checked(self._recvmmsg(fd, self._receive_headers.address, BATCH_SIZE, 0, None))

    def received(self, count: int) -> Iterable[Datagram]:
        """Return the datagrams just received."""
        lengths = _LENGTHS[count].unpack_from(self._receive_headers.headers)
        size = lengths[0]
        # Nearly always all are of one size: then a single pass in C unpacks them.
        if lengths.count(size) == count:
            return self._unpacker_of(size).iter_unpack(self._view[: count * _SLOT_SIZE])

        unpacker_of, view = self._unpacker_of, self._view
        starts = range(0, count * _SLOT_SIZE, _SLOT_SIZE)
        return [unpacker_of(size).unpack_from(view, at) for size, at in zip(lengths, starts, strict=True)]

    def decode(self, peer: bytes) -> Address:
        """Decode the address of a peer that is not in `addresses`, and add it there in place of the oldest one."""
        if len(self.addresses) >= self._max_peers:
            self.addresses.popitem(last=False)
        address = self.addresses[peer] = peer_address(peer)
        return address

    def load(self, peers: Sequence[bytes], datagrams: Sequence[bytes | bytearray | memoryview]) -> None:
        """Copy up to 64 datagrams and their peers into the send buffers."""
        self._send_names[: len(peers) * self.name_size] = b"".join(peers)
        data = b"".join(datagrams)
        self._send_data[: len(data)] = data

        # The headers are only written where the sizes have changed since the last batch.
        size = len(datagrams[0])
        lengths = list(map(len, datagrams))
        if lengths.count(size) != len(lengths):
            self._send_headers.describe(self._send_data_address, lengths)
            self._equal_size = -1
        elif self._equal_size != size:
            self._send_headers.describe(self._send_data_address, (size,) * BATCH_SIZE)
            self._equal_size = size

    def send(self, fd: int, first: int, end: int) -> int:
        """Send the datagrams from `first` to before `end`; return how many were sent. Raise `OSError` if the first failed."""
        return _checked(self._sendmmsg(fd, self._send_headers.address + first * _MMSGHDR.size, end - first, 0))

    def _unpacker(self, size: int) -> struct.Struct:
        """Return the struct that unpacks (sockaddr, datagram of `size` bytes) from a slot."""
        return struct.Struct(f"={self.name_size}s{size}s{_SLOT_SIZE - self.name_size - size}x")


def peer_address(peer: bytes) -> Address:
    """Decode a sockaddr_in to (IP address, port), or a sockaddr_in6 to (IP address, port, flow label, scope)."""
    port = int.from_bytes(peer[2:4], "big")
    if len(peer) == _NAME_SIZES[socket.AF_INET]:
        return socket.inet_ntop(socket.AF_INET, peer[4:8]), port
    flow, scope = int.from_bytes(peer[4:8], "big"), int.from_bytes(peer[24:28], sys.byteorder)
    return socket.inet_ntop(socket.AF_INET6, peer[8:24]), port, flow, scope

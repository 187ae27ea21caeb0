"""Polls the sockets of all sessions as one, so that a wake-up costs one callback however many sessions were answered."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

from affinity_tester import clock
from affinity_tester.net.clock import wall_to_run_ns
from affinity_tester.net.session import Session


class SocketPoller:
    """All sessions' sockets in one epoll set; without epoll, each is registered with the event loop's own selector."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_guarded: Callable[[Callable[[], object]], None]) -> None:
        """Start with no sockets. `run_guarded` runs each callback and handles the exceptions it raises."""
        self._loop = loop
        self._run_guarded = run_guarded
        self._by_fd: list[Session | None] = []
        """Sessions by file descriptor. Descriptors are small numbers, and a list is faster than a dictionary here."""
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), run_guarded, self._read_ready)

    def add(self, session: Session) -> None:
        """Read this session's socket from now on."""
        fd = session.sock.fileno()
        self._by_fd += [None] * (fd + 1 - len(self._by_fd))
        self._by_fd[fd] = session

        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN)
        else:
            self._loop.add_reader(fd, self._run_guarded, session.read_until_empty)

    def remove(self, session: Session) -> None:
        """Stop reading this session's socket, which must still be open."""
        fd = session.sock.fileno()
        self._by_fd[fd] = None

        if self._epoll is not None:
            self._epoll.unregister(fd)
        else:
            self._loop.remove_reader(fd)

    def _read_ready(self) -> None:
        assert self._epoll is not None
        by_fd = self._by_fd
        to_run_ns = wall_to_run_ns()

        # Half of the sockets at most, then the timer runs: probes must leave on time, while the kernel has stamped the
        # replies already, so that they can wait.
        for fd, mask in self._epoll.poll(0, len(by_fd) // 2 + 1):
            session = by_fd[fd]
            if session is None:
                continue  # an earlier session of this round closed it
            if mask & select.EPOLLERR:
                session.drain_error_queue(clock.now_ns())
            if mask & select.EPOLLIN:
                session.read(to_run_ns)

    def close(self) -> None:
        """Stop reading all sockets."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        else:
            for fd, session in enumerate(self._by_fd):
                if session is not None:
                    self._loop.remove_reader(fd)

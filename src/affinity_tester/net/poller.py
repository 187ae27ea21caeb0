"""Reading for the client: the sockets of all sessions behind one callback, so that a wake-up costs once for all."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

from affinity_tester import clock
from affinity_tester.net.clock import wall_to_run_ns
from affinity_tester.net.session import Session


class Reader:
    """All sessions' sockets behind one callback: one epoll set where there is one, else the loop's own selector."""

    def __init__(self, loop: asyncio.AbstractEventLoop, guarded: Callable[[Callable[[], object]], None]) -> None:
        """`guarded` runs what is called on a wake-up, and keeps what it raises."""
        self._loop = loop
        self._guarded = guarded
        self._by_fd: list[Session | None] = []
        """By descriptor, which are small numbers: a list costs less than a dictionary where 10,000 are looked up in turn."""
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), guarded, self._read_ready)

    def add(self, session: Session) -> None:
        """Read this session's socket from now on."""
        fd = session.sock.fileno()
        self._by_fd += [None] * (fd + 1 - len(self._by_fd))
        self._by_fd[fd] = session
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN)
        else:
            self._loop.add_reader(fd, self._guarded, session.read_empty)

    def remove(self, session: Session) -> None:
        """Read it no more; its socket is still open."""
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
        # Then the timer has its turn: when sending is more than half an interval late it comes first, and replies can wait.
        for fd, mask in self._epoll.poll(0, len(by_fd) // 2 + 1):
            session = by_fd[fd]
            if session is None:
                continue  # closed by an earlier one of this batch
            if mask & select.EPOLLERR:
                session.hear_errors(clock.now_ns())
            if mask & select.EPOLLIN:
                session.read(to_run_ns)

    def close(self) -> None:
        """Read nothing any more."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        else:
            for fd, session in enumerate(self._by_fd):
                if session is not None:
                    self._loop.remove_reader(fd)

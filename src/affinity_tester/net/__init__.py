"""asyncio: the echo server, the client's sessions, the runner, the health port."""

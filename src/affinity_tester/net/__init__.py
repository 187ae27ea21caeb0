"""asyncio and sockets: the echo server, the client's sessions, the health port."""

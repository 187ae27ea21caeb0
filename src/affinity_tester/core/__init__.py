"""Pure: no clock, no socket, no asyncio, no logging. Time enters as `now_ns`, randomness as an argument."""

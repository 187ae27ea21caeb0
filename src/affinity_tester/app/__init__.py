"""What the commands do: run a client or a lab to its verdict, find the target, serve. No command line, no output."""

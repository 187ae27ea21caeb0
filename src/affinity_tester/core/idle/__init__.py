"""How long a flow may be silent: which silences are tried, what a sample comes to, and what the samples say together.

A *sample* is one flow on a socket of its own: it is brought into a state, is silent for the time of its *step*, and then
shows whether pod, port and address are the ones from before. All steps run at once; where one breaks off, a second round
tries finer steps.
"""

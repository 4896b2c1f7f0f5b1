"""The agent inside a guest that has a Python and cannot run a binary: standard library only, Python 3.8 or newer.

The same commands, line protocol (frames.py) and rules as the compiled agent's (agent.c): nothing is touched before a
`hello` has proved where we are, and a command is carried out once. Packed into one file and started in a guest
(variants.py); the harness itself never imports it.
"""

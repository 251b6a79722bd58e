"""One module for each peer, as an application that uses it has one.

Each has ``put(numbers)``, which puts a task for each number. They are imported only by
processes of the peer, in the environment in which it is installed.
"""

"""What spooler costs, measured beside the same loop written by hand.

Run ``python -m benchmarks`` from the root of the project. See docs/performance.md.
"""

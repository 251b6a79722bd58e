"""A child inside of uWSGI: what ``uwsgi --pyrun`` runs. Ends its instance.

uWSGI has taken stdout for its log: what the child says goes to descriptor 3.
"""

import sys

import uwsgi

try:
    from benchmarks.peers.child import main

    with open(3, "w", encoding="utf-8") as sys.stdout:
        main()
finally:
    uwsgi.stop()  # or its master would start this again

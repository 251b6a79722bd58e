"""Serve the guest book to the web without uWSGI; any WSGI server would do.

python -m spooler.ext.uwsgi --dir ~/guestbook/spool serve.py
"""

import os
from wsgiref.simple_server import make_server

os.environ.setdefault("GUESTBOOK_DATA", os.path.expanduser("~/guestbook"))

from guestbook import application

with make_server("127.0.0.1", int(os.environ.get("PORT", "8000")), application) as web:
    web.serve_forever()

"""The Django project of uwsgi-tasks' README."""

from uwsgi_tasks import set_uwsgi_callbacks

set_uwsgi_callbacks()

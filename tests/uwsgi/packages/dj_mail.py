"""A project that sends its mail with django-uwsgi."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dj_settings")
django.setup()

import django_uwsgi.tasks  # noqa: E402, F401

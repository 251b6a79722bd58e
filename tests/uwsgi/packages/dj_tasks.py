"""What a project with django-uwsgi-taskmanager imports in its spooler."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dj_settings")
django.setup()

import taskmanager.tasks  # noqa: E402, F401

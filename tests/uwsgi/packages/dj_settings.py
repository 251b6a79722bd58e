"""Settings of a Django project."""

import os

SECRET_KEY = "not one"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(os.environ["OUT"], "db"),
        "OPTIONS": {"timeout": 100},  # the tests look into it, too
    }
}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "taskmanager",
]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
MEDIA_ROOT = os.environ["OUT"]
EMAIL_BACKEND = "django_uwsgi.mail.EmailBackend"
UWSGI_EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = os.path.join(os.environ["OUT"], "mails")

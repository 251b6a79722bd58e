"""Ask for the page of the Django project, as its web server does."""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "my_project.settings"

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from django.test import Client  # noqa: E402
from told import say  # noqa: E402

say(Client().get("/").content.decode())

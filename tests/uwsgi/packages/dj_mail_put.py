"""Send a mail."""

import dj_mail  # noqa: F401
from django.core.mail import send_mail
from told import say

say("sent", send_mail("subject", "text", "a@b.c", ["d@e.f"]))

"""Its tasks."""

from django.core.mail import send_mail
from uwsgi_tasks import TaskExecutor, task


@task(executor=TaskExecutor.SPOOLER)
def send_email_async(subject, body, email_to):
    return send_mail(subject, body, "noreply@example.org", [email_to])

"""What its administrator does."""

import os
from datetime import timedelta

import dj_tasks  # noqa: F401
from django.core.management import call_command
from django.utils import timezone
from taskmanager.models import AppCommand, Task
from told import say

call_command("migrate", verbosity=0)
call_command("collectcommands", excludecore=True, verbosity=0)
command = AppCommand.objects.get(name="test_command")
arguments = "one, two, -a"

now = Task.objects.create(name="now", command=command, arguments=arguments)
now.launch()
say("now", now.status, os.path.isfile(now.spooler_id))

tomorrow = timezone.now() + timedelta(days=1)
stopped = Task.objects.create(name="stopped", command=command, scheduling=tomorrow)
stopped.launch()
path = stopped.spooler_id
say("stopped", stopped.status, os.path.isfile(path))
stopped.stop()
say("stopped", stopped.status, os.path.isfile(path))

wrong = Task.objects.create(name="wrong", command=command, arguments="")
wrong.launch()

often = Task.objects.create(
    name="often",
    command=command,
    arguments=arguments,
    scheduling=timezone.now() - timedelta(hours=1),
    repetition_period=Task.REPETITION_PERIOD_DAY,
    repetition_rate=1,
)
often.launch()

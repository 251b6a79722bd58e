"""Its one view."""

from django.http import HttpResponse
from django.urls import path

from my_project.tasks import send_email_async


def view(request):
    send_email_async("Welcome!", "Thank you!", "user@example.org")
    return HttpResponse("put")


urlpatterns = [path("", view)]

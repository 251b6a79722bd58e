"""The least urgent first."""

import tasks_order as app

app.rest()
app.ten()
app.two()

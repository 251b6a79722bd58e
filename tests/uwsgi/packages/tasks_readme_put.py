"""What the views of the application put."""

import tasks_readme as app

app.send_mail("hi", "text", to=["a@b.c", "d@e.f"])
app.send_mail("large", "x" * 200_000)
app.of_any_executor(1)
app.three_times("no")
app.purchase(7)
app.own_code()
app.step_by_step()
app.remembers()
app.not_caught()
app.where()
app.elsewhere()
app.begin_lazily()

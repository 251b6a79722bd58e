"""Put all of that."""

import unusual as app

import uwsgi

app.unnamed(x="1")
app.nested(x="1")
app.Namespace.static(x="1")
app.puts_from_elsewhere()
app.exits()
app.dies()
app.answers_true()
app.answers_text()
app.changes_directory()
app.größe(ü="ü")
app.tmp()
app.with_magic_keys(at="0", priority="7", spooler=uwsgi.spoolers[0])
app.with_magic_keys(at="", priority="", spooler="")
app.with_magic_keys(at="1.5e9", priority="05")
app.with_magic_keys(key="k", id="i", task="t", options="o", v="2", sig="s")
app.looks()

"""Put tasks that never end."""

import documented as app

app.for_ever.spool({"pippo": "pluto"})
app.for_ever_with_arguments.spool("pluto", 42)

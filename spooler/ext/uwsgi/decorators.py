"""The module ``uwsgidecorators``: the names that uWSGI's has, on our ``uwsgi``.

What stands in a packet is the same too, so either side can run what the other puts.
"""

import pickle  # noqa: TID251 (docs/decisions/, "Pickle")
import sys
from collections.abc import Callable, Mapping
from functools import partial
from threading import Thread
from typing import Any

from .module import UWSGI

uwsgi: Any = UWSGI

Function = Callable[..., Any]

spooler_functions: dict[str, Function] = {}
mule_functions: dict[str, Function] = {}
postfork_chain: list[Callable[[], object]] = []

_PUT_KEYS = ("message_dict", "spooler", "priority", "at", "body")
"""What is said of a task, and not to its function, where arguments are pickled."""


NAMES = """
    Thread partial pickle sys uwsgi spooler_functions mule_functions postfork_chain
    get_free_signal manage_spool_request postfork_chain_hook postfork spool_decorate
    spoolraw spool spoolforever _spoolraw _spool _spoolforever mulefunc
    mule_msg_dispatcher rpc farm_loop farm mule_brain mule_brainloop mule muleloop
    mulemsg_loop mulemsg signal timer cron rbtimer mstimer filemon erlang lock thread
    harakiri
"""
"""What the module is to have, so that ``import *`` brings no more than uWSGI's."""


def activate() -> None:
    """Have ``uwsgi`` call what is here, as importing uWSGI's module does."""
    uwsgi.spooler = manage_spool_request
    uwsgi.post_fork_hook = postfork_chain_hook
    uwsgi.mule_msg_hook = mule_msg_dispatcher


def get_free_signal() -> int:
    """Return the first signal that nobody has registered."""
    for number in range(256):
        if not uwsgi.signal_registered(number):
            return number
    raise Exception("No free uwsgi signal available")


# -- tasks --------------------------------------------------------------------------


def _to_text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _to_bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def manage_spool_request(vars: Mapping[Any, Any]) -> int:
    """Run the function of a task: what ``uwsgi.spooler`` is."""
    found = {_to_text(key): value for key, value in vars.items()}
    if "args" in found:
        # The handler has made sure that this user has written them.
        for key in ("args", "kwargs"):
            found[key] = pickle.loads(found[key])  # noqa: S301
    found = {key: _to_text(value) for key, value in found.items()}
    function = spooler_functions[found["ud_spool_func"]]
    answer: Any
    if "args" in found:
        answer = function(*found["args"], **found["kwargs"])
    else:
        answer = function(found)
    return int(found.get("ud_spool_ret", answer))


class _spoolraw:
    """A function that is a task: a call puts it."""

    def __init__(self, f: Function, pass_arguments: bool) -> None:
        if "spooler" not in uwsgi.opt:
            name = type(self).__name__
            raise Exception(
                f"you have to enable the uWSGI spooler to use @{name} decorator"
            )
        self.f = f
        self.pass_arguments = pass_arguments
        self.base_dict: dict[str, Any] = {"ud_spool_func": f.__name__}
        spooler_functions[f.__name__] = f
        f.spool = self.__call__  # type: ignore[attr-defined]  # its old form

    def __call__(self, *args: Any, **kwargs: Any) -> bytes:
        """Put a task with these arguments; return the path of its file."""
        found = dict(self.base_dict)
        if self.pass_arguments:
            for key in _PUT_KEYS:
                if key in kwargs:
                    found[key] = kwargs.pop(key)
            if "spooler" in found and "outbox" in kwargs:  # ours, beside an address
                found["outbox"] = kwargs.pop("outbox")
            found["args"] = pickle.dumps(args)
            found["kwargs"] = pickle.dumps(kwargs)
        else:
            found.update(*args[:1])
            found.update(kwargs)
        path: bytes = uwsgi.spool(
            {_to_bytes(k): _to_bytes(v) for k, v in found.items()}
        )
        return path

    def spool(self, *args: Any, **kwargs: Any) -> bytes:
        """Put a task, as a call does."""
        return self.__class__.__call__(self, *args, **kwargs)


class _spool(_spoolraw):
    """Its function's return is success."""

    def __call__(self, *args: Any, **kwargs: Any) -> bytes:
        self.base_dict["ud_spool_ret"] = str(uwsgi.SPOOL_OK)
        return super().__call__(*args, **kwargs)


class _spoolforever(_spoolraw):
    """It runs again after each return."""

    def __call__(self, *args: Any, **kwargs: Any) -> bytes:
        self.base_dict["ud_spool_ret"] = str(uwsgi.SPOOL_RETRY)
        return super().__call__(*args, **kwargs)


def spool_decorate(
    f: Function | None = None,
    pass_arguments: bool = False,
    _class: type[_spoolraw] = _spoolraw,
) -> Any:
    """Return the decorator, or the function that it makes a task of."""
    if not f:
        return partial(_class, pass_arguments=pass_arguments)
    return _class(f, pass_arguments)


def spoolraw(f: Function | None = None, pass_arguments: bool = False) -> Any:
    """Make a function a task whose return decides: ``SPOOL_OK`` and its like."""
    return spool_decorate(f, pass_arguments)


def spool(f: Function | None = None, pass_arguments: bool = False) -> Any:
    """Make a function a task: it has succeeded when it returns."""
    return spool_decorate(f, pass_arguments, _spool)


def spoolforever(f: Function | None = None, pass_arguments: bool = False) -> Any:
    """Make a function a task that runs again after each return."""
    return spool_decorate(f, pass_arguments, _spoolforever)


# -- after the fork -----------------------------------------------------------------


class postfork:
    """Call a function in each worker when it starts."""

    def __init__(self, f: Any) -> None:
        self.wid = 0 if callable(f) else f
        self.f: Function | None = f if callable(f) else None
        postfork_chain.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it; or take the function, where a number came first."""
        if self.f is None:
            self.f = args[0]
            return None
        if self.wid > 0 and self.wid != uwsgi.worker_id():
            return None
        return self.f()


def postfork_chain_hook() -> None:
    """Call all of them: what ``uwsgi.post_fork_hook`` is."""
    for function in postfork_chain:
        function()


# -- signals ------------------------------------------------------------------------


class signal:
    """Call a function when a signal is raised."""

    def __init__(self, num: int, **kwargs: Any) -> None:
        self.num = num
        self.target = kwargs.get("target", "")

    def __call__(self, f: Function) -> Function:
        """Register it."""
        uwsgi.register_signal(self.num, self.target, f)
        return f


class _free(signal):
    """Call a function by a signal that is free, unless one is given."""

    def __init__(self, **kwargs: Any) -> None:
        number = kwargs.get("signum", get_free_signal())
        super().__init__(number, target=kwargs.get("target", ""))


class timer(_free):
    """Call a function every so many seconds."""

    def __init__(self, secs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.secs = secs

    def __call__(self, f: Function) -> Function:
        """Register it and start the timer."""
        super().__call__(f)
        uwsgi.add_timer(self.num, self.secs)
        return f


class mstimer(timer):
    """Call a function every so many milliseconds."""

    def __call__(self, f: Function) -> Function:
        """Register it and start the timer."""
        signal.__call__(self, f)
        uwsgi.add_ms_timer(self.num, self.secs)
        return f


class rbtimer(timer):
    """Call a function every so many seconds: uWSGI keeps these in its own tree."""

    def __call__(self, f: Function) -> Function:
        """Register it and start the timer."""
        signal.__call__(self, f)
        uwsgi.add_rb_timer(self.num, self.secs)
        return f


class cron(_free):
    """Call a function at the moments of five numbers; -1 is each, -5 every fifth."""

    def __init__(
        self, minute: int, hour: int, day: int, month: int, dayweek: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.minute = minute
        self.hour = hour
        self.day = day
        self.month = month
        self.dayweek = dayweek

    def __call__(self, f: Function) -> Function:
        """Register it and add the line."""
        super().__call__(f)
        line = (self.minute, self.hour, self.day, self.month, self.dayweek)
        uwsgi.add_cron(self.num, *line)
        return f


class filemon(_free):
    """Call a function when a file or folder changes."""

    def __init__(self, fsobj: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fsobj = fsobj

    def __call__(self, f: Function) -> Function:
        """Register it and watch the file."""
        super().__call__(f)
        uwsgi.add_file_monitor(self.num, self.fsobj)
        return f


# -- around a function --------------------------------------------------------------


class lock:
    """Call a function in one process at a time; in the spooler never."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, once the lock is ours."""
        if uwsgi.i_am_the_spooler():
            return None
        uwsgi.lock()
        try:
            return self.f(*args, **kwargs)
        finally:
            uwsgi.unlock()


class thread:
    """Call a function in a thread, and do not wait for it."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def __call__(self, *args: Any) -> Function:
        """Start the thread."""
        Thread(target=self.f, args=args, daemon=True).start()
        return self.f


class harakiri:
    """Have the process killed if a function takes longer."""

    def __init__(self, seconds: int) -> None:
        self.s = seconds

    def real_call(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, within the limit."""
        uwsgi.set_user_harakiri(self.s)
        result = self.f(*args, **kwargs)
        uwsgi.set_user_harakiri(0)
        return result

    def __call__(self, f: Function) -> Function:
        """Take the function."""
        self.f = f
        return self.real_call


# -- what only a web server has: ``uwsgi`` says what to use instead ------------------


class mulefunc:
    """Call a function in a mule."""

    def __init__(self, f: Any) -> None:
        self.fname: str | None = None
        self.mule = 0 if callable(f) else f
        if callable(f):
            self._take(f)

    def _take(self, f: Function) -> None:
        self.fname = f.__name__
        mule_functions[f.__name__] = f

    def real_call(self, *args: Any, **kwargs: Any) -> None:
        """Send it to the mule."""
        message = {
            "service": "uwsgi_mulefunc",
            "func": self.fname,
            "args": args,
            "kwargs": kwargs,
        }
        uwsgi.mule_msg(pickle.dumps(message), self.mule)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it; or take the function, where a number came first."""
        if self.fname:
            return self.real_call(*args, **kwargs)
        self._take(args[0])
        return self.real_call


def mule_msg_dispatcher(message: bytes) -> Any:
    """Call a function in a mule: there are none, so nobody calls this."""
    found = pickle.loads(message)  # noqa: S301
    if found["service"] == "uwsgi_mulefunc":
        return mule_functions[found["func"]](*found["args"], **found["kwargs"])
    return None


class rpc:
    """Give other servers a function to call."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, f: Function) -> Function:
        """Register it."""
        uwsgi.register_rpc(self.name, f)
        return f


class erlang(rpc):
    """Give Erlang a function to call."""

    def __call__(self, f: Function) -> Function:
        """Register it."""
        uwsgi.erlang_register_process(self.name, f)
        return f


class farm_loop:
    """Take the messages of a farm, in a mule."""

    def __init__(self, f: Function, farm: str | None) -> None:
        self.f = f
        self.farm = farm

    def __call__(self) -> None:
        """Take them, if this is a mule of the farm."""
        if uwsgi.mule_id() == 0 or not uwsgi.in_farm(self.farm):
            return
        while True:
            message = uwsgi.farm_get_msg()
            if message:
                self.f(message)


class farm:
    """Call a function for each message of a farm."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        self.name = name

    def __call__(self, f: Function) -> None:
        """Have it called after the fork."""
        postfork_chain.append(farm_loop(f, self.name))


class mule_brain:
    """Call a function in a mule of that number."""

    def __init__(self, f: Function, num: int) -> None:
        self.f = f
        self.num = num

    def __call__(self) -> None:
        """Call it, if this is the mule."""
        if uwsgi.mule_id() == self.num:
            self._run()

    def _run(self) -> None:
        try:
            self.f()
        except BaseException:  # noqa: BLE001 (it ends the mule)
            sys.excepthook(*sys.exc_info())
            sys.exit(1)


class mule_brainloop(mule_brain):
    """The same again and again."""

    def _run(self) -> None:
        while True:
            super()._run()


class mule:
    """Call a function in a mule."""

    brain = mule_brain

    def __init__(self, num: int) -> None:
        self.num = num

    def __call__(self, f: Function) -> None:
        """Have it called after the fork."""
        postfork_chain.append(self.brain(f, self.num))


class muleloop(mule):
    """The same again and again."""

    brain = mule_brainloop


class mulemsg_loop:
    """Take the messages of a mule."""

    def __init__(self, f: Function, num: int) -> None:
        self.f = f
        self.num = num

    def __call__(self) -> None:
        """Take them, if this is the mule."""
        if uwsgi.mule_id() == self.num:
            while True:
                message = uwsgi.mule_get_msg()
                if message:
                    self.f(message)


class mulemsg:
    """Call a function for each message of a mule."""

    def __init__(self, num: int) -> None:
        self.num = num

    def __call__(self, f: Function) -> None:
        """Have it called after the fork."""
        postfork_chain.append(mulemsg_loop(f, self.num))

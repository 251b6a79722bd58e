"""The names of ``uwsgi`` that only a web server can fill: a call says what to use.

The names are there, so that programs can import and look for them; what may be said
while modules are imported and changes nothing here (``register_rpc``) only warns.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from ...errors import OnlyInUwsgiError
from .process import PROCESS

log = logging.getLogger(__name__)

_REQUEST: Final = "it belongs to a web request; a task has none"
_ASYNC: Final = "it belongs to uWSGI's event loop; use asyncio, or an async def task"
_CACHE: Final = "use a cache of its own: Redis, memcached, or functools.lru_cache"
_SOCKET: Final = "use the module socket"
_METRIC: Final = "use prometheus_client; what is in a spool: spool status --json"
_MULE: Final = "put a task instead: a function with @spool runs in a worker of spoold"
_RPC: Final = "put a task instead, and have its result kept: @spool(keep_result=60)"
_LEGION: Final = (
    "several spoold may share a spool: each timer and task runs in one of them"
)
_QUEUE: Final = "a spool is a queue: put a task"
_SHARED: Final = "use multiprocessing.shared_memory, or a file"
_SIGNAL: Final = "register a function for the signal: it runs in a worker of spoold"
_SNMP: Final = "let the monitoring read spool status --json"
_IMPORT: Final = "use importlib and zipimport"
_ERLANG: Final = "there is no Erlang node here; use a socket"

_TABLE: Final[dict[str, str]] = {
    _REQUEST: """
        add_var chunked_read chunked_read_nb cl connection_fd disconnect get_logvar
        listen_queue log_this_request offload request_id route send sendfile
        set_logvar start_response websocket_handshake websocket_recv
        websocket_recv_nb websocket_send websocket_send_binary
        """,
    _ASYNC: """
        async_connect async_sleep green_schedule ready_fd suspend wait_fd_read
        wait_fd_write
        """,
    _CACHE: """
        cache_clear cache_dec cache_del cache_div cache_exists cache_get cache_inc
        cache_keys cache_mul cache_num cache_set cache_update
        """,
    _SOCKET: "close connect is_connected recv",
    _METRIC: """
        metric_dec metric_div metric_get metric_inc metric_mul metric_set
        metric_set_max metric_set_min
        """,
    _MULE: "farm_get_msg farm_msg mule_get_msg mule_msg",
    _RPC: "call rpc",
    _LEGION: "i_am_the_lord lord_scroll scrolls",
    _QUEUE: """
        queue_get queue_last queue_pop queue_pull queue_pull_slot queue_push queue_set
        queue_slot
        """,
    _SHARED: """
        sharedarea_dec32 sharedarea_dec64 sharedarea_inc32 sharedarea_inc64
        sharedarea_inclong sharedarea_memoryview sharedarea_object sharedarea_read
        sharedarea_read16 sharedarea_read32 sharedarea_read64 sharedarea_read8
        sharedarea_readbyte sharedarea_readlong sharedarea_rlock sharedarea_unlock
        sharedarea_wlock sharedarea_write sharedarea_write16 sharedarea_write32
        sharedarea_write64 sharedarea_write8 sharedarea_writebyte sharedarea_writelong
        """,
    _SIGNAL: "signal_received signal_wait",
    _SNMP: """
        snmp_decr_counter32 snmp_decr_counter64 snmp_decr_gauge snmp_incr_counter32
        snmp_incr_counter64 snmp_incr_gauge snmp_set_community snmp_set_counter32
        snmp_set_counter64 snmp_set_gauge
        """,
    _IMPORT: "SymbolsImporter SymbolsZipImporter ZipImporter",
    _ERLANG: "erlang_connect erlang_recv_message erlang_rpc erlang_send_message",
}


def _missing(name: str, instead: str) -> Callable[..., Any]:
    def missing(*args: object, **kwargs: object) -> Any:
        raise OnlyInUwsgiError(name, instead)

    missing.__name__ = missing.__qualname__ = name
    missing.__doc__ = f"Raise an error: {instead}."
    return missing


def _warns(name: str, what: str) -> Callable[..., bool]:
    def warns(*args: object, **kwargs: object) -> bool:
        shown = next((each for each in args if isinstance(each, str)), "")
        log.warning("uwsgi.%s %.80r: %s", name, shown, what)
        return True

    warns.__name__ = warns.__qualname__ = name
    warns.__doc__ = f"Warn, and return True: {what}."
    return warns


NAMES: Final[dict[str, Callable[..., Any]]] = {
    **{
        name: _missing(name, instead)
        for instead, names in _TABLE.items()
        for name in names.split()
    },
    "register_rpc": _warns("register_rpc", "nobody can call it here"),
    "erlang_register_process": _warns("erlang_register_process", _ERLANG),
    **PROCESS,
}
"""What ``uwsgi`` has of this, and of ``process``."""

"""Group spools: members put tasks and can do nothing else; real users and groups."""

import json
import os
import pickle
import re
import signal
import stat
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from time import time

import pytest

from spooler.spooldir import SpoolDir
from spooler.task import MINUTE_US, minute_of

from ..helpers import matching
from ..users import Users, some_users
from .conftest import MARK, Spoold, marked, wait_until

APP = """\
import os, time
from spooler import spool

@spool(retries=0)
def note(text: str, seconds: float = 0.0) -> None:
    with open(os.environ["OUT"], "a") as file:
        file.write(f"{text}\\n")
    time.sleep(seconds)
"""


DROP = "printf 'task=note\\ntext=x\\n' > spool/5/.x; mv spool/5/.x spool/5/x"


@pytest.fixture(scope="module")
def users() -> Iterator[Users]:
    with some_users() as made:
        (made.home / "tasks.py").write_text(APP)
        yield made


class Shared:
    """A group spool of the user ``shop``, and the daemons on it."""

    def __init__(self, users: Users, path: Path) -> None:
        self.users = users
        self.path = path
        self.mark = uuid.uuid4().hex
        self.out = path / "out"
        self.spool = path / "spool"
        path.mkdir()
        path.chmod(0o755)
        ids = users.run("shop", "sh", "-c", "id -u; id -g").stdout.split()
        self.uid, self.gid = map(int, ids)
        for folder in (self.out, self.spool):
            folder.mkdir(0o700)
            os.chown(folder, self.uid, self.gid)
        done = users.run("root", "spool", "init", "--group", "web", self.spool)
        assert done.returncode == 0, done.stderr
        self.daemons: list[Spoold] = []

    def start(self, *options: str, user: str = "shop") -> Spoold:
        words = ("spoold", "--dir", self.spool, "--import", "tasks")
        command = self.users.by(user, *words, "--allow-group", "web", *options)
        env = self.users.environ() | {MARK: self.mark, "OUT": str(self.out / "out")}
        log = self.path / f"log{len(self.daemons)}"
        daemon = Spoold(list(map(str, command)), self.users.home, log, env=env)
        self.daemons.append(daemon)
        daemon.wait_for("serve spool=")
        return daemon

    def put(self, user: str, *words: str, umask: int = -1) -> str:
        """Put a task by the command; return its id."""
        command = ("spool", "--dir", str(self.spool), "put", *words)
        done = self.users.run(user, *command, umask=umask)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sh(self, user: str, script: str, umask: int = -1) -> str:
        """Run a line of shell as a user, in the spool's directory."""
        script = f"cd {self.path}\n{script}"
        done = self.users.run(user, "sh", "-eu", "-c", script, umask=umask)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, user: str, script: str, text: str = "Permission denied") -> None:
        """Check that a line of shell fails, and what it says."""
        script = f"cd {self.path}\n{script}"
        done = self.users.run(user, "sh", "-eu", "-c", script)
        assert done.returncode != 0, f"{script} was not refused: {done.stdout}"
        assert text in done.stderr

    def lines(self) -> list[str]:
        try:
            return (self.out / "out").read_text().splitlines()
        except FileNotFoundError:
            return []

    def wait_lines(self, *lines: str) -> None:
        wait_until(lambda: len(self.lines()) >= len(lines))
        assert sorted(self.lines()) == sorted(lines)

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(self.spool / folder))

    def why(self) -> str:
        """Wait for the one file that was put aside; return the reason."""

        def reports() -> list[str]:
            return [name for name in self.names("corrupt") if name.endswith(".why")]

        wait_until(lambda: reports() and len(self.names("corrupt")) == 2)
        text = (self.spool / "corrupt" / reports()[0]).read_text()
        return str(json.loads(text)["reason"])

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.process.kill()
            daemon.process.wait()
        wait_until(lambda: not marked(self.mark))


@pytest.fixture
def shared(users: Users) -> Iterator[Shared]:
    made = Shared(users, users.home / uuid.uuid4().hex)
    try:
        yield made
    finally:
        made.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def minutes(moment: float, count: int) -> list[str]:
    """Return so many minutes, as folders, from the one of a moment on."""
    return [minute_of(int(moment * 1e6) + n * MINUTE_US) for n in range(count)]


def test_a_group_may_pass_and_write_and_nothing_else(shared: Shared) -> None:
    web = shared.users.run("root", "getent", "group", "web").stdout.split(":")[2]
    status = shared.spool.stat()
    assert (status.st_uid, status.st_gid) == (shared.uid, int(web))
    assert mode(shared.spool) == 0o710
    for path in shared.spool.iterdir():
        status = path.stat()
        assert status.st_uid == shared.uid
        if path.name.isdecimal():
            assert (mode(path), status.st_gid) == (0o3733, shared.gid)
        elif path.name == ".spool":
            assert mode(path) == 0o644
        else:
            assert mode(path) == 0o700, path


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_tasks_of_members_are_run_whatever_their_umask(
    shared: Shared, umask: int
) -> None:
    shared.start("--workers", "2")
    for user in ("alice", "bob"):
        shared.put(user, "note", f"text={user} command", umask=umask)
        script = (
            "import os\nfrom tasks import note\n"
            f"note.spool(text='{user} safe')\n"
            f"note.using(durability='fast').spool(text='{user} fast')\n"
            f"note.map([{{'text': '{user} {{}}'.format(n)}} for n in range(3)])\n"
        )
        env = f"SPOOL_DIR={shared.spool} PYTHONPATH={shared.users.home}"
        shared.sh(user, f'{env} python -c "{script}"', umask=umask)
    kinds = ("command", "safe", "fast", "0", "1", "2")
    shared.wait_lines(
        *(f"{user} {kind}" for user in ("alice", "bob") for kind in kinds)
    )
    assert shared.names("corrupt") == []
    assert not shared.daemons[0].says(" WARNING "), shared.daemons[0].text()


def test_a_member_puts_from_the_shell(shared: Shared) -> None:
    shared.start()
    shared.sh(
        "alice",
        "umask 027\n"
        "printf 'task=note\\ntext=moved\\n' > spool/5/.mine\n"
        "mv spool/5/.mine spool/5/mine\n"
        "printf 'task=note\\ntext=installed\\n' > /tmp/$$; umask 077\n"
        "install -m 640 /tmp/$$ spool/0/installed; rm /tmp/$$\n",
    )
    shared.wait_lines("moved", "installed")
    assert shared.names("corrupt") == []


def test_a_members_task_is_his_and_the_daemon_may_read_it(shared: Shared) -> None:
    task_id = shared.put("alice", "note", "text=x")
    alice = int(shared.sh("alice", "id -u"))
    [path] = (shared.spool / "5").iterdir()
    status = path.stat()
    assert task_id in path.name
    assert (status.st_uid, status.st_gid, mode(path)) == (alice, shared.gid, 0o660)


def test_members_see_and_change_nothing_of_each_other(shared: Shared) -> None:
    shared.put("bob", "note", "text=secret")
    [path] = (shared.spool / "5").iterdir()
    before = path.read_bytes()
    theirs = f"spool/5/{path.name}"
    shared.refused("alice", "ls spool")
    shared.refused("alice", "ls spool/5")
    shared.refused("alice", f"cat {theirs}")
    shared.refused("alice", f"printf x >> {theirs}")
    shared.refused("alice", f"rm -f {theirs}", "Operation not permitted")
    shared.refused("alice", f"mv {theirs} spool/5/mine", "Operation not permitted")
    shared.refused(
        "alice",
        f"printf x > spool/5/.mine; mv -f spool/5/.mine {theirs}",
        "Operation not permitted",
    )
    shared.refused("alice", f"chmod 666 {theirs}", "Operation not permitted")
    shared.refused("alice", "mv spool/5 spool/x")
    shared.refused("alice", "touch spool/x")
    for folder in ("tmp", "held", "failed", "running", "kill", "workers", "keys"):
        shared.refused("alice", f"ls spool/{folder}")
        shared.refused("alice", f"touch spool/{folder}/x")
    assert path.read_bytes() == before


def test_nobody_else_can_put(shared: Shared) -> None:
    command = ("spool", "--dir", shared.spool, "put", "note", "text=x")
    done = shared.users.run("carol", *command)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"spool: {shared.spool}: Permission denied\n"
    shared.refused("carol", "printf x > spool/5/x")


def test_a_member_is_told_that_he_may_only_put(shared: Shared) -> None:
    words = ("", "ls", "show 0000", "rm 0000", "kick --all", "pause", "check", "health")
    ask = "; ".join(f"spool --dir {shared.spool} {each} || echo $?" for each in words)
    done = shared.users.run("alice", "sh", "-c", ask)
    assert done.stdout.split() == ["78"] * len(words), done.stderr
    assert set(done.stderr.splitlines()) == {
        f"spool: {shared.spool}: you may put tasks here, without a key, and do or see"
        " nothing else"
    }


def test_a_members_handle_says_that_he_may_only_put(shared: Shared) -> None:
    script = (
        "import os\n"
        "from tasks import note\n"
        "handle = note.spool(text='x')\n"
        "for ask in (handle.state, handle.wait, handle.result, handle.cancel):\n"
        "    try:\n"
        "        ask()\n"
        "    except PermissionError as error:\n"
        "        assert 'do or see nothing else' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError(ask)\n"
        "try:\n"
        "    note.using(key='k').spool(text='x')\n"
        "except PermissionError as error:\n"
        "    print(error)\n"
    )
    env = f"SPOOL_DIR={shared.spool} PYTHONPATH={shared.users.home}"
    printed = shared.sh("alice", f'{env} python -c "{script}"')
    assert "without a key" in printed
    assert len(shared.names("5")) == 1


def test_a_priority_that_has_no_folder_is_refused(shared: Shared) -> None:
    command = ("spool", "--dir", shared.spool, "put", "note", "--priority", "12")
    done = shared.users.run("alice", *command)
    text = f"spool: {shared.spool}: there is no priority 12 for its group\n"
    assert (done.returncode, done.stderr) == (2, text)


def test_a_spool_that_was_made_anew_is_found_again(shared: Shared) -> None:
    script = (
        "import sys\n"
        "from tasks import note\n"
        "note.spool(text='x')\n"
        "print(1, flush=True)\n"
        "sys.stdin.readline()\n"
        "note.spool(text='y')\n"
    )
    env = f"SPOOL_DIR={shared.spool} PYTHONPATH={shared.users.home}"
    again = (
        f"mkfifo {shared.path}/go && chmod 644 {shared.path}/go\n"
        f"cd {shared.path}; exec 3<>go\n"
        "setpriv --reuid alice --regid alice --init-groups"
        f' env {env} python -c "{script}" <go >said 2>&1 &\n'
        "until [ -s said ]; do read -t 1 x <&- || true; kill -0 $!; done\n"
        "rm -r spool; install -d -o shop -g shop -m 700 spool\n"
        "spool init --group web spool >&2\n"
        "echo >&3; wait $!; cat said\n"
    )
    assert shared.sh("root", again) == "1\n"
    assert len(shared.names("5")) == 1


def test_a_file_that_the_daemon_may_not_read_is_put_aside(shared: Shared) -> None:
    daemon = shared.start()
    alice = shared.sh("alice", "id -u").strip()
    shared.sh("alice", DROP, umask=0o077)
    assert shared.why() == (
        f"may not be read by uid {shared.uid}: it belongs to uid {alice} and gid"
        f" {shared.gid}, and its mode is 0600: put it again with mode 0640"
    )
    daemon.wait_for(" WARNING ")
    assert daemon.text().count(" WARNING ") == 1  # that it was put aside, and no more


def test_a_file_that_is_made_readable_in_time_is_run(shared: Shared) -> None:
    shared.start()

    def is_run() -> bool:  # unless the machine stops for a second in between
        there = len(shared.names("corrupt"))
        shared.sh("alice", f"{DROP}; chmod 640 spool/5/x || true", umask=0o077)
        wait_until(lambda: shared.lines() or len(shared.names("corrupt")) == there + 2)
        return shared.lines() == ["x"]

    assert any(is_run() for _ in range(10))


@pytest.mark.parametrize("when", ["before", "while"])
def test_nobody_can_take_the_place_of_a_minute(shared: Shared, when: str) -> None:
    makes = (
        "mkdir {}",
        "mkdir -m 777 {}",
        "mkdir {0}; touch {0}/x",
        "ln -s /tmp {}",
        "ln -s ../held {}",
        "ln -s nowhere {}",
        "printf x > {}",
    )
    if when == "while":
        shared.start()
    moment = time()  # all is put into its minute, however long that takes
    paths = [
        make.format(f"spool/{priority}/{minute}")
        for priority, make in enumerate(makes)
        for minute in minutes(moment, 3)
    ]
    shared.sh("alice", "\n".join(f"{{ {path}; }} 2>&1 || true" for path in paths))
    env = f"SPOOL_DIR={shared.spool} PYTHONPATH={shared.users.home}"
    for user, text in (("shop", "own"), ("bob", "his")):
        script = (
            f"import tasks\nfor n in range({len(makes)}):"
            f" tasks.note.using(priority=n, at={moment!r})"
            f".spool(text='{text}{{}}'.format(n))"
        )
        shared.sh(user, f'{env} python -c "{script}"')
    if when == "before":
        shared.sh("shop", f"spool --dir {shared.spool}")
        shared.start()
    names = [f"{who}{n}" for who in ("own", "his") for n in range(len(makes))]
    shared.wait_lines(*names)
    for path in shared.spool.glob("[0-9]/[0-9]*"):
        status = path.lstat()
        theirs = status.st_uid != shared.uid
        assert not (theirs and path.name == minutes(moment, 1)[0]), path
    assert not shared.daemons[0].says(" ERROR "), shared.daemons[0].text()
    assert shared.names("held") == []


def test_who_is_in_the_group_is_looked_up_again_at_hup(shared: Shared) -> None:
    daemon = shared.start()
    group = shared.users.etc / "group"
    before = group.read_text()
    # What a daemon sees is the file that was there: so it is changed in place.
    try:
        group.write_text(re.sub(r"^(web:.*:)alice,", r"\1", before, flags=re.MULTILINE))
        assert group.read_text() != before
        daemon.send(1)
        daemon.wait_for("reload: done")
        # Somebody who was in it when he logged in still gets in.
        ids = shared.sh("alice", "id -u; id -g").split()
        web = before.partition("\nweb:")[2].split(":")[1]
        user = ("setpriv", "--reuid", ids[0], "--regid", ids[1], "--groups", web)
        command = ("spool", "--dir", str(shared.spool), "put", "note", "text=x")
        done = shared.users.run("root", *user, *command)
        assert done.returncode == 0, done.stderr
        assert shared.why() == f"its owner, uid {ids[0]}, may not put tasks here"
    finally:
        group.write_text(before)


def test_a_group_that_is_gone_changes_nothing(shared: Shared) -> None:
    daemon = shared.start()
    group = shared.users.etc / "group"
    before = group.read_text()
    try:
        group.write_text(before.replace("\nweb:", "\nwww:"))
        daemon.send(1)
        daemon.wait_for("reload: done")
        daemon.wait_for("] reload: owners of files are who they were")
    finally:
        group.write_text(before)
    shared.put("alice", "note", "text=x")
    shared.wait_lines("x")


def test_a_group_that_is_not_there_is_refused(shared: Shared) -> None:
    words = ("--dir", shared.spool, "--import", "tasks", "--allow-group", "nix")
    done = shared.users.run("shop", "spoold", *words)
    assert (done.returncode, done.stderr) == (78, "spoold: there is no group 'nix'\n")
    done = shared.users.run("root", "spool", "init", "--group", "nix", "other")
    assert (done.returncode, done.stderr) == (2, "spool: there is no group 'nix'\n")


def test_the_owners_own_group_cannot_be_the_one(shared: Shared) -> None:
    done = shared.users.run("root", "spool", "init", "--group", "shop", shared.spool)
    assert done.returncode == 2
    assert "they could read each other's tasks" in done.stderr


def test_an_owner_who_is_not_in_the_group_cannot_share(shared: Shared) -> None:
    own = shared.out / "spool"
    done = shared.users.run("shop", "spool", "init", "--group", "web", own)
    assert done.returncode == 78
    assert "Operation not permitted" in done.stderr


def test_sharing_again_mends_the_modes(shared: Shared) -> None:
    (shared.spool / "3").chmod(0o700)
    (shared.spool / ".spool").chmod(0o600)
    done = shared.users.run("root", "spool", "init", "--group", "web", shared.spool)
    assert done.stdout == f"{shared.spool}: is a spool already\n"
    assert (mode(shared.spool / "3"), mode(shared.spool / ".spool")) == (0o3733, 0o644)


def test_a_batch_of_a_member_is_shared_among_workers(shared: Shared) -> None:
    daemon = shared.start("--workers", "2")
    wait_until(lambda: sum(n.endswith(".json") for n in shared.names("workers")) == 3)
    rows = [{"text": str(n), "seconds": 0.05} for n in range(150)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    command = ("spool", "--dir", shared.spool, "put", "note", "--from", "-")
    done = shared.users.run("alice", *command, stdin=lines)
    assert done.returncode == 0, done.stderr
    daemon.wait_for("cut task=")
    shared.wait_lines(*map(str, range(150)))
    assert not daemon.says("cannot cut"), daemon.text()


def test_limits_hold_for_members(shared: Shared) -> None:
    words = ("spool", "init", shared.spool, "--max-waiting", "2")
    assert shared.users.run("shop", *words).returncode == 0
    shared.start()
    assert (
        shared.users.run("shop", "spool", "--dir", shared.spool, "pause").returncode
        == 0
    )
    command = ("spool", "--dir", shared.spool, "put", "note", "text=x")
    codes = [shared.users.run("alice", *command).returncode for _ in range(4)]
    assert set(codes) <= {0, 75}
    assert codes[0] == 0


def test_the_owner_of_a_group_spool_sees_and_does_all(shared: Shared) -> None:
    shared.put("alice", "note", "text=x")
    shared.start()
    shared.wait_lines("x")
    shared.put("alice", "note", "text=y", "--at", "+1h")
    wait_until(lambda: len(matching(shared.spool, "5/*/*")) == 1)
    done = shared.users.run("shop", "spool", "--dir", shared.spool, "ls")
    assert done.stdout.count(" later ") == 1, done.stderr
    check = ("spool", "--dir", shared.spool, "check", "--allow-group", "web")
    done = shared.users.run("shop", *check)
    assert done.stdout.endswith(" nothing found\n"), done.stdout + done.stderr


def test_root_puts_for_the_owner(shared: Shared) -> None:
    with_root = SpoolDir(shared.spool)
    assert not with_root.is_plain
    with_root.close()
    shared.put("root", "note", "text=x")
    [minute] = (shared.spool / "5").iterdir()
    [path] = minute.iterdir()
    assert (path.stat().st_uid, mode(path)) == (shared.uid, 0o600)
    assert (minute.stat().st_uid, mode(minute) & 0o777) == (shared.uid, 0o700)
    shared.start()
    shared.wait_lines("x")


def test_a_member_is_held_to_the_limits_that_a_daemon_counts_for(
    shared: Shared,
) -> None:
    pause = shared.spool / "paused" / "all"
    pause.touch()
    os.chown(pause, shared.uid, shared.gid)
    daemon = shared.start("--max-waiting", "5")
    script = (
        "import sys\nfrom spooler import SpoolFull\nfrom tasks import note\n"
        "try:\n"
        "    for number in range(20): note.spool(text=str(number))\n"
        "except SpoolFull as error: sys.exit(f'{number} {error.what}')\n"
    )
    env = f"SPOOL_DIR={shared.spool} PYTHONPATH={shared.users.home}"
    daemon.stop()  # so that it does not count while she puts
    shared.refused("alice", f'{env} python -c "{script}"', "5 max_waiting")
    daemon.send(signal.SIGCONT)
    daemon.wait_for("max_waiting=5 found=5: puts are refused")
    shared.refused("bob", f"spool --dir {shared.spool} put note text=more", "is full")
    pause.unlink()
    shared.wait_lines(*map(str, range(5)))
    wait_until(lambda: daemon.says("puts are taken again"))
    shared.put("bob", "note", "text=more")


# -- uniqueness keys ----------------------------------------------------------------


def drop_keyed(shared: Shared, user: str, text: str, if_exists: str) -> None:
    """Drop a file with a key, as a user does by hand."""
    options = f'options:={{"if_exists":"{if_exists}"}}'
    lines = f"task=note\\nkey=k\\ntext={text}\\n{options}\\n"
    new = f"spool/5/.{user}"
    shared.sh(user, f"umask 027; printf '{lines}' > {new}; mv {new} spool/5/{user}")


def waiting(shared: Shared) -> list[str]:
    """Return the texts of the tasks that were adopted and wait."""
    files = [path.read_text() for path in shared.spool.glob("5/*/*")]
    return [each for file in files for each in re.findall("text=(.*)", file)]


@pytest.mark.parametrize("daemon", ["shop", "root"])
def test_nobody_replaces_the_task_of_another_by_its_key(
    shared: Shared, daemon: str
) -> None:
    done = shared.users.run("shop", "spool", "--dir", shared.spool, "pause")
    assert done.returncode == 0, done.stderr
    # Root takes the files of the spool's owner only if it is told to.
    shared.start(*(["--allow-uid", str(shared.uid)] * (daemon == "root")), user=daemon)
    ids = {user: shared.sh(user, "id -u").strip() for user in ("alice", "bob")}
    drop_keyed(shared, "alice", "hers", "skip")
    wait_until(lambda: waiting(shared) == ["hers"])
    drop_keyed(shared, "bob", "his", "replace")
    assert shared.why() == (
        f"is to replace a task with its key, which uid {ids['bob']} may not do: that"
        f" is of uid {ids['alice']}"
    )
    assert waiting(shared) == ["hers"]
    drop_keyed(shared, "alice", "hers again", "replace")
    wait_until(lambda: waiting(shared) == ["hers again"])
    put = ("put", "note", "text=the daemon's", "--key", "k", "--if-exists", "replace")
    done = shared.users.run(daemon, "spool", "--dir", shared.spool, *put)
    assert done.returncode == 0, done.stderr
    [path] = shared.spool.glob("5/*/*")
    assert "the daemon's" in path.read_text()
    drop_keyed(shared, "alice", "hers", "replace")
    wait_until(lambda: len(shared.names("corrupt")) == 4)
    assert list(shared.spool.glob("5/*/*")) == [path]
    shared.users.run("shop", "spool", "--dir", shared.spool, "resume")
    shared.wait_lines("the daemon's")


# -- edits --------------------------------------------------------------------------


def drop_later(shared: Shared, task_id: str, head: dict[str, object], body: str) -> str:
    """Drop a task of alice's that is due later; return its id once it waits."""
    facts = {"id": task_id, "at": "+1h", "args": {}} | head
    new = f"spool/5/.{task_id}"
    script = f"umask 027; cat > {new}; mv {new} spool/5/{task_id}"
    text = f"{json.dumps(facts)}\n{body}"
    done = shared.users.run(
        "alice", "sh", "-c", f"cd {shared.path}; {script}", stdin=text
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: matching(shared.spool, f"5/*/*.{task_id}.*"))
    return task_id


def error_of(shared: Shared, task_id: str) -> str:
    """Wait until a task has failed; return why."""
    wait_until(lambda: len(list(shared.spool.glob(f"failed/*.{task_id}.*"))) == 2)
    [why] = shared.spool.glob(f"failed/*.{task_id}.*.why")
    return str(json.loads(why.read_text())["error"])


@pytest.mark.parametrize("user", ["shop", "root"])
def test_a_task_of_a_member_is_not_the_daemons_own_after_an_edit(
    shared: Shared, user: str
) -> None:
    shared.start("--uwsgi")
    alice = shared.sh("alice", "id -u").strip()
    pickled = {b"args": pickle.dumps(("read",), 0), b"kwargs": pickle.dumps({}, 0)}
    pairs = b"".join(
        b"%s%s%s%s" % (pack("<I", len(key)), key, pack("<I", len(value)), value)
        for key, value in pickled.items()
    ).decode()
    sent: dict[str, object] = {"task": "spooler.forward", "args": {"to": "/nowhere"}}
    ids = {
        drop_later(shared, "1" * 16, sent, ""): f"uid {alice} may not have tasks sent",
        drop_later(shared, "2" * 16, {"task": "note", "uwsgi": len(pairs)}, pairs): (
            f"uid {alice} has put it"
            if user == "shop"
            else f"its file belongs to uid {alice}"
        ),
    }
    for task_id, reason in ids.items():
        edit = f"EDITOR='sed -i s/+1h/+0s/' spool --dir spool edit {task_id}"
        assert "changed" in shared.sh(user, edit)
        assert reason in error_of(shared, task_id)
    assert shared.lines() == []


# -- who holds up a key -------------------------------------------------------------

HOLD = """\
import fcntl, os, sys, time
file = os.open("spool/5/.mine", os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("daemon", ["shop", "root"])
def test_nobody_holds_up_a_key_by_a_lock_on_his_file(
    shared: Shared, daemon: str
) -> None:
    done = shared.users.run("shop", "spool", "--dir", shared.spool, "pause")
    assert done.returncode == 0, done.stderr
    shared.start(*(["--allow-uid", str(shared.uid)] * (daemon == "root")), user=daemon)
    wait_until(lambda: any(n.endswith(".json") for n in shared.names("workers")))
    lines = "task=note\\nkey=k\\ntext=hers\\n"
    shared.sh(
        "alice",
        f"umask 077; printf '{lines}' > spool/5/.mine; chgrp web spool/5/.mine\n"
        + ("" if daemon == "root" else "chmod 644 spool/5/.mine\n")
        + "ln spool/5/.mine spool/5/hers\n",
    )
    wait_until(lambda: waiting(shared) == ["hers"])
    command = shared.users.by("alice", "python", "-c", HOLD)
    env = shared.users.environ()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, cwd=shared.path, env=env
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for user, text, policy in (
            ("shop", "not put", "skip"),
            ("shop", "the owner's", "replace"),
            ("root", "root's", "replace"),
        ):
            put = ("put", "note", f"text={text}", "--key", "k", "--if-exists", policy)
            done = shared.users.run(user, "spool", "--dir", shared.spool, *put)
            assert (done.returncode, done.stderr) == (0, "")
            [path] = shared.spool.glob("5/*/*")
            assert (text in path.read_text()) == (policy == "replace")
        holder.stdin.close()
        assert holder.wait() == 0

"""Whether the parts of a bench file fit together: looked for in the data as it was written.

Not by pydantic, whose checks of a whole come only when each part is right: all problems of a file are told at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from harness.bench.device_models import PLACEHOLDERS, unknown_placeholders
from harness.bench.values import FIXED
from harness.yamltree import JsonValue, KeyPath

Misfit = tuple[KeyPath, str]

ON_BENCHES = ("power", "reservation", "quiet")
ON_BENCHES_GUEST = ("device_model", "vm_name", "console", "agent", "ending")
ON_LOCAL = {
    "qemu": "a device_model's arguments say what runs the guests there",
    "rtc": "a guest's RTC starts there with what the host's clock shows",
}
ON_LOCAL_GUEST = {
    "machine": "a device_model's arguments say it there",
    "cpu": "a device_model's arguments say it there",
    "disk": "a device_model's arguments name it there",
    "restore": "only guests of this machine are restored",
}
ONE_OF_A_KIND = (
    ("vm_name",), ("device_model", "monitor"), ("console", "device"), ("console", "path"), ("console", "address")
)  # fmt: skip
SECRETS = ("password_env", "password_file")
SCRATCH_ONLY = (*FIXED, "scratch")


def misfits(data: JsonValue) -> Iterator[Misfit]:
    """What does not fit together in a bench file; parts that are wrong in themselves are passed over."""
    if not isinstance(data, dict):
        return
    host = _mapping(data, "host")
    kind = host.get("kind")
    if kind == "local":
        yield from _local(data)
    elif kind in ("ssh", "nested"):
        yield from _bench(data)
    if kind == "ssh":
        yield from _ssh(host, ("host",))
    elif kind == "nested":
        yield from _nested(host)
    yield from _power(_mapping(data, "power"))


def _mapping(data: Mapping[str, JsonValue], key: str) -> Mapping[str, JsonValue]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _guests(data: Mapping[str, JsonValue]) -> Iterator[tuple[KeyPath, Mapping[str, JsonValue]]]:
    guests = data.get("guests")
    for number, guest in enumerate(guests if isinstance(guests, list) else []):
        if isinstance(guest, dict):
            yield ("guests", number), guest


# -- hosts ---------------------------------------------------------------------------------------------------------


def _local(data: Mapping[str, JsonValue]) -> Iterator[Misfit]:
    text = "is for a host of kind ssh or nested; this bench's host is local: leave it out"
    for key in ON_BENCHES:
        if key in data:
            yield (key,), text
    service = _mapping(data, "service")
    if service.get("judged") in ("hsm", "behind-acrn-dm", "acrn-dm"):
        yield ("service", "judged"), f"is {service['judged']!r}, and there is no acrn-dm on a local host; leave it out"
    for path, guest in _guests(data):
        for key in ON_BENCHES_GUEST:
            if key in guest:
                yield (*path, key), text
        if guest.get("login") is not None and (guest.get("disk") is None or guest.get("kernel") is not None):
            told = "stands here, and the guest does not start from a disk; name a disk and no kernel, or leave it out"
            yield (*path, "login"), told
        yield from _one_password(_mapping(guest, "login"), (*path, "login"))


def _bench(data: Mapping[str, JsonValue]) -> Iterator[Misfit]:
    for key, reason in ON_LOCAL.items():
        if key in data:
            yield (key,), f"is for a local host; {reason}: leave it out"
    judged = _mapping(data, "service").get("judged", "behind-acrn-dm")
    yield from _given_twice(data)
    for path, guest in _guests(data):
        for key, reason in ON_LOCAL_GUEST.items():
            if key in guest:
                yield (*path, key), f"is for a local host; {reason}: leave it out"
        yield from _bench_guest(guest, path)
        if judged == "project" and _mapping(guest, "device_model").get("kind") == "running":
            yield (
                ("service", "judged"),
                "is 'project', whose service ends with its device model; a running guest has another:"
                " should be acrn-dm, behind-acrn-dm or hsm",
            )
        if judged == "hsm" and guest.get("vrtc", "dm") == "dm":
            yield (
                (*path, "vrtc"),
                "is 'dm', and of such guests no event comes to /dev/acrn_hsm (service.judged: hsm);"
                " should be hv, or service.judged another",
            )


def _given_twice(data: Mapping[str, JsonValue]) -> Iterator[Misfit]:
    """What there is one of, and two guests have."""
    first: dict[tuple[str, ...], dict[str, KeyPath]] = {}
    for path, guest in _guests(data):
        for keys in ONE_OF_A_KIND:
            value: JsonValue = dict(guest)
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, str) and "{vm}" not in value:
                other = first.setdefault(keys, {}).setdefault(value, path)
                if other != path:
                    yield (*path, *keys), f"is {value}, as of guests[{other[1]}]; should be one of its own"


def _ssh(access: Mapping[str, JsonValue], path: KeyPath) -> Iterator[Misfit]:
    yield from _one_password(access, path)
    if access.get("host_key") is not None and access.get("known_hosts") is not None:
        yield (*path, "host_key"), "stands beside known_hosts; name one of them"
    yield from _placeholders(access.get("python"), (*path, "python"), SCRATCH_ONLY)


def _nested(host: Mapping[str, JsonValue]) -> Iterator[Misfit]:
    yield from _ssh(_mapping(host, "ssh"), ("host", "ssh"))
    image, kernel = host.get("image"), host.get("kernel")
    if image is None and kernel is None:
        yield ("host", "image"), "is missing; should be the disk image with ACRN and its Service VM"
    for key in ("initrd", "append"):
        if host.get(key) is not None and kernel is None:
            yield ("host", key), "is for a kernel that is booted without a boot loader; name a kernel, or leave it out"
    if isinstance(image, str) and host.get("format") is None and not image.endswith((".qcow2", ".raw", ".img")):
        yield ("host", "image"), f"{image} tells its format not by its name; add `format: qcow2` or `format: raw`"
    arguments = host.get("arguments")
    for number, argument in enumerate(arguments if isinstance(arguments, list) else []):
        yield from _placeholders(argument, ("host", "arguments", number), SCRATCH_ONLY)


def _one_password(login: Mapping[str, JsonValue], path: KeyPath) -> Iterator[Misfit]:
    if all(login.get(key) is not None for key in SECRETS):
        yield path, "has a password_env and a password_file; name one of them"


def _power(power: Mapping[str, JsonValue]) -> Iterator[Misfit]:
    for key in ("on", "off", "status"):
        words = power.get(key)
        for number, word in enumerate(words if isinstance(words, list) else []):
            yield from _placeholders(word, ("power", key, number), SCRATCH_ONLY)


# -- guests --------------------------------------------------------------------------------------------------------


def _bench_guest(guest: Mapping[str, JsonValue], path: KeyPath) -> Iterator[Misfit]:
    model = _mapping(guest, "device_model")
    if "device_model" not in guest:
        yield (*path, "device_model"), "is missing; should be a mapping with `kind: acrn-dm`, script or running"
    elif model.get("kind") == "running":
        yield from _running(guest, path)
    elif model.get("kind") in ("acrn-dm", "script"):
        yield from _started(guest, model, path)
    yield from _one_password(_mapping(guest, "login"), (*path, "login"))
    if guest.get("vrtc") == "hv" and guest.get("ending") == "destroy":
        yield (*path, "ending"), "is 'destroy', which acrn-dm refuses for a real-time VM; should be inside or signal"
    yield from _console(_mapping(guest, "console"), (*path, "console"))
    yield from _agent(guest, path)


def _running(guest: Mapping[str, JsonValue], path: KeyPath) -> Iterator[Misfit]:
    if guest.get("ending") is not None:
        yield (*path, "ending"), "is for a guest that the harness starts; a running one goes on running: leave it out"
    for key in ("kernel", "initrd", "append", "memory"):
        if guest.get(key) is not None:
            yield (*path, key), "is for a guest that the harness starts; this one runs already: leave it out"
    if guest.get("system") == "bare":
        yield (*path, "system"), "is 'bare', which only the harness starts; should be linux"
    console = _mapping(guest, "console").get("kind", "stdio")
    if console == "stdio" and _mapping(guest, "agent").get("over") != "ssh":
        yield (
            (*path, "console"),
            "is the terminal of whoever started the guest; should be serial, socket or pty, or `agent: {over: ssh}`",
        )


def _started(guest: Mapping[str, JsonValue], model: Mapping[str, JsonValue], path: KeyPath) -> Iterator[Misfit]:
    here = (*path, "device_model")
    given = model.get("arguments")
    arguments = [word for word in given if isinstance(word, str)] if isinstance(given, list) else []
    for number, word in enumerate(given if isinstance(given, list) else []):
        yield from _placeholders(word, (*here, "arguments", number), (*PLACEHOLDERS, *SCRATCH_ONLY))
    yield from _placeholders(model.get("program"), (*here, "program"), SCRATCH_ONLY)
    yield from _placeholders(model.get("monitor"), (*here, "monitor"), ("vm",))

    def uses(name: str) -> bool:
        return any(f"{{{name}}}" in word for word in arguments)

    listed = given is None or isinstance(given, list)
    if listed and model.get("monitor") is None and not uses("monitor"):
        option = "'--cmd_monitor', '{monitor}'" if model.get("kind") == "acrn-dm" else "'{monitor}'"
        yield (
            (*here, "arguments"),
            f"have no {{monitor}}, so nobody would know the socket: add {option}, or say by `monitor` where it is",
        )
    for key in ("kernel", "append", "initrd", "memory"):
        if listed and guest.get(key) is not None and not uses(key):
            yield (*path, key), f"is used by nobody: device_model.arguments have no {{{key}}}"
    bare = guest.get("system") == "bare"
    if listed and bare and not uses("kernel"):
        yield (*here, "arguments"), "have no {kernel}, which is how a bare guest gets its agent"
    if bare and uses("initrd"):
        yield (*here, "arguments"), "have an {initrd}, which a bare guest has not"
    if uses("kernel") and guest.get("login") is not None:
        yield (*path, "login"), "is for a system of your own; {kernel} starts the project's image: leave one out"


def _console(console: Mapping[str, JsonValue], path: KeyPath) -> Iterator[Misfit]:
    if console.get("kind") == "socket":
        named = [key for key in ("path", "address") if console.get(key) is not None]
        if len(named) != 1:
            yield path, f"has {' and '.join(named) or 'neither path nor address'}; should have one of path, address"
    yield from _placeholders(console.get("path"), (*path, "path"), ("vm",))


def _agent(guest: Mapping[str, JsonValue], path: KeyPath) -> Iterator[Misfit]:
    agent = _mapping(guest, "agent")
    over, ssh = agent.get("over", "console"), agent.get("ssh")
    if over == "ssh" and ssh is None:
        yield (*path, "agent", "ssh"), "is missing; should be a mapping with address, user and so on, for `over: ssh`"
    if over == "console" and ssh is not None:
        yield (*path, "agent", "ssh"), "is used by nobody: add `over: ssh`, or leave it out"
    if isinstance(ssh, dict):
        yield from _ssh(ssh, (*path, "agent", "ssh"))
    if guest.get("system") == "bare" and (over == "ssh" or agent.get("variant", "auto") != "auto"):
        yield (*path, "agent"), "is for a guest with a system; a bare one is its agent: leave it out"


def _placeholders(text: Any, path: KeyPath, known: tuple[str, ...]) -> Iterator[Misfit]:
    for name in unknown_placeholders(text, known) if isinstance(text, str) else ():
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        said = f"did you mean {{{near[0]}}}?" if near else f"known here: {', '.join(f'{{{word}}}' for word in known)}"
        yield path, f"has the placeholder {{{name}}}, which nothing will fill in; {said}"

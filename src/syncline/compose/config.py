"""Configuration of a process: defaults < file < environment < flags.

Model: one frozen dataclass a process with the defaults in it. Each key is one `_Setting`, whatever
its source, so that a value obeys the same rule in the file, the environment and a flag.

F1  All problems are reported together, each with its source; nothing starts half configured.
F2  A key or section of the file that is not known is a problem, never ignored.
F3  The whole file is checked by every command; a variable only where no flag overrides it.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from syncline.core.names import escape
from syncline.core.trees import Mode
from syncline.errors import Invalid
from syncline.server.limits import Limits

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LISTEN_DEFAULT = "127.0.0.1:42001"
VOLUME_DEFAULT = "default"
NAME_CHARACTERS_MAX = 128
TIMEOUT_S_MAX = 86_400.0
COUNT_MAX = 2**40


# -- Values ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or number and a TCP port; as text an IPv6 number stands in brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it; a name other than localhost may be any."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_VOLUME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def parse_address(text: str, *, is_any_port_ok: bool = False) -> Address:
    """Return HOST:PORT as an address; raise Invalid. Port 0 lets the kernel choose one."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        _refuse(text, "is not HOST:PORT; write 127.0.0.1:42001, or [::1]:42001 for IPv6")
    six, host, port = match["six"], match["host"], int(match["port"])
    if six is not None:
        try:
            ipaddress.IPv6Address(six)
        except ValueError:
            _refuse(text, "has no IPv6 number in its brackets")
    elif not _HOST.fullmatch(host):
        _refuse(text, "has no valid host before the colon; write 127.0.0.1 or a host name")
    if not (0 if is_any_port_ok else 1) <= port <= 65_535:
        _refuse(text, "has a port that is out of range")
    return Address(six if six is not None else host, port)


def parse_volume(text: str) -> str:
    """Return a volume name: 1 to 64 letters, digits, `.`, `_`, `-`; raise Invalid otherwise."""
    if not _VOLUME.fullmatch(text) or text in (".", ".."):
        _refuse(text, "is not a volume name: 1 to 64 letters, digits, '.', '_' and '-'")
    return text


def default_name() -> str:
    """Return `user@host`, the human name that this replica has unless the user gives one."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    raw = os.fsencode(f"{user}@{socket.gethostname()}")
    return escape(raw)[:NAME_CHARACTERS_MAX]


def default_data() -> Path:
    """Return where a server keeps its data unless the user names a directory."""
    import platformdirs

    return Path(platformdirs.user_data_dir("syncline", appauthor=False)) / "server"


def default_file() -> Path:
    """Return the configuration file that is read when none is named; it may be missing."""
    import platformdirs

    return Path(platformdirs.user_config_dir("syncline", appauthor=False)) / "config.toml"


# -- What a process gets -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a command needs to reach one volume of one server."""

    server: str = LISTEN_DEFAULT
    volume: str = VOLUME_DEFAULT
    timeout_s: float = 30.0
    name: str = field(default_factory=default_name)


@dataclass(frozen=True, slots=True)
class MountConfig:
    """What a mount needs; `directory` is as the user wrote it.

    `state` is where the user wants what the mount remembers; None: where it was before, or in a
    place of its own (`syncline.compose.mount_places`).
    """

    directory: bytes
    client: ClientConfig = field(default_factory=ClientConfig)
    mode: Mode = Mode.TWO_WAY
    state: Path | None = None


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What a server needs; `is_insecure` allows an address that others can reach.

    `mount` is a directory that the server itself keeps equal to the volume, and `name` that of its
    replica; None: it has no such directory.
    """

    data: Path = field(default_factory=default_data)
    listen: str = LISTEN_DEFAULT
    volume: str = VOLUME_DEFAULT
    is_insecure: bool = False
    limits: Limits = field(default_factory=Limits)
    mount: Path | None = None
    name: str = field(default_factory=default_name)


@dataclass(frozen=True, slots=True)
class ClientFlags:
    """What the command line says; None where it says nothing."""

    config: Path | None = None
    server: str | None = None
    volume: str | None = None
    timeout_s: float | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class MountFlags:
    """What the command line of a mount says besides; None where it says nothing."""

    directory: bytes
    mode: str | None = None
    state: Path | None = None


@dataclass(frozen=True, slots=True)
class ServeFlags:
    """What the command line of a server says; None where it says nothing."""

    config: Path | None = None
    data: Path | None = None
    listen: str | None = None
    volume: str | None = None
    is_insecure: bool | None = None
    mount: Path | None = None


def load_client(environ: Mapping[str, str], flags: ClientFlags) -> ClientConfig:
    """Return the configuration of a command; raise one Invalid with all problems (F1)."""
    reader = _Reader(environ, flags.config)
    config = _client(reader, flags)
    reader.finish()
    return config


def load_mount(
    environ: Mapping[str, str], flags: ClientFlags, mount_flags: MountFlags
) -> MountConfig:
    """Return the configuration of a mount; raise one Invalid with all problems (F1)."""
    reader = _Reader(environ, flags.config)
    config = MountConfig(
        directory=mount_flags.directory,
        client=_client(reader, flags),
        mode=reader.get(_MODE, mount_flags.mode, Mode.TWO_WAY),
        state=mount_flags.state,
    )
    reader.finish()
    return config


def _client(reader: _Reader, flags: ClientFlags) -> ClientConfig:
    default = ClientConfig()
    return ClientConfig(
        server=reader.get(_SERVER, flags.server, default.server),
        volume=reader.get(_CLIENT_VOLUME, flags.volume, default.volume),
        timeout_s=reader.get(_TIMEOUT, flags.timeout_s, default.timeout_s),
        name=reader.get(_NAME, flags.name, default.name),
    )


def load_serve(environ: Mapping[str, str], flags: ServeFlags) -> ServeConfig:
    """Return the configuration of a server; raise one Invalid with all problems (F1)."""
    reader = _Reader(environ, flags.config)
    default = ServeConfig()
    config = ServeConfig(
        data=reader.get(_DATA, flags.data, default.data),
        listen=reader.get(_LISTEN, flags.listen, default.listen),
        volume=reader.get(_SERVER_VOLUME, flags.volume, default.volume),
        is_insecure=reader.get(_INSECURE, flags.is_insecure, default.is_insecure),
        limits=reader.limits(),
        mount=reader.get(_SERVER_MOUNT, flags.mount, None),
        name=reader.get(_NAME, None, default.name),
    )
    if not config.is_insecure and not parse_address(config.listen, is_any_port_ok=True).is_loopback:
        reader.problems.append(
            f"listen address '{config.listen}' can be reached by other machines, and nothing "
            "protects the data there yet; listen on 127.0.0.1, or say --insecure if you trust "
            "everyone who can reach it"
        )
    reader.finish()
    return config


def load_data(environ: Mapping[str, str], flags: ServeFlags) -> Path:
    """Return the data directory alone, for maintenance; raise one Invalid with all problems."""
    reader = _Reader(environ, flags.config)
    data = reader.get(_DATA, flags.data, default_data())
    reader.finish()
    return data


# -- One rule a key ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Setting(Generic[T_co]):
    """A key: where it may stand, and its rule; `from_text` reads a variable as the file would."""

    section: str
    key: str
    variable: str
    flag: str
    parse: Callable[[object], T_co]
    from_text: Callable[[str], object] = str


def _refuse(value: object, reason: str) -> NoReturn:
    raise Invalid(f"'{_printable(str(value))}' {reason}", field="configuration", reason=reason)


def _printable(text: str) -> str:
    return escape(text.encode("utf-8", "surrogateescape"))


def _text(value: object) -> str:
    if not isinstance(value, str):
        _refuse(value, "is not a text; put it in quotes")
    return value


def _name(value: object) -> str:
    text = _text(value)
    if not 1 <= len(text) <= NAME_CHARACTERS_MAX or not text.isprintable():
        _refuse(text, f"is not a name of 1 to {NAME_CHARACTERS_MAX} printable characters")
    return text


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(value, "is not a number of seconds")
    if not 0 < value <= TIMEOUT_S_MAX or math.isnan(value):
        _refuse(value, f"is out of range: more than 0 and at most {TIMEOUT_S_MAX:.0f} seconds")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(value, "is not a whole number")
    if not 1 <= value <= COUNT_MAX:
        _refuse(value, f"is out of range: 1 to {COUNT_MAX}")
    return value


def _mode(value: object) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        _refuse(value, f"is not one of {', '.join(mode.value for mode in Mode)}")


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(value, "is not true or false")
    return value


def _directory(value: object) -> Path:
    if isinstance(value, Path):
        return value
    try:
        path = Path(_text(value)).expanduser()
    except RuntimeError:
        _refuse(value, "names a user whose home directory is not known")
    if not path.is_absolute() or "\0" in str(path):
        # A relative one would be another store in each directory that the server is started from.
        _refuse(value, "is not an absolute directory")
    return path


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _address(value: object) -> str:
    return str(parse_address(_text(value)))


def _listen(value: object) -> str:
    return str(parse_address(_text(value), is_any_port_ok=True))


def _volume(value: object) -> str:
    return parse_volume(_text(value))


_SERVER = _Setting("client", "server", "SYNCLINE_SERVER", "--server", _address)
_CLIENT_VOLUME = _Setting("client", "volume", "SYNCLINE_VOLUME", "--volume", _volume)
_TIMEOUT = _Setting("client", "timeout_s", "SYNCLINE_TIMEOUT", "--timeout", _seconds, _number)
_NAME = _Setting("client", "name", "SYNCLINE_NAME", "--name", _name)
_MODE = _Setting("mount", "mode", "SYNCLINE_MODE", "--mode", _mode)
_DATA = _Setting("server", "data", "SYNCLINE_DATA", "--data", _directory, Path)
_LISTEN = _Setting("server", "listen", "SYNCLINE_LISTEN", "--listen", _listen)
_SERVER_VOLUME = _Setting("server", "volume", "SYNCLINE_VOLUME", "--volume", _volume)
_SERVER_MOUNT: _Setting[Path | None] = _Setting(
    "server", "mount", "SYNCLINE_MOUNT", "--mount", _directory, Path
)
_INSECURE = _Setting("server", "insecure", "", "--insecure", _switch)
# The keys of limits are the server's own fields: a new limit can be configured without a word here.
_LIMITS: tuple[_Setting[int | float], ...] = tuple(
    _Setting(
        "server.limits", key.name, "", "", _seconds if isinstance(key.default, float) else _count
    )
    for key in fields(Limits)
)
_SETTINGS: tuple[_Setting[object], ...] = (
    *(_SERVER, _CLIENT_VOLUME, _TIMEOUT, _NAME, _MODE),
    *(_DATA, _LISTEN, _SERVER_VOLUME, _INSECURE, _SERVER_MOUNT),
    *_LIMITS,
)


# -- Reading -----------------------------------------------------------------


class _Reader:
    """Takes each key from its highest source and collects what is wrong."""

    def __init__(self, environ: Mapping[str, str], named: Path | None) -> None:
        self.problems: list[str] = []
        self._environ = environ
        variable = environ.get("SYNCLINE_CONFIG")
        named = named or (Path(variable) if variable else None)
        self._path = named or default_file()
        self._shown = _printable(str(self._path))
        self._file = self._check(_flatten(self._load(is_named=named is not None)))

    def get(self, setting: _Setting[T], flag: object | None, default: T) -> T:
        """Return the value of a key; after a problem the default, so that reading can go on."""
        if flag is not None:
            return self._parse(setting, setting.flag, flag, default)
        variable = self._environ.get(setting.variable) if setting.variable else None
        if variable:
            return self._parse(setting, setting.variable, setting.from_text(variable), default)
        if (setting.section, setting.key) in self._file:
            value = self._file[(setting.section, setting.key)]
            return self._parse(setting, self._label(setting), value, default)
        return default

    def limits(self) -> Limits:
        """Return the limits, which only the file can change."""
        default = Limits()
        changed = {
            setting.key: self.get(setting, None, getattr(default, setting.key))
            for setting in _LIMITS
        }
        return replace(default, **changed)

    def finish(self) -> None:
        """Raise Invalid where anything was wrong; `fields["problems"]` has one a line."""
        if not self.problems:
            return
        count = len(self.problems)
        title = "the configuration is not valid" if count == 1 else f"{count} problems"
        raise Invalid(
            f"{title}: {'; '.join(self.problems)}",
            field="configuration",
            problems="\n".join(self.problems),
        )

    def _parse(self, setting: _Setting[T], label: str, value: object, default: T) -> T:
        try:
            return setting.parse(value)
        except Invalid as error:
            problem = f"{label}: {error.message}"
            if problem not in self.problems:
                self.problems.append(problem)
            return default

    def _label(self, setting: _Setting[T]) -> str:
        return f"{self._shown}: {setting.section}.{setting.key}"

    def _load(self, *, is_named: bool) -> dict[str, object]:
        try:
            with self._path.open("rb") as file:
                return tomllib.load(file)
        except FileNotFoundError:
            if is_named:
                self.problems.append(f"{self._shown}: there is no such configuration file")
        except OSError as error:
            self.problems.append(f"{self._shown}: it cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self.problems.append(f"{self._shown}: it is not UTF-8 text")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{self._shown}: it is not TOML: {error}")
        return {}

    def _check(self, found: dict[tuple[str, str], object]) -> dict[tuple[str, str], object]:
        known = {(setting.section, setting.key): setting for setting in _SETTINGS}
        for (section, key), value in found.items():
            setting = known.get((section, key))
            if setting is not None:
                self._parse(setting, self._label(setting), value, None)
                continue
            name = f"{section}.{key}" if section else key
            self.problems.append(f"{self._shown}: '{_printable(name)}' is not a known key")
        return {place: value for place, value in found.items() if place in known}


def _flatten(table: dict[str, object], section: str = "") -> dict[tuple[str, str], object]:
    """Return each value by (section, key); a table that is no known section is a value itself."""
    sections = {setting.section for setting in _SETTINGS}
    flat: dict[tuple[str, str], object] = {}
    for key, value in table.items():
        name = f"{section}.{key}" if section else key
        if isinstance(value, dict) and name in sections:
            flat.update(_flatten(value, name))
        else:
            flat[(section, key)] = value
    return flat

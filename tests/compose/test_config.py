"""The configuration: sources in order, every problem told at once, an example that cannot drift."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from syncline.compose.config import (
    Address,
    ClientConfig,
    ClientFlags,
    MountConfig,
    MountFlags,
    ServeConfig,
    ServeFlags,
    default_data,
    load_client,
    load_data,
    load_mount,
    load_serve,
    parse_address,
    parse_volume,
)
from syncline.core.trees import Mode
from syncline.errors import Invalid
from syncline.server.limits import Limits

EXAMPLE = Path(__file__).parents[2] / "docs" / "config.example.toml"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the machine's own configuration out of the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def problems(error: pytest.ExceptionInfo[Invalid]) -> list[str]:
    return error.value.fields["problems"].split("\n")


class TestSources:
    def test_nothing_said_gives_the_defaults(self) -> None:
        assert load_client({}, ClientFlags()) == ClientConfig()
        assert load_serve({}, ServeFlags()) == ServeConfig()
        assert ServeConfig().data == default_data()
        assert load_data({}, ServeFlags()) == default_data()

    def test_environment_goes_before_file_and_flag_before_both(self, home: Path) -> None:
        file = write(
            home / "c.toml",
            '[client]\nserver = "file:1"\nvolume = "file"\ntimeout_s = 1\nname = "file"\n',
        )
        environ = {"SYNCLINE_SERVER": "environ:2", "SYNCLINE_VOLUME": "environ"}
        config = load_client(environ, ClientFlags(config=file, server="flag:3"))
        assert config == ClientConfig("flag:3", "environ", 1.0, "file")

    def test_environment_has_every_variable_of_a_client(self) -> None:
        environ = {
            "SYNCLINE_SERVER": "[::1]:5",
            "SYNCLINE_VOLUME": "v",
            "SYNCLINE_TIMEOUT": "2.5",
            "SYNCLINE_NAME": "Änne",
        }
        assert load_client(environ, ClientFlags()) == ClientConfig("[::1]:5", "v", 2.5, "Änne")

    def test_environment_and_flags_of_a_server(self) -> None:
        environ = {"SYNCLINE_DATA": "here", "SYNCLINE_LISTEN": "[::1]:0", "SYNCLINE_VOLUME": "v"}
        config = load_serve(environ, ServeFlags())
        assert (config.data, config.listen, config.volume) == (Path("here"), "[::1]:0", "v")
        assert load_serve(environ, ServeFlags(data=Path("there"))).data == Path("there")
        assert load_data(environ, ServeFlags()) == Path("here")

    def test_an_empty_variable_says_nothing(self) -> None:
        environ = {"SYNCLINE_SERVER": "", "SYNCLINE_CONFIG": ""}
        assert load_client(environ, ClientFlags()) == ClientConfig()

    def test_the_default_file_is_read_where_there_is_one(self, home: Path) -> None:
        write(home / "xdg" / "syncline" / "config.toml", '[client]\nvolume = "mine"\n')
        assert load_client({}, ClientFlags()).volume == "mine"

    def test_the_environment_names_a_file_and_the_flag_another(self, home: Path) -> None:
        one = write(home / "one.toml", '[client]\nvolume = "one"\n')
        two = write(home / "two.toml", '[client]\nvolume = "two"\n')
        environ = {"SYNCLINE_CONFIG": str(one)}
        assert load_client(environ, ClientFlags()).volume == "one"
        assert load_client(environ, ClientFlags(config=two)).volume == "two"

    def test_limits_come_from_the_file(self, home: Path) -> None:
        file = write(home / "c.toml", "[server.limits]\nstores_max = 7\nheartbeat_s = 2\n")
        limits = load_serve({}, ServeFlags(config=file)).limits
        assert (limits.stores_max, limits.heartbeat_s) == (7, 2.0)
        assert limits.watches_max == Limits().watches_max

    def test_data_in_the_file_may_start_at_home(self, home: Path) -> None:
        file = write(home / "c.toml", '[server]\ndata = "~/store"\n')
        assert load_serve({}, ServeFlags(config=file)).data == home / "store"

    def test_a_wrong_variable_that_a_flag_overrides_is_no_problem(self) -> None:
        environ = {"SYNCLINE_SERVER": "nowhere"}
        assert load_client(environ, ClientFlags(server="a:1")).server == "a:1"


class TestMount:
    def test_nothing_said_gives_the_defaults(self) -> None:
        config = load_mount({}, ClientFlags(), MountFlags(b"work"))
        assert config == MountConfig(b"work", ClientConfig(), Mode.TWO_WAY, None)

    def test_environment_goes_before_file_and_flag_before_both(self, home: Path) -> None:
        file = write(home / "c.toml", '[client]\nname = "file"\n[mount]\nmode = "send-only"\n')
        named = ClientFlags(config=file)
        assert load_mount({}, named, MountFlags(b"d")).mode is Mode.SEND_ONLY
        environ = {"SYNCLINE_MODE": "two-way", "SYNCLINE_NAME": "environ"}
        assert load_mount(environ, named, MountFlags(b"d")).mode is Mode.TWO_WAY
        assert load_mount(environ, named, MountFlags(b"d")).client.name == "environ"
        flags = ClientFlags(config=file, name="flag", volume="v")
        config = load_mount(environ, flags, MountFlags(b"d", "receive-only", home))
        assert config == MountConfig(
            b"d", ClientConfig(volume="v", name="flag"), Mode.RECEIVE_ONLY, home
        )

    def test_all_problems_are_told_together(self, home: Path) -> None:
        file = write(home / "c.toml", '[mount]\nmode = 3\nstate = "/x"\n')
        with pytest.raises(Invalid) as error:
            load_mount(
                {},
                ClientFlags(config=file, server="nowhere", name=""),
                MountFlags(b"d", "both-ways"),
            )
        told = problems(error)
        expected = [
            f"{file}: mount.mode: '3' is not one of two-way, send-only, receive-only",
            f"{file}: 'mount.state' is not a known key",
            "--server: 'nowhere' is not HOST:PORT",
            "--name: '' is not a name of 1 to 128",
            "--mode: 'both-ways' is not one of two-way, send-only, receive-only",
        ]
        assert len(told) == len(expected)
        assert all(each in "\n".join(told) for each in expected)


class TestProblems:
    def test_all_are_told_together_each_with_its_source(self, home: Path) -> None:
        file = write(
            home / "c.toml",
            '[client]\nserver = "nowhere"\ncolour = "red"\n[server]\nlisten = 5\n[server.limits]\n'
            "stores_max = 0\n[extra]\na = 1\n",
        )
        environ = {"SYNCLINE_VOLUME": "a/b", "SYNCLINE_TIMEOUT": "soon"}
        with pytest.raises(Invalid) as error:
            load_client(environ, ClientFlags(config=file, server="x:99999"))
        told = problems(error)
        expected = [
            f"{file}: client.server: 'nowhere' is not HOST:PORT",
            f"{file}: 'client.colour' is not a known key",
            f"{file}: server.listen: '5' is not a text",
            f"{file}: server.limits.stores_max: '0' is out of range",
            f"{file}: 'extra' is not a known key",
            "--server: 'x:99999' has a port that is out of range",
            "SYNCLINE_VOLUME: 'a/b' is not a volume name",
            "SYNCLINE_TIMEOUT: 'soon' is not a number of seconds",
        ]
        assert len(told) == len(expected)
        for problem, start in zip(told, expected, strict=True):
            assert problem.startswith(start)
            assert problem in error.value.message

    def test_a_wrong_value_of_the_file_is_told_once(self, home: Path) -> None:
        file = write(home / "c.toml", '[client]\nvolume = ""\n')
        with pytest.raises(Invalid) as error:
            load_client({}, ClientFlags(config=file))
        assert len(problems(error)) == 1

    def test_a_named_file_must_be_there(self, home: Path) -> None:
        for environ, flags in (
            ({"SYNCLINE_CONFIG": str(home / "none")}, ClientFlags()),
            ({}, ClientFlags(config=home / "none")),
        ):
            with pytest.raises(Invalid, match="there is no such configuration file"):
                load_client(environ, flags)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"[client\n", "it is not TOML"),
            (b'[client]\nname = "\xff"\n', "it is not UTF-8"),
            (b"client = 3\n", "'client' is not a known key"),
            (b"[server]\nlimits = 3\n", "'server.limits' is not a known key"),
            (b"[client]\ntimeout_s = 0\n", "out of range"),
            (b"[client]\ntimeout_s = nan\n", "out of range"),
            (b"[client]\ntimeout_s = inf\n", "out of range"),
            (b"[client]\ntimeout_s = true\n", "not a number"),
            (b'[client]\nname = "a\\nb"\n', "printable"),
            (b'[client]\nname = ""\n', "printable"),
            (b'[server]\ninsecure = "yes"\n', "not true or false"),
            (b'[server]\ndata = "here"\n', "not an absolute directory"),
            (b'[server]\ndata = "~nobody-of-this-name/x"\n', "home directory is not known"),
            (b'[server]\ndata = "/a\\u0000b"\n', "not an absolute directory"),
            (b"[server.limits]\nstores_max = 1.5\n", "not a whole number"),
            (b"[server.limits]\nstores_max = true\n", "not a whole number"),
        ],
    )
    def test_wrong_files(self, home: Path, content: bytes, reason: str) -> None:
        file = home / "c.toml"
        file.write_bytes(content)
        with pytest.raises(Invalid, match=re.escape(reason)):
            load_client({}, ClientFlags(config=file))

    def test_a_directory_is_no_file(self, home: Path) -> None:
        with pytest.raises(Invalid, match="it cannot be read"):
            load_client({}, ClientFlags(config=home))


class TestListen:
    @pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:1", "[::1]:1", "localhost:1"])
    def test_loopback_needs_no_flag(self, listen: str) -> None:
        assert load_serve({}, ServeFlags(listen=listen)).listen == listen

    @pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1"])
    def test_others_need_insecure(self, listen: str) -> None:
        with pytest.raises(Invalid, match="--insecure"):
            load_serve({}, ServeFlags(listen=listen))
        config = load_serve({}, ServeFlags(listen=listen, is_insecure=True))
        assert (config.listen, config.is_insecure) == (listen, True)

    def test_a_client_does_not_mind(self, home: Path) -> None:
        file = write(home / "c.toml", '[server]\nlisten = "0.0.0.0:1"\n')
        assert load_client({}, ClientFlags(config=file)) == ClientConfig()


class TestValues:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("127.0.0.1:42001", Address("127.0.0.1", 42001)),
            ("[::1]:1", Address("::1", 1)),
            ("a-b.example.org:65535", Address("a-b.example.org", 65535)),
        ],
    )
    def test_addresses(self, text: str, address: Address) -> None:
        assert parse_address(text) == address
        assert str(address) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a",
            ":1",
            "a:",
            "a:x",
            "a:0",
            "a:65536",
            "::1:42",
            "[::1]",
            "[a]:1",
            "a b:1",
            "a:1 ",
            "-a:1",
            "[]:1",
            "a:١",
            "a\n:1",
            "http://a:1",
            "a:1\n",
        ],
    )
    def test_no_addresses(self, text: str) -> None:
        with pytest.raises(Invalid):
            parse_address(text)

    @pytest.mark.parametrize("text", ["a", "A.b_c-9", "x" * 64])
    def test_volumes(self, text: str) -> None:
        assert parse_volume(text) == text

    @pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a b", "x" * 65, "é", "a\n"])
    def test_no_volumes(self, text: str) -> None:
        with pytest.raises(Invalid):
            parse_volume(text)


class TestExample:
    def test_it_equals_the_defaults(self) -> None:
        assert load_client({}, ClientFlags(config=EXAMPLE)) == ClientConfig()
        assert load_serve({}, ServeFlags(config=EXAMPLE)) == ServeConfig()
        mounted = load_mount({}, ClientFlags(config=EXAMPLE), MountFlags(b"d"))
        assert mounted == MountConfig(b"d")

    def test_it_has_every_key_and_those_that_are_commented_out_are_real(self, home: Path) -> None:
        text = re.sub(r"(?m)^#(\w+ = )", r"\1", EXAMPLE.read_text("utf-8"))
        keys = re.findall(r"(?m)^(\w+) = ", text)
        limits = [field.name for field in fields(Limits)]
        client = ["server", "volume", "timeout_s", "name", "mode"]
        server = ["data", "listen", "volume", "mount", "insecure"]
        assert sorted(keys) == sorted([*client, *server, *limits])
        file = write(home / "c.toml", text)
        assert load_client({}, ClientFlags(config=file)).name == "anna@laptop"
        assert load_serve({}, ServeFlags(config=file)).data == Path("/srv/syncline")

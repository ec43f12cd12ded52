"""Syncthing: a node for the server and one for each client, which know the server alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from benchmarks.daemons import Daemon, Meter, until_listening
from benchmarks.measure import Trouble, free_port
from benchmarks.peers.site import Site, missing_tool, prepare

OPTIONS = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "crashReportingEnabled": "false",
    "urAccepted": "-1",
    "autoUpgradeIntervalH": "0",
    "startBrowser": "false",
    "setLowPriority": "false",
    "reconnectionIntervalS": "5",
}
"""Nothing but what is on the loopback, and no politeness to other programs."""


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    home: Path
    folder: Path
    device: str
    port: int


@dataclass(frozen=True, slots=True)
class Syncthing:
    """Watchers with the least delay that can be set, a second; no rescans, no GUI."""

    name: str = "Syncthing"
    is_by_hand: bool = False
    is_one_way: bool = False

    def absent(self) -> str:
        """It is a package of its own."""
        return missing_tool("syncthing", "syncthing")

    def version(self) -> str:
        """Return what `syncthing --version` says."""
        return subprocess.check_output(["syncthing", "--version"], text=True).split()[1]

    @contextmanager
    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> Iterator[Site]:
        """Run the nodes with keys of their own."""
        names = ["stored", *(chr(ord("A") + number) for number in range(clients))]
        folders = prepare(home, names, filled)
        nodes = [_node(home, folder) for folder in folders]
        server, *others = nodes
        # The clients call the server, and not the reverse: two calls at once cost 20 s.
        _configure(server, others, calls=False)
        for node in others:
            _configure(node, [server], calls=True)
        with ExitStack() as stack:
            daemons = [stack.enter_context(_daemon(server))]
            until_listening(server.port, daemons[0])
            daemons += [stack.enter_context(_daemon(node)) for node in others]
            site = Site(
                folders[1],
                tuple(folders[2:]),
                {
                    "A": Meter((daemons[1],)),
                    "server": Meter((daemons[0],)),
                    "B": Meter((daemons[2],)),
                },
                stop_b=daemons[2].stop,
                start_b=daemons[2].start,
            )
            site.settle()
            yield site


def _node(home: Path, folder: Path) -> _Node:
    own = home / f"{folder.name}-home"
    command = ["syncthing", "generate", f"--home={own}", "--no-default-folder"]
    made = subprocess.run(command, capture_output=True, text=True, env=_ENV, check=False)
    if made.returncode:
        raise Trouble(f"syncthing generate: {made.stdout[-200:]}{made.stderr[-200:]}")
    asked = ["syncthing", f"--home={own}", "--device-id"]
    device = subprocess.check_output(asked, text=True, env=_ENV).split()[-1]
    return _Node(folder.name, own, folder, device, free_port())


def _configure(node: _Node, known: Sequence[_Node], *, calls: bool) -> None:
    (node.folder / ".stfolder").mkdir(exist_ok=True)
    root = Xml.Element("configuration", version="35")
    folder = Xml.SubElement(
        root,
        "folder",
        id="tree",
        path=str(node.folder),
        type="sendreceive",
        rescanIntervalS="0",
        fsWatcherEnabled="true",
        fsWatcherDelayS="1",
    )
    Xml.SubElement(folder, "minDiskFree", unit="%").text = "0"
    for each in (node, *known):
        Xml.SubElement(folder, "device", id=each.device)
        device = Xml.SubElement(root, "device", id=each.device, name=each.name)
        address = f"tcp://127.0.0.1:{each.port}" if calls else "dynamic"
        Xml.SubElement(device, "address").text = address
    Xml.SubElement(root, "gui", enabled="false")
    options = Xml.SubElement(root, "options")
    Xml.SubElement(options, "listenAddress").text = f"tcp://127.0.0.1:{node.port}"
    for name, value in OPTIONS.items():
        Xml.SubElement(options, name).text = value
    Xml.ElementTree(root).write(node.home / "config.xml")


_ENV = os.environ | {"STNOUPGRADE": "1", "STNODEFAULTFOLDER": "1"}


def _daemon(node: _Node) -> Daemon:
    command = ["syncthing", "serve", f"--home={node.home}", "--no-browser", "--no-restart"]
    return Daemon(command, node.home / "log", _ENV)

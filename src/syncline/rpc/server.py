"""The gRPC server: the service, health and reflection on one address."""

from __future__ import annotations

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from syncline.errors import InUse
from syncline.rpc.channel import SERVER_OPTIONS
from syncline.rpc.interceptors import with_errors
from syncline.rpc.methods import SERVICE_NAME, generic_handler
from syncline.rpc.servicer import Servicer
from syncline.server.volume import VolumeSet


class RpcServer:
    """Listens for the volumes of a server."""

    def __init__(self, volumes: VolumeSet) -> None:
        self._server = grpc.aio.server(
            options=[
                *SERVER_OPTIONS,
                ("grpc.max_concurrent_streams", volumes.limits.streams_per_connection_max),
            ]
        )
        behaviours = {
            name: with_errors(behaviour)
            for name, behaviour in Servicer(volumes).behaviours().items()
        }
        self._server.add_generic_rpc_handlers((generic_handler(behaviours),))
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    def bind(self, listen: str) -> str:
        """Take the address; return it with the port that the kernel gave.

        Raises InUse when the address cannot be had.
        """
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise InUse(
                f"cannot listen on {listen}: another process does, or it is no address of this "
                "machine; name another one with --listen",
                address=listen,
            ) from error
        return f"{listen.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Answer calls from now on."""
        await self._server.start()
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, tell health, give calls under way `grace_s`, then cut them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

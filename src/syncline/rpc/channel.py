"""Options of connections, with their reasons, and how a client opens one.

The BDP probe of gRPC stays on: without it the flow-control window of a fast link is too small.
"""

from __future__ import annotations

import grpc.aio

from syncline import __version__

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Both ways; gRPC refuses by the length prefix, and stops unpacking a compressed one there."""

KEEPALIVE_S = 20
KEEPALIVE_TIMEOUT_S = 10
"""A half-open link is noticed within 30 s, under the 60 s that users are told."""

_PING_INTERVAL_MIN_S = 10
"""What a server allows: half of what a client does, so that late pings in a row are no offence."""

PENDING_MAX = 20_000
"""gRPC's default answers CANCELLED when a thousand clients come back at once."""

HANDSHAKE_S = 10

_METADATA_BYTES_MAX = 16 * 1024

Options = list[tuple[str, int | str]]

_COMMON: Options = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", _METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", _METADATA_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
]

CLIENT_OPTIONS: Options = [
    *_COMMON,
    ("grpc.primary_user_agent", f"syncline/{__version__}"),
    # A watcher may be silent for hours; the ping tells that the server is still there.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Else the channels of one process share a connection, and so its limit of streams.
    ("grpc.use_local_subchannel_pool", 1),
    # Never longer without a try than a user waits; our wrapper adds the jitter between calls.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3000),
    # In spite of its name this is how long one try to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Repeating is decided in one place, by op ids, and not by gRPC; no TXT look-ups either.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
]

SERVER_OPTIONS: Options = [
    *_COMMON,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Without it a client's own keepalive ends in GOAWAY too_many_pings.
    ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MIN_S * 1000),
    ("grpc.server.max_pending_requests", PENDING_MAX),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_MAX),
    # A connection that says nothing does not stay.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
    # A second server on the port is refused instead of taking half of the connections.
    ("grpc.so_reuseport", 0),
]


def open_channel(target: str) -> grpc.aio.Channel:
    """Return a channel to `host:port` or `unix:path`; it connects with the first call."""
    return grpc.aio.insecure_channel(target, options=CLIENT_OPTIONS)

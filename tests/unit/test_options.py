import json

import pytest

from tessera.rpc.options import api_methods, channel_options, server_options, service_config


def test_the_server_allows_the_pings_that_clients_send() -> None:
    client, server = dict(channel_options(1024, "127.0.0.1:8010")), dict(server_options(1024))
    for option in ("grpc.http2.min_recv_ping_interval_without_data_ms", "grpc.http2.min_ping_interval_without_data_ms"):
        assert int(server[option]) < int(client["grpc.keepalive_time_ms"])
    assert client["grpc.keepalive_permit_without_calls"] == server["grpc.keepalive_permit_without_calls"] == 1


def test_both_sides_cap_messages_in_both_directions() -> None:
    for options in (channel_options(1024, "127.0.0.1:8010"), server_options(1024)):
        assert dict(options)["grpc.max_receive_message_length"] == dict(options)["grpc.max_send_message_length"] == 1024


def test_connections_are_renewed_and_their_calls_get_time_to_end() -> None:
    options = dict(server_options(1024))
    assert int(options["grpc.max_connection_age_ms"]) >= 600_000
    assert int(options["grpc.max_connection_age_grace_ms"]) >= 60_000


def test_a_taken_port_is_not_shared() -> None:
    assert dict(server_options(1024))["grpc.so_reuseport"] == 0


def test_only_methods_that_change_nothing_are_retried_and_only_when_unavailable() -> None:
    config = json.loads(service_config())
    (methods,) = config["methodConfig"]
    assert methods["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    names = {f"{name['service']}/{name['method']}" for name in methods["name"]}
    everything = {f"{name['service']}/{name['method']}" for name in api_methods()}
    assert names == {name for name in everything if name.rpartition("/")[2].startswith(("Get", "List"))}
    assert {"tessera.api.registry.v1.RegistryService/GetModel", "tessera.api.trainer.v1.TrainerService/ListJobs"} <= names
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]


@pytest.mark.parametrize(
    ("host", "through_proxy"),
    [
        *(("127.0.0.1", 0), ("[::1]", 0), ("localhost", 0), ("registry", 0)),
        *(("registry.example.com", 1), ("192.0.2.7", 1), ("[2001:db8::7]", 1)),
    ],
)
def test_the_proxy_of_the_environment_is_for_other_networks_alone(host: str, through_proxy: int) -> None:
    assert dict(channel_options(1024, f"{host}:8010"))["grpc.enable_http_proxy"] == through_proxy


def test_of_several_servers_the_first_is_looked_for_in_certificates_and_no_proxy_is_asked() -> None:
    options = dict(channel_options(1024, "ipv4:192.0.2.7:8101,192.0.2.8:8101"))
    assert options["grpc.default_authority"] == "192.0.2.7:8101"
    assert options["grpc.enable_http_proxy"] == 0

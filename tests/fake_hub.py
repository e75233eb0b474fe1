"""As much of the Hub as create, upload, validate and download need, on localhost."""

import base64
import hashlib
import json
import os
import signal
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub
from card_rules import problems
from transformers.utils.hub import hf_api

TOKEN = "hf_good"


class FakeHub:
    """Repositories in memory.

    Attributes:
        repos: name -> {"visibility": None or a word, "branches": {branch: {path: bytes}}}.
        failures: what the next commits meet: a status, "drop" (the connection is closed), or a function that
            gives one of them or None.
        commits: the message of every commit, in order.
    """

    def __init__(self):
        self.repos, self.failures, self.commits = {}, [], []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.handle_error = lambda *_: None  # a client that went away in the middle
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def files(self, repo, branch="main"):
        return self.repos[repo]["branches"][branch]

    def put(self, repo, folder):
        """A repository with the files of a folder, as if somebody had uploaded it; its commit."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repos[repo] = {"visibility": None, "branches": {"main": files}}
        return _sha(files)


def use(hub, monkeypatch, cache):
    """Let this process talk to a fake Hub, with a good token."""
    constants = huggingface_hub.constants
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    for api in (hf_api(), huggingface_hub.hf_api.api):  # of transformers, and of huggingface_hub's own functions
        monkeypatch.setattr(api, "endpoint", hub.url)  # they keep the first one for good
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def interrupt():
    """For `failures`: Ctrl-C in the main thread, in the middle of a commit that then fails."""
    os.kill(os.getpid(), signal.SIGINT)
    return 500


def _sha(files):
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self, status=200, body=None, headers=()):
            data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
            self.send_response(status)
            for name, value in [*dict(headers).items(), ("Content-Length", str(len(data)))]:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def drop(self):
            """Close the connection before the upload has come through."""
            self.rfile.read(100)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def do_POST(self):
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            failure = hub.failures.pop(0) if "commit" in parts and hub.failures else None
            if failure == "drop":
                return self.drop()
            body = self.body()
            if parts == ["api", "validate-yaml"]:
                errors, warnings = (
                    [{"message": text} for text in texts] for texts in problems(json.loads(body)["content"])
                )
                return self.answer(400 if errors else 200, {"errors": errors, "warnings": warnings})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, {"error": "Invalid credentials"})
            if parts[:3] == ["api", "repos", "create"]:
                given = json.loads(body)
                name = f"{given.get('organization') or 'me'}/{given['name']}"
                if given.get("organization") == "strangers":
                    return self.answer(403, {"error": "Forbidden"})
                if name in hub.repos:
                    return self.answer(409, {"url": f"{hub.url}/{name}"})
                hub.repos[name] = {"visibility": given.get("visibility"), "branches": {"main": {}}}
                return self.answer(200, {"url": f"{hub.url}/{name}"})
            repo, call, branch = "/".join(parts[2:4]), parts[4], parts[5]
            if call == "branch":
                branches = hub.repos[repo]["branches"]
                if branch in branches:
                    return self.answer(409, {"error": "exists"})
                branches[branch] = dict(branches["main"])
                return self.answer(200)
            if call == "preupload":
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                return self.answer(200, {"files": modes})
            failure = failure() if callable(failure) else failure
            if failure is not None:
                return self.answer(failure, {"error": "made to fail"})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    hub.commits.append(line["value"]["summary"])
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.repos[repo]["branches"][branch][line["value"]["path"]] = content
            sha = _sha(hub.files(repo, branch))
            return self.answer(200, {"commitUrl": f"{hub.url}/{repo}/commit/{sha}", "commitOid": sha})

        def do_GET(self):
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if parts[0] == "api":
                repo, branch = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            else:
                repo, branch = "/".join(parts[:2]), parts[3]
            known = hub.repos.get(repo)
            if known is None:
                return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
            if branch not in known["branches"]:
                shas = {_sha(files): name for name, files in known["branches"].items()}
                branch = shas.get(branch, "")
            if not branch:
                return self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            files = hub.files(repo, branch)
            if parts[0] == "api":
                siblings = [{"rfilename": path} for path in files]
                return self.answer(
                    200, {"id": repo, "sha": _sha(files), "siblings": siblings, "private": False, "tags": []}
                )
            path = "/".join(parts[4:])
            if path not in files:
                return self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _sha(files)})
            etag = hashlib.sha1(files[path]).hexdigest()
            return self.answer(200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": _sha(files)})

        do_HEAD = do_GET

    return Handler

"""As much of the Hub as create, upload and download need, on localhost."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_good"


class FakeHub:
    """Repositories in memory.

    Attributes:
        repos: name -> {"private": bool or None, "branches": {branch: {path: bytes}}}.
        failures: statuses that the next commits are answered with.
    """

    def __init__(self):
        self.repos, self.failures, self.num_commits = {}, [], 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
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

        def do_POST(self):
            parts, body = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")], self.body()
            if parts == ["api", "validate-yaml"]:
                return self.answer(200, {"errors": [], "warnings": []})
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
            if hub.failures:
                return self.answer(hub.failures.pop(0), {"error": "made to fail"})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.repos[repo]["branches"][branch][line["value"]["path"]] = content
            hub.num_commits += 1
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
                return self.answer(200, {"id": repo, "sha": _sha(files), "siblings": siblings, "private": False})
            path = "/".join(parts[4:])
            if path not in files:
                return self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _sha(files)})
            etag = hashlib.sha1(files[path]).hexdigest()
            return self.answer(200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": _sha(files)})

        do_HEAD = do_GET

    return Handler

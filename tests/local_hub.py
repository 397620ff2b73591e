"""A stand-in of the hub's HTTP interface on this machine, for pushing and fetching one repository."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

REPOSITORY = "somebody/toy"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as pushing and fetching one repository needs.

    The server's `files` are the repository's newest commit, `commits` the earlier ones, by name.
    """

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.failure:
            self.fail(*self.server.failure)
            return
        path = self.path.partition("?")[0]
        commits = self.server.commits
        if path.startswith(f"/api/models/{REPOSITORY}"):
            revision = path.removeprefix(f"/api/models/{REPOSITORY}").split("/")[-1]
            commit = self.commit(revision)
            if "/tree/" in path:
                self.answer(
                    [
                        {
                            "type": "file",
                            "path": name,
                            "size": len(content),
                            "oid": "0" * 40,
                        }
                        for name, content in commits[commit].items()
                    ]
                )
            elif commit not in commits:
                self.answer({"error": "no such revision"}, 404)
            else:
                siblings = [{"rfilename": name} for name in commits[commit]]
                self.answer({"id": REPOSITORY, "sha": commit, "siblings": siblings})
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            revision, _, name = path.partition("/resolve/")[2].partition("/")
            content = commits[self.commit(revision)][name]
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", self.commit(revision))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
        else:
            self.answer({"error": f"no {path}"}, 404)

    def fail(self, code, headers):
        """An error of the hub's; with 200 an answer that breaks off."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "100" if code == 200 else "0")
        self.end_headers()

    def commit(self, revision):
        return self.server.newest if revision in ("", "toy", "main") else revision

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if self.server.refuses:
            self.answer({"error": "not yours"}, 403)
        elif path == "/api/repos/create":
            self.answer({"url": f"{self.server.url}/{REPOSITORY}", "name": REPOSITORY})
        elif path == "/api/validate-yaml":
            assert json.loads(content)["content"].startswith("---\n")
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(content)["files"]
            self.answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs"
                            if file["path"].endswith("s")
                            else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            self.answer(
                {
                    "transfer": "basic",
                    "objects": [
                        {
                            **entry,
                            "actions": {
                                "upload": {
                                    "href": f"{self.server.url}/lfs/{entry['oid']}"
                                }
                            },
                        }
                        for entry in objects
                    ],
                }
            )
        elif "/commit/" in path:
            self.answer(self.take(content))
        else:
            self.answer({"error": f"no {path}"}, 404)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.lfs[self.path.rpartition("/")[2]] = content
        self.answer({})

    def take(self, content):
        """A commit: a JSON object a line, its head first."""
        files = dict(self.server.commits.get(self.server.newest, {}))
        for line in content.decode().splitlines()[1:]:
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = hashlib.sha1(content).hexdigest()
        self.server.commits[oid] = files
        self.server.newest = oid
        return {
            "commitUrl": f"{self.server.url}/{REPOSITORY}/commit/{oid}",
            "commitOid": oid,
        }

    def answer(self, value, code=200):
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def local_hub(cache, monkeypatch):
    """A block in which huggingface_hub asks the stand-in, its server, and keeps what it fetches in `cache`."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.commits = {
        "0" * 40: {
            ".gitattributes": b"",
            "model.json": b"{}",
            "codecs/old/a.bin": b"old",
        }
    }
    server.newest = "0" * 40
    server.lfs, server.asked, server.refuses = {}, [], False
    server.failure = None  # a status and headers, with which all is answered
    Thread(target=server.serve_forever, daemon=True).start()

    # They are read from the environment when the package is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield server
    server.shutdown()
    server.server_close()

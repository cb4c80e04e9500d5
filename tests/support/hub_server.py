"""A small server that speaks as much of the Hugging Face hub's protocol as uploads and downloads of models need."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

import yaml

WRITER, READER = "hf_writer", "hf_reader"  # tokens


class HubServer(ThreadingHTTPServer):
    """Keeps repositories in memory: name -> files. A revision is "main" or the newest commit."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str] = {}
        self.commits = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit_of(self, repository: str) -> str:
        content = self.files[repository]
        return hashlib.sha1(b"".join(name.encode() + content[name] for name in sorted(content))).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self._answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_POST(self) -> None:
        parts, body = urlparse(self.path).path.strip("/").split("/"), self._body()
        if self._token not in (WRITER, READER):
            self._refuse(401)
        elif parts == ["api", "validate-yaml"]:
            meta = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            self._answer(200, {"errors": [] if isinstance(meta, dict) else [{"message": "no mapping"}], "warnings": []})
        elif self._token == READER:
            self._refuse(403)
        elif parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            repository = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            known = repository in self.server.files
            self.server.files.setdefault(repository, {})
            self.server.visibility.setdefault(repository, wanted.get("visibility", "public"))
            self._answer(409 if known else 200, {"url": f"{self.server.address}/{repository}", "name": repository})
        elif parts[4] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            self._answer(200, {"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif parts[4] == "commit":
            repository = "/".join(parts[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[repository][line["value"]["path"]] = content
            self.server.commits += 1
            oid = self.server.commit_of(repository)
            url = f"{self.server.address}/{repository}/commit/{oid}"
            self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
        else:
            self._refuse(404)

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        parts = parts[2:] if parts[:2] == ["api", "models"] else parts
        repository = "/".join(parts[:2])
        if repository not in self.server.files:
            self._refuse(404 if self._token else 401, "RepoNotFound")
            return
        files, commit = self.server.files[repository], self.server.commit_of(repository)
        kind, revision = parts[2:4] if len(parts) > 3 else ("", "main")
        if revision not in ("main", commit):
            self._refuse(404, "RevisionNotFound")
        elif kind == "tree":
            tree = [{"type": "file", "path": f, "size": len(files[f]), "oid": _git_oid(files[f])} for f in files]
            self._answer(200, tree)
        elif kind == "resolve":
            content = files.get("/".join(parts[4:]))
            if content is None:
                self._refuse(404, "EntryNotFound")
            else:
                self._answer(200, content, {"ETag": f'"{_git_oid(content)}"', "X-Repo-Commit": commit})
        else:
            self._answer(200, {"id": repository, "sha": commit, "siblings": [{"rfilename": f} for f in files]})

    do_HEAD = do_GET


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

"""The HTTP server behind every scripted model of this process."""

from __future__ import annotations

import functools
import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from werkzeug import Request as HttpRequest
    from werkzeug import Response


class Model(Protocol):
    """What the server needs from a model."""

    name: str

    def respond(self, http: HttpRequest) -> Response: ...


class Server:
    """One HTTP server for all models of this process, each at its own path."""

    def __init__(self) -> None:
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._models: dict[str, Model] = {}
        self._http = make_server("127.0.0.1", 0, self._application, threaded=True)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def add(self, model: Model) -> str:
        """Serve the model, and return its URL."""
        path = f"m{len(self._models) + 1}"
        self._models[path] = model
        return f"http://127.0.0.1:{self.port}/{path}/v1"

    @property
    def port(self) -> int:
        return self._http.server_port

    @property
    def _application(self) -> Any:
        from werkzeug import Request as HttpRequest
        from werkzeug import Response

        @HttpRequest.application
        def application(request: HttpRequest) -> Response:
            model, _, rest = request.path.strip("/").partition("/")
            match (request.method, rest):
                case ("POST", "v1/chat/completions") if model in self._models:
                    return self._models[model].respond(request)
                case ("GET", "v1/models") if model in self._models:
                    card = {"id": self._models[model].name, "object": "model", "created": 0, "owned_by": "whetstone"}
                    return Response(json.dumps({"object": "list", "data": [card]}), content_type="application/json")
            return Response(
                json.dumps({"error": {"message": f"{request.method} {request.path}: only chat/completions is served"}}),
                404,
                content_type="application/json",
            )

        return application


@functools.cache
def server() -> Server:
    return Server()

"""A headless Chromium, driven by its DevTools protocol through two pipes: no package needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 30  # seconds


class Browser:
    """One page. `complaints` are what its console would show in red: errors, refused sources, exceptions."""

    def __init__(self, profile: Path, language: str = "en-US") -> None:
        assert CHROMIUM is not None
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        words += ["--no-first-run", f"--user-data-dir={profile}", f"--lang={language}", "about:blank"]
        # The protocol's pipes are the descriptors 3 and 4.
        script = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, *words],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._number, self._buffer, self._session = 0, b"", None
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Accessibility"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._commands)  # it ends with its pipe
        self._process.wait(PATIENCE)
        os.close(self._answers)

    def send(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._number:
                assert "error" not in said, (method, said)
                return said["result"]

    def _next(self) -> Any:
        while b"\0" not in self._buffer:
            came = os.read(self._answers, 2**20)
            assert came, "Chromium has ended"
            self._buffer += came
        message, _, self._buffer = self._buffer.partition(b"\0")
        said = json.loads(message)
        if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
            self.complaints.append(said["params"]["entry"]["text"])
        if said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["params"]["exceptionDetails"]))
        return said

    def visit(self, url: str, width: int, height: int, *, dark: bool = False) -> None:
        phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Of JavaScript."""
        said = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, expression: str, holds: Callable[[Any], bool] = bool) -> Any:
        """Its value, once it holds."""
        ends = time.monotonic() + PATIENCE
        while not holds(value := self.value(expression)):
            assert time.monotonic() < ends, f"{expression} is {value!r}; {self.complaints}"
            time.sleep(0.02)
        return value

    def press(self, key: str, times: int = 1) -> None:
        """Tab, Enter or Space; or a text, which is typed."""
        code = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " ")}.get(key)
        if code is None:
            self.send("Input.insertText", text=key)
            return
        number, text = code
        name = " " if key == "Space" else key
        for _ in range(times):
            how = {"key": name, "code": key, "windowsVirtualKeyCode": number}
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **how)
            self.send("Input.dispatchKeyEvent", type="keyUp", **how)

    def choose(self, selector: str, *files: Path) -> None:
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def controls(self) -> list[tuple[str, str]]:
        """Role and name of whatever can be focused, as a screen reader has them."""
        found = []
        for node in self.send("Accessibility.getFullAXTree")["nodes"]:
            properties = {each["name"]: each["value"].get("value") for each in node.get("properties", [])}
            if not node["ignored"] and properties.get("focusable") and node["role"]["value"] != "RootWebArea":
                found.append((node["role"]["value"], node["name"]["value"].strip()))
        return found

    def picture(self, path: Path) -> None:
        """Of the whole page."""
        whole = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(whole["data"]))

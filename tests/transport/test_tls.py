"""TLS: both peers show a certificate of the same authority, and each other peer gets a clear error."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.errors import UsageError
from perdure.ports.transport import Link, Refused, TransportError, TransportOptions, Unreachable
from perdure.testing.conformance.transport import Recorder, peer
from perdure.testing.conformance.transport.scene import LONG_MS, PATIENCE_S, error_of
from perdure.transport.tcp import TcpTransport
from perdure.transport.tls import Tls

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    openssl(
        folder,
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}"),
    )


def certificate(folder: Path, name: str, by: str, alternative: str) -> None:
    openssl(
        folder,
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
    )
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={alternative}\n")
    openssl(
        folder,
        *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key"),
        *("-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", extensions.name),
    )


@dataclass
class Files:
    folder: Path

    def tls(self, name: str = "node", ca: str = "ours", server_name: str | None = None) -> Tls:
        at = self.folder
        return Tls(
            cert=at / f"{name}.pem",
            key=at / f"{name}.key",
            ca=at / f"{ca}.pem",
            server_name=server_name,
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority(folder, "ours")
    authority(folder, "theirs")
    certificate(folder, "node", "ours", "IP:127.0.0.1")
    certificate(folder, "elsewhere", "ours", "DNS:shop.cluster")
    certificate(folder, "stranger", "theirs", "IP:127.0.0.1")
    return Files(folder)


async def linked(listening: Tls | None, connecting: Tls | None) -> TransportError | None:
    """The error with which the two do not meet (None: they meet, and a call is answered)."""
    seen = Recorder()
    options = TransportOptions(handshake_ms=1_000)
    one = TcpTransport(peer("one"), tls=connecting)
    two = TcpTransport(peer("two"), tls=listening, options=options)
    async with one, two:
        address = await two.listen(seen)
        connect = one.connect(address)
        try:
            async with asyncio.timeout(PATIENCE_S):
                link: Link = await connect
        except TransportError as error:
            assert seen.links == []
            return error
        body = bytes(1 << 20)
        assert await link.call("later", body, LONG_MS) == body
        await link.close()
        await seen.until(lambda: bool(seen.ended))
        assert seen.ended == [None]
    return None


async def test_two_nodes_of_one_authority_meet(files: Files) -> None:
    assert await linked(files.tls(), files.tls()) is None


async def test_a_node_with_another_name_is_refused_unless_that_name_is_asked_for(
    files: Files,
) -> None:
    error = await linked(files.tls("elsewhere"), files.tls())
    assert isinstance(error, Refused)
    assert error.reason == "tls"
    assert "127.0.0.1" in str(error)
    asked = files.tls(server_name="shop.cluster")
    assert await linked(files.tls("elsewhere"), asked) is None


@pytest.mark.parametrize("stranger", ["listening", "connecting"])
async def test_a_node_of_another_authority_is_refused(
    files: Files, stranger: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Each trusts its own authority only, so either of the two may be the first to refuse.
    tls = {"listening": files.tls(), "connecting": files.tls()}
    tls[stranger] = files.tls("stranger")
    error = await linked(tls["listening"], tls["connecting"])
    # A peer whose certificate is refused is told so by some Pythons only.
    assert isinstance(error, (Refused, Unreachable))
    assert "certificate" in str(error)
    assert re.search(r"was dropped: \S", caplog.text)


async def test_a_node_without_tls_does_not_meet_a_node_with_it(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(await linked(files.tls(), None), Unreachable)
    assert "was dropped" in caplog.text
    caplog.clear()
    assert isinstance(await linked(None, files.tls()), (Refused, Unreachable))
    assert "was dropped" in caplog.text


async def test_wrong_files_are_found_before_the_node_serves(files: Files, tmp_path: Path) -> None:
    nowhere = Files(tmp_path)
    broken = tmp_path / "node.pem"
    with pytest.raises(UsageError, match=r"node\.pem"):
        TcpTransport(peer("one"), tls=nowhere.tls())
    broken.write_text("no certificate")
    with pytest.raises(UsageError, match=r"node\.pem"):
        TcpTransport(peer("one"), tls=nowhere.tls())
    sound = files.tls()
    with pytest.raises(UsageError, match=r"nowhere\.pem"):
        TcpTransport(peer("one"), tls=Tls(cert=sound.cert, key=sound.key, ca="nowhere.pem"))


async def test_a_peer_that_says_nothing_in_tls_is_dropped(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    options = TransportOptions(handshake_ms=50)
    async with TcpTransport(peer("two"), tls=files.tls(), options=options) as two:
        host, _, port = (await two.listen(Recorder())).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        while "was dropped" not in caplog.text:
            await asyncio.sleep(0.01)


async def test_tls_and_the_token_are_checked_both(files: Files) -> None:
    seen = Recorder()
    one = TcpTransport(peer("one"), tls=files.tls(), token=b"one")
    async with one, TcpTransport(peer("two"), tls=files.tls(), token=b"two") as two:
        error = await error_of(one.connect(await two.listen(seen)))
        assert isinstance(error, Refused)
        assert error.reason == "token"

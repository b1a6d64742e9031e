"""One-time TLS credentials: each side of a migration makes its own and trusts only the other's."""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from migrator.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Credentials:
    """A private key and its self-signed certificate, both PEM, for one migration."""

    key: bytes
    certificate: str

    @classmethod
    def make(cls) -> Credentials:
        """A fresh P-256 key and a certificate valid for a day."""

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "migrator")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # hosts' clocks may differ: the pinned key is the check, not the time
            .not_valid_before(now - datetime.timedelta(days=365))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        encoding = serialization.Encoding.PEM
        private = key.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(private, certificate.public_bytes(encoding).decode())

    def context(self, peer_certificate: str, *, server: bool) -> ssl.SSLContext:
        """A TLS context that trusts *peer_certificate* alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cadata=peer_certificate)
        except (ssl.SSLError, ValueError) as error:
            raise ProtocolError("the peer", f"no certificate: {error}") from error
        # ssl reads keys from files only: one that has no name and never touches a disk
        with open(os.memfd_create("migrator-key"), "wb") as file:
            file.write(self.key + self.certificate.encode())
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context

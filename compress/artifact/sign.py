"""Who made an artifact: a signature over all its files, by OpenSSF's model-signing (extra ``sign``).

Checksums find damage, a signature finds malice: whoever changes a file and the manifest with it lacks the key. Keys are
elliptic-curve keys in files (P-256, P-384, P-521); nothing is sent anywhere, no transparency log is asked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from compress.artifact.manifest import SIGNATURE
from compress.artifact.verify import Finding, verify
from compress.core.errors import ArtifactError, ConfigError
from compress.core.parsing import Missing, Unreadable, read_text

# The password of an encrypted key: not an option, for command lines are seen by all and kept in histories.
PASSWORD = "COMPRESS_KEY_PASSWORD"
_MOST_KEY_BYTES = 2**16


def sign(artifact: Path, key: Path) -> Path:
    """Sign every file of an artifact; a signature that is there is replaced.

    Args:
        artifact: what ``compress run`` wrote, unchanged.
        key: private key, PEM; where it is encrypted, ``COMPRESS_KEY_PASSWORD`` in the environment has its password.

    Returns:
        The signature's file, in the artifact.

    Raises:
        ArtifactError: it is none, or not as it was written, or cannot be written to.
        ConfigError: the key cannot be used, or model-signing is not installed.
    """
    found = verify(artifact)
    if found.findings:
        names = ", ".join(finding.file for finding in found.findings[:5])
        raise ArtifactError(f"'{artifact}' is not as it was written ({names}): not signed; see `compress verify`")
    signing, _, hashing = _library()
    _check_key(key)
    password = os.environ.get(PASSWORD)
    try:
        signer = signing.Config().use_elliptic_key_signer(
            private_key=key, password=password.encode() if password else None
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"cannot sign with '{key}': {error}; it takes an elliptic-curve private key in PEM, made by `openssl "
            f"ecparam -name prime256v1 -genkey -noout -out key.pem`, and {PASSWORD} where it is encrypted"
        ) from None
    file = artifact / SIGNATURE
    temporary = artifact / f".{SIGNATURE}.partial"
    try:
        signer.set_hashing_config(_hashing(hashing)).sign(artifact, temporary)
        temporary.replace(file)
    except OSError as error:
        raise ArtifactError(f"cannot write '{file}': {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return file


def check_signature(artifact: Path, public_key: Path) -> tuple[Finding, ...]:
    """Compare every file of an artifact with what the key's owner signed.

    Args:
        artifact: its directory.
        public_key: a PEM file.

    Returns:
        A finding per file that differs; empty where the signature holds.

    Raises:
        ConfigError: the key cannot be used, or model-signing is not installed.
    """
    _, verifying, hashing = _library()
    _check_key(public_key)
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"cannot check with '{public_key}': {error}; it takes an elliptic-curve public key in PEM, made by "
            "`openssl ec -in key.pem -pubout -out key.pub`"
        ) from None
    from cryptography.exceptions import InvalidSignature

    try:
        # Its size and kind are checked before a library reads it.
        read_text(artifact / SIGNATURE)
        verifier.set_hashing_config(_hashing(hashing)).verify(artifact, artifact / SIGNATURE)
    except Missing:
        return (Finding(SIGNATURE, "missing", "the artifact is not signed; `compress sign` does"),)
    except Unreadable as error:
        return (Finding(SIGNATURE, "changed", str(error)),)
    except InvalidSignature:
        return (Finding(SIGNATURE, "changed", "it was not made with the key of this public key"),)
    # A signature is of others: the library raises these for whatever does not read as one.
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, RecursionError) as error:
        return (Finding(SIGNATURE, "changed", f"it does not hold: {_shortened(str(error))}"),)
    return ()


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError:
        raise ConfigError(
            "signatures need model-signing, which is not installed; install the extra: pip install 'compress[sign]'"
        ) from None
    return signing, verifying, hashing


def _hashing(hashing: Any) -> Any:
    """All files but the signature itself; links are refused by the library."""
    # Names in the artifact: the library takes relative paths to be in the model's directory, not in the current one.
    ignored = [SIGNATURE, f".{SIGNATURE}.partial"]
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _shortened(reason: str) -> str:
    """The library's reason on one line, without digests that nobody compares by eye."""
    return re.sub(r": Expected 'Digest\(.*?\)', Actual 'Digest\(.*?\)'", "", " ".join(reason.split()))[:600]


def _check_key(file: Path) -> None:
    try:
        read_text(file, _MOST_KEY_BYTES)
    except Unreadable as error:
        raise ConfigError(f"cannot read the key '{file}': {error}") from None

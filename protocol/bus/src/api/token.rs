//! The token service: PINs, keys and signatures. The only holder of secrets.

use cml_wire::proto::{CaCertificate, ContainerTrust};

use crate::{
    error::BusError,
    id::ContainerId,
    secret::{Key, Pin},
};

/// What kind of token protects a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKind {
    /// A softtoken: that of the device unless the container has one of its own.
    Soft,
    /// A token behind a PKCS#11 module (crypto.md 1.2).
    Pkcs11 {
        /// The file name of the module below `pkcs11` of the storage base.
        module: String,
    },
}

/// A container with the kind of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which container.
    pub container: ContainerId,
    /// What protects it.
    pub kind: TokenKind,
}

/// Checks the PIN of the token that protects this container. The PIN is verified every time (design.md
/// section 1).
#[derive(Debug)]
pub struct Unlock {
    /// The container that is to be started or stopped.
    pub holder: Holder,
    /// What the operator typed.
    pub pin: Pin,
}

/// Checks the PIN like [`Unlock`], and hands out the key under which the container's volumes are encrypted.
#[derive(Debug)]
pub struct ReleaseKey {
    /// The container that is to be started.
    pub holder: Holder,
    /// What the operator typed.
    pub pin: Pin,
    /// Make a key if there is none. Only for a container that has nothing on disk yet: the volumes of one
    /// whose key is gone can never be read again, and a new key must not hide that.
    pub create: bool,
}

/// Has a PIN typed on a USB keypad beside the device.
#[derive(Debug)]
pub struct EnterPin {
    /// Hexadecimal `vendor:product`.
    pub id: String,
    /// Its serial number.
    pub serial: String,
}

/// Destroys the key of a container: what its volumes hold is gone for good. Its token stays.
#[derive(Debug)]
pub struct DestroyKey {
    /// Whose key.
    pub container: ContainerId,
}

/// The key of what `core0` has stored, which no PIN protects: it makes changes of it noticed, and hides nothing
/// (crypto.md 1.5).
#[derive(Debug)]
pub struct Core0Key {
    /// It has stored nothing yet, so a key that is missing is made.
    pub create: bool,
}

/// Gives a token another PIN: that of the device, or the container's own, which is made if there is none.
#[derive(Debug)]
pub struct ChangePin {
    /// `None` for the token of the device.
    pub holder: Option<Holder>,
    /// The present PIN: that of the device for a container that has no softtoken of its own yet.
    pub old: Pin,
    /// The PIN from now on.
    pub new: Pin,
}

/// Destroys the key of a container and the token that it has of its own; it is about to be gone.
#[derive(Debug)]
pub struct Forget {
    /// Whose token.
    pub container: ContainerId,
}

/// Checks a detached signature over a configuration (crypto.md section 3).
#[derive(Debug)]
pub struct VerifySignature {
    /// The exact bytes that were signed.
    pub data: Vec<u8>,
    /// The raw signature, or a detached CMS one.
    pub signature: Vec<u8>,
    /// PEM: the signer first, then intermediates.
    pub certificate: Vec<u8>,
}

/// What the key of a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKey {
    /// NIST P-256.
    P256,
    /// 4096 bits, as the existing system makes it (crypto.md 4.2).
    Rsa4096,
}

/// The identity of the device. What is missing of it is made: key, certificate request, self-signed certificate
/// (crypto.md section 4).
#[derive(Debug, Clone)]
pub struct Identify {
    /// The common name in a new request.
    pub common_name: String,
    /// What a new key is.
    pub key: DeviceKey,
}

/// The answer to [`Identify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The uuid of the device.
    pub uuid: String,
    /// The certificate request, PEM.
    pub csr: Vec<u8>,
}

/// Replaces the certificate of the device by one that a CA made for its key, after checking it.
#[derive(Debug)]
pub struct InstallCertificate {
    /// PEM: that of the device first, then intermediates.
    pub certificate: Vec<u8>,
}

/// Trusts another CA from now on. Registering one twice changes nothing (crypto.md 3.6).
#[derive(Debug)]
pub struct RegisterCa {
    /// PEM: a root, perhaps with CAs below it.
    pub certificates: Vec<u8>,
    /// As the CA whose signatures are only locally trusted; there can be one.
    pub local: bool,
}

/// All trusted roots.
#[derive(Debug)]
pub struct ListCas;

/// Trusts a registered CA no longer.
#[derive(Debug)]
pub struct RemoveCa {
    /// As [`ListCas`] tells it.
    pub id: String,
}

/// Why the token service refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The PIN does not open the token.
    #[error("wrong PIN")]
    WrongPin,
    /// The PIN does not open the token, which counts that.
    #[error("wrong PIN; after {left} more the token is locked until the device is rebooted")]
    WrongPinCounted {
        /// Wrong PINs until it is locked.
        left: u32,
    },
    /// Too many wrong PINs since boot.
    #[error("the token is locked until the device is rebooted")]
    LockedTillReboot,
    /// The container has no token of its own, and `device.conf` demands one.
    #[error("the container has no PIN of its own yet; set one with `control change_pin`")]
    Unpaired,
    /// The new PIN cannot be used.
    #[error("the new PIN cannot be used: {0}")]
    BadNewPin(&'static str),
    /// The token does not exist yet; self-provisioning is still running.
    #[error("the softtoken is not ready yet; try again in a few seconds")]
    Uninitialised,
    /// The token file cannot be read or is damaged.
    #[error("token `{path}` cannot be used: {reason}")]
    Unusable {
        /// The token file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No PIN was entered on the keypad.
    #[error("{0}")]
    Keypad(String),
    /// The key of a container's volumes is missing or damaged: they can never be read again.
    #[error("key `{path}`: {reason}")]
    KeyLost {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The signer's certificate does not lead to a trusted root.
    #[error("the certificate is not trusted: {reason}{}", what_helps(.0), reason = .0)]
    BadCertificate(String),
    /// The signature does not match the bytes.
    #[error("the signature does not match the file")]
    BadSignature,
    /// What was to be registered is no CA.
    #[error("the CA is refused: {0}")]
    BadCa(String),
    /// No registered CA has this id.
    #[error("there is no registered CA `{0}`; `control ca_list` shows them")]
    NoSuchCa(String),
    /// A root of trust cannot be read or stored.
    #[error("trusted root `{path}` cannot be used: {reason}")]
    BadRoot {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the device's identity is missing or damaged.
    #[error("device identity `{path}`: {reason}")]
    Identity {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What was pushed is no certificate for this device.
    #[error("the device certificate is refused: {0}")]
    BadDeviceCert(String),
    /// The bus could not deliver.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What an operator can do about a certificate that is refused for this reason, in the words of OpenSSL or ours.
fn what_helps(reason: &str) -> &'static str {
    let about = |word: &str| reason.contains(word);
    if about("expired") || about("not yet valid") {
        "; it takes a new certificate, or the right time on the device"
    } else if about("PEM") {
        "; the signature comes before the certificate"
    } else if about("issuer") || about("self-signed") || about("self signed") || about("no root") {
        "; register its root with `control ca_register`, and have intermediates in the file"
    } else {
        ""
    }
}

crate::request!(Unlock => (), TokenError, "token.unlock", 30 s);
crate::request!(ReleaseKey => Key, TokenError, "token.release_key", 30 s);
// A minute for whoever types (runtime.md 6.3).
crate::request!(EnterPin => Pin, TokenError, "token.enter_pin", 70 s);
crate::request!(Core0Key => Key, TokenError, "token.core0_key", 20 s);
crate::request!(DestroyKey => (), TokenError, "token.destroy_key", 20 s);
// A new token needs a new key, which takes seconds.
crate::request!(ChangePin => (), TokenError, "token.change_pin", 120 s);
crate::request!(Forget => (), TokenError, "token.forget", 20 s);
crate::request!(VerifySignature => ContainerTrust, TokenError, "token.verify_signature", 20 s);
// RSA keys take seconds.
crate::request!(Identify => Identity, TokenError, "token.identify", 120 s);
crate::request!(InstallCertificate => (), TokenError, "token.install_certificate", 120 s);
crate::request!(RegisterCa => (), TokenError, "token.register_ca", 20 s);
crate::request!(ListCas => Vec<CaCertificate>, TokenError, "token.list_cas", 20 s);
crate::request!(RemoveCa => (), TokenError, "token.remove_ca", 20 s);

crate::service_port! {
    /// What the holder may ask of the token service.
    TokenPort {
        /// Check a PIN.
        unlock: Unlock,
        /// Check a PIN and hand out the container's key.
        release_key: ReleaseKey,
        /// The key of `core0`.
        core0_key: Core0Key,
        /// Have a PIN typed on a keypad.
        enter_pin: EnterPin,
        /// Destroy a container's key.
        destroy_key: DestroyKey,
        /// Change a PIN.
        change_pin: ChangePin,
        /// Destroy a container's key and own token.
        forget: Forget,
        /// Check a signature; `SIGNED` or `LOCALLY_SIGNED` comes back.
        verify_signature: VerifySignature,
        /// The device's identity.
        identify: Identify,
        /// The device's certificate.
        install_certificate: InstallCertificate,
        /// Trust another CA.
        register_ca: RegisterCa,
        /// Which CAs are trusted.
        list_cas: ListCas,
        /// Trust one no longer.
        remove_ca: RemoveCa,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_certificate_says_what_helps_and_nothing_else() {
        let said = |reason: &str| TokenError::BadCertificate(reason.into()).to_string();
        for (reason, helps) in [
            ("certificate has expired", "the right time"),
            ("unable to get local issuer certificate", "ca_register"),
            (
                "it is no certificate in PEM form: x",
                "signature comes before",
            ),
        ] {
            assert!(said(reason).contains(helps), "{reason}");
        }
        assert!(said("its extended key usage is not code signing").ends_with("signing"));
    }
}

//! The identity of the device: uuid, key, certificate request and certificate (crypto.md section 4).
//!
//! Every file is made once, in this order, each from those before it, so that a start after a power cut goes on
//! where the last one ended. A key is never made anew while something of the old one is left: what a CA has
//! certified would be worth nothing.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use cml_bus::api::token::{DeviceKey, Identify, Identity, TokenError};
use cml_sys::{atomic, file};
use cml_wire::{proto::DeviceId, text};
use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{Id, PKey, PKeyRef, Private},
    rsa::Rsa,
    stack::Stack,
    x509::{
        X509, X509Extension, X509Name, X509Req,
        extension::{ExtendedKeyUsage, KeyUsage, SubjectAlternativeName},
    },
};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{certificate::chain, signature::Roots};

const KEY: &str = "device.key";
const CSR: &str = "device.csr";
const CERTIFICATE: &str = "device.cert";
const ID: &str = "device_id.conf";

/// The constant part of the subject (crypto.md 4.2).
const SUBJECT: [(Nid, &str); 3] = [
    (Nid::COUNTRYNAME, "DE"),
    (Nid::ORGANIZATIONNAME, "Fraunhofer"),
    (Nid::ORGANIZATIONALUNITNAME, "AISEC"),
];

/// What stands before the uuid in the subject's alternative name.
const UUID_URI: &str = "UUID:";

/// How long the certificate counts that the device makes for itself.
const SELF_SIGNED_DAYS: u32 = 365;

/// The files of the identity.
#[derive(Debug, Clone)]
pub struct DeviceFiles {
    dir: PathBuf,
}

impl DeviceFiles {
    /// Those in this directory of tokens.
    pub fn new(tokens: &Path) -> Self {
        Self {
            dir: tokens.to_owned(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The identity; what is missing of it is made.
    ///
    /// # Errors
    /// `Identity` when a file is damaged, lost, or cannot be written.
    pub fn identify(&self, wish: &Identify) -> Result<Identity, TokenError> {
        let uuid = self.uuid()?;
        let key = match self.key()? {
            Some(key) => key,
            None => self.make_key(wish.key)?,
        };
        let csr = self.request(&key, &wish.common_name, &uuid)?;
        self.certificate(&key, &csr)?;
        let path = self.at(CSR);
        let csr = csr.to_pem().map_err(|error| damaged(&path, &error))?;
        Ok(Identity { uuid, csr })
    }

    /// Stores a certificate of a CA after checking that it is one for this device.
    ///
    /// # Errors
    /// `BadDeviceCert`, with the reason.
    pub fn install(&self, pem: &[u8], roots: &Roots) -> Result<(), TokenError> {
        let refused = |reason: &str| TokenError::BadDeviceCert(reason.to_owned());
        let chain = chain(pem).map_err(TokenError::BadDeviceCert)?;
        let (leaf, others) = chain
            .split_first()
            .ok_or_else(|| refused("it holds no certificate in PEM form"))?;
        let key = self.key()?.ok_or_else(|| TokenError::Identity {
            path: self.at(KEY).display().to_string(),
            reason: "the device has no key yet; pull the request first".into(),
        })?;
        let belongs = leaf.public_key().is_ok_and(|public| public.public_eq(&key));
        if !belongs {
            return Err(refused(
                "it was made for another key; sign the request that `control pull_csr` fetches",
            ));
        }
        if let Some(other) = uuid_of(leaf)
            && other != self.uuid()?
        {
            return Err(refused("it names the uuid of another device"));
        }
        let (expired, early) = validity(leaf).map_err(|error| refused(&error.to_string()))?;
        // A clock that nobody has set yet is behind, never ahead (crypto.md 3.3).
        if expired {
            return Err(refused("it has expired; have the request signed again"));
        }
        if early && roots.enforce_validity {
            return Err(refused(
                "it is not valid yet; check the clock of the device",
            ));
        }
        if let Some(reason) = roots.refuse_device(leaf, others)? {
            return Err(TokenError::BadDeviceCert(format!(
                "no registered root vouches for it: {reason}; register its root with \
                 `control ca_register` and send its intermediates along"
            )));
        }
        self.write(CERTIFICATE, pem, 0o644)
    }

    /// The uuid: from its file, else from what an existing system has left, else a new one.
    fn uuid(&self) -> Result<String, TokenError> {
        let path = self.at(ID);
        if let Some(known) = read_id(&path)? {
            return Ok(known);
        }
        let legacy = self.dir.parent().map(|base| base.join(ID));
        let legacy = legacy.map(|path| read_id(&path)).transpose()?.flatten();
        let uuid = match legacy {
            Some(uuid) => uuid,
            None => match self.certified_uuid()? {
                Some(uuid) => uuid,
                None => Uuid::new_v4().to_string(),
            },
        };
        let id = DeviceId { uuid: uuid.clone() };
        self.write(ID, text::print_file(&id).as_bytes(), 0o644)?;
        Ok(uuid)
    }

    fn certified_uuid(&self) -> Result<Option<String>, TokenError> {
        let pem = read(&self.at(CERTIFICATE))?;
        let certificate = pem.and_then(|pem| X509::from_pem(&pem).ok());
        Ok(certificate.and_then(|certificate| uuid_of(&certificate)))
    }

    fn key(&self) -> Result<Option<PKey<Private>>, TokenError> {
        let path = self.at(KEY);
        let Some(pem) = read(&path)?.map(Zeroizing::new) else {
            if self.at(CERTIFICATE).exists() {
                return Err(TokenError::Identity {
                    path: path.display().to_string(),
                    reason:
                        "it is missing, but the device has a certificate: put the key back, or \
                             remove `device.cert` and `device.csr` for a new identity"
                            .into(),
                });
            }
            return Ok(None);
        };
        // The existing system leaves the mode to the umask (crypto.md 9.2).
        let restricted = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
        restricted.map_err(|error| damaged(&path, &error))?;
        // Without a callback openssl would ask on the terminal for the password of a key that has one.
        PKey::private_key_from_pem_callback(&pem, |_| Ok(0))
            .map(Some)
            .map_err(|_| TokenError::Identity {
                path: path.display().to_string(),
                reason: "it is no private key in PEM form without a password; put a copy back"
                    .into(),
            })
    }

    fn make_key(&self, kind: DeviceKey) -> Result<PKey<Private>, TokenError> {
        let path = self.at(KEY);
        tracing::info!(path = %path.display(), ?kind, "making the key of the device");
        let key = generate(kind).map_err(|error| damaged(&path, &error))?;
        let pem = key.private_key_to_pem_pkcs8();
        let pem = Zeroizing::new(pem.map_err(|error| damaged(&path, &error))?);
        self.write(KEY, &pem, 0o600)?;
        Ok(key)
    }

    fn request(
        &self,
        key: &PKeyRef<Private>,
        common_name: &str,
        uuid: &str,
    ) -> Result<X509Req, TokenError> {
        let path = self.at(CSR);
        if let Some(pem) = read(&path)? {
            let found = X509Req::from_pem(&pem).ok();
            let belongs = |found: &X509Req| found.verify(key).unwrap_or(false);
            if let Some(found) = found.filter(belongs) {
                return Ok(found);
            }
            tracing::warn!(path = %path.display(), "not a request of this device; making another");
        }
        let make = || -> Result<(X509Req, Vec<u8>), ErrorStack> {
            let request = make_request(key, common_name, uuid)?;
            let pem = request.to_pem()?;
            Ok((request, pem))
        };
        let (request, pem) = make().map_err(|error| damaged(&path, &error))?;
        self.write(CSR, &pem, 0o644)?;
        Ok(request)
    }

    /// Makes a certificate if there is none. A wrong one is only told of: the request is what helps.
    fn certificate(&self, key: &PKeyRef<Private>, csr: &X509Req) -> Result<(), TokenError> {
        let path = self.at(CERTIFICATE);
        if let Some(pem) = read(&path)? {
            let public = X509::from_pem(&pem).and_then(|found| found.public_key());
            if !public.is_ok_and(|public| public.public_eq(key)) {
                tracing::error!(
                    path = %path.display(),
                    "not a certificate for the key of this device; push another one"
                );
            }
            return Ok(());
        }
        let pem = self_sign(key, csr).and_then(|certificate| certificate.to_pem());
        let pem = pem.map_err(|error| damaged(&path, &error))?;
        self.write(CERTIFICATE, &pem, 0o644)
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), TokenError> {
        let path = self.at(name);
        atomic::write(&path, bytes, mode).map_err(|error| damaged(&path, &error))
    }
}

fn damaged(path: &Path, error: &dyn std::error::Error) -> TokenError {
    TokenError::Identity {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

/// The content of a file, `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, TokenError> {
    match file::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(path, &error.source)),
    }
}

fn read_id(path: &Path) -> Result<Option<String>, TokenError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let id: DeviceId = text::parse(&bytes).map_err(|error| damaged(path, &error))?;
    match Uuid::try_parse(&id.uuid) {
        Ok(uuid) => Ok(Some(uuid.to_string())),
        Err(error) => Err(damaged(path, &error)),
    }
}

/// The uuid of the device that a certificate names, if it names one.
fn uuid_of(certificate: &X509) -> Option<String> {
    let names = certificate.subject_alt_names()?;
    let uris = names.iter().filter_map(|name| name.uri());
    let mut uuids = uris.filter_map(|uri| {
        let uuid = Uuid::try_parse(uri.strip_prefix(UUID_URI)?).ok()?;
        Some(uuid.to_string())
    });
    uuids.next()
}

/// Whether a certificate counts no more, and whether it does not count yet.
fn validity(certificate: &X509) -> Result<(bool, bool), ErrorStack> {
    let now = Asn1Time::days_from_now(0)?;
    let expired = certificate.not_after().compare(&now)?.is_lt();
    let early = certificate.not_before().compare(&now)?.is_gt();
    Ok((expired, early))
}

fn p256() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

fn generate(kind: DeviceKey) -> Result<PKey<Private>, ErrorStack> {
    match kind {
        DeviceKey::P256 => p256(),
        DeviceKey::Rsa4096 => PKey::from_rsa(Rsa::generate(4096)?),
    }
}

/// The first key of a process; see `wake_openssl`.
pub fn wake() -> Result<(), ErrorStack> {
    p256().map(drop)
}

fn make_request(
    key: &PKeyRef<Private>,
    common_name: &str,
    uuid: &str,
) -> Result<X509Req, ErrorStack> {
    let mut subject = X509Name::builder()?;
    for (field, value) in SUBJECT {
        subject.append_entry_by_nid(field, value)?;
    }
    subject.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    let mut request = X509Req::builder()?;
    request.set_version(0)?;
    request.set_subject_name(&subject.build())?;
    request.set_pubkey(key)?;
    let mut extensions: Stack<X509Extension> = Stack::new()?;
    extensions.push(key_usage(key)?)?;
    extensions.push(ExtendedKeyUsage::new().client_auth().build()?)?;
    let name = format!("{UUID_URI}{uuid}");
    let name = SubjectAlternativeName::new()
        .uri(&name)
        .build(&request.x509v3_context(None))?;
    extensions.push(name)?;
    request.add_extensions(&extensions)?;
    request.sign(key, MessageDigest::sha256())?;
    Ok(request.build())
}

fn key_usage(key: &PKeyRef<Private>) -> Result<X509Extension, ErrorStack> {
    let mut usage = KeyUsage::new();
    usage.critical().digital_signature().non_repudiation();
    // Nothing is enciphered to an EC key (RFC 8813).
    if key.id() == Id::RSA {
        usage.key_encipherment();
    }
    usage.build()
}

/// Version 3, as strict readers refuse extensions in version 1 (protocol.md 8.3, F30).
fn self_sign(key: &PKeyRef<Private>, csr: &X509Req) -> Result<X509, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    certificate.set_serial_number(&*serial.to_asn1_integer()?)?;
    certificate.set_subject_name(csr.subject_name())?;
    certificate.set_issuer_name(csr.subject_name())?;
    certificate.set_pubkey(key)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(SELF_SIGNED_DAYS)?)?;
    for extension in csr.extensions()? {
        certificate.append_extension2(&extension)?;
    }
    certificate.sign(key, MessageDigest::sha256())?;
    Ok(certificate.build())
}

#[cfg(test)]
mod tests;
